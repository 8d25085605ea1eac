"""A fixed scale and shift of the data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .._inputs import check_floating, check_same_device, check_samples
from ._moments import mean_of, variance_of
from ._transform import Transform, for_each_sample


class Affine(Transform):
    """z = scale * x + shift, with fixed numbers: buffers [] or of a shape that broadcasts to an event of x.

    Args:
        scale: not zero.
        shift: any.

    Raises:
        ValueError: a number is not finite, or a scale is zero.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: float | Tensor = 1.0, shift: float | Tensor = 0.0) -> None:
        """Build the layer; the arguments are those of the class."""
        super().__init__()
        for name, value in (("scale", scale), ("shift", shift)):
            if isinstance(value, str) or value is None:
                _checks.check_number(name, value, "0.5")
            number = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.get_default_dtype())
            if not bool(number.isfinite().all()) or (name == "scale" and bool((number == 0).any())):
                raise ValueError(f"{name} must be finite{' and not zero' * (name == 'scale')}, got {value}; change it.")
            self.register_buffer(name, number.detach().clone())

    @classmethod
    def standardize(cls, data: Tensor, noise_variance: Tensor | None = None, weights: Tensor | None = None) -> Affine:
        """Build the map that gives every entry of an event mean 0 and variance 1 over `data` [N, *event].

        Both are computed in float64. An entry that is constant keeps its scale.

        Args:
            data: [N, *event].
            noise_variance: [*event], of independent noise that is going to be added to the data; None: none.
            weights: [N], how much each sample counts; None: all the same.

        Raises:
            ValueError: there is no sample, a value is not finite, or the weights do not fit.
        """
        mean = mean_of(data, weights)
        variance = variance_of(data, mean, weights)
        if noise_variance is not None:
            variance = variance + noise_variance.to(variance)
        scale = torch.where(variance > 0.0, variance.rsqrt(), 1.0)
        dtype = torch.promote_types(data.dtype, torch.float32)
        return cls(scale.to(dtype), (-mean * scale).to(dtype))

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and the log-determinant [B]; context is not used.

        Raises:
            ValueError: the scale or shift does not broadcast to an event of x.
        """
        self._check(x, "x")
        return x * self.scale.to(x.dtype) + self.shift.to(x.dtype), for_each_sample(self._logdet(x), x)

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and the log-determinant of the inverse [B]; context is not used. Errors as in `forward`."""
        self._check(z, "z")
        return (z - self.shift.to(z.dtype)) / self.scale.to(z.dtype), for_each_sample(-self._logdet(z), z)

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return ", ".join(
            f"{name}={float(value):.6g}" if value.dim() == 0 else f"{name}=[{'x'.join(map(str, value.shape))}]"
            for name, value in (("scale", self.scale), ("shift", self.shift))
        )

    def _check(self, x: Tensor, name: str) -> None:
        check_floating(x, name)
        check_samples(x, name)
        event = x.shape[1:]
        for argument, value in (("scale", self.scale), ("shift", self.shift)):
            if value.dim() > 0:  # a number may be anywhere
                check_same_device(x, value, name)
            sizes = zip(reversed(value.shape), reversed(event), strict=False)
            if value.dim() > len(event) or any(a not in (1, b) for a, b in sizes):
                raise ValueError(
                    f"{name} must have events that the {argument} of shape {tuple(value.shape)} broadcasts to, got "
                    f"shape {tuple(x.shape)}; reshape one of them."
                )

    def _logdet(self, x: Tensor) -> Tensor:
        return self.scale.to(x.dtype).abs().log().expand(x.shape[1:]).sum()
