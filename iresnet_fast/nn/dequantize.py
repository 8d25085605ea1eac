"""From integers to a continuous variable, by noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .._inputs import check_floating, check_samples
from .._keys import hashed_uniform
from .._tracing import drawn_from
from ._call import Call, TakesCall
from ._transform import Transform, can_look_at, check_range


class Dequantize(TakesCall, Transform):
    """z = (x + u) / n_levels in [0, 1], u uniform in [0, 1) and x whole numbers below n_levels (arXiv 1511.01844).

    The expectation over u of the log-density of z plus the log-determinant, -d log(n_levels), is a lower bound of the
    log-likelihood of x. The inverse rounds down.

    Args:
        n_levels: number of values, 256 for bytes.
        eval_noise: outside training "fixed": uniform noise that is a function of the bits of each sample and a seed,
            so the same in any batch; "random": new noise; "half": u = 1/2, but no bound any more.
        eval_seed: of the fixed noise.
        generator: of the random noise, on the device of x; None: torch's global one.

    Raises:
        ValueError: an argument is out of range.
        TypeError: an integer argument is not an integer.
    """

    def __init__(
        self,
        n_levels: int = 256,
        eval_noise: str = "fixed",
        eval_seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the layer; the arguments are those of the class."""
        super().__init__()
        _checks.check_count("n_levels", n_levels, 1)
        _checks.check_seed("eval_seed", eval_seed)
        if eval_noise not in ("fixed", "random", "half"):
            raise ValueError(f"eval_noise must be 'fixed', 'random' or 'half', got {eval_noise!r}; use one of them.")
        self.n_levels, self.eval_noise, self.eval_seed, self.generator = n_levels, eval_noise, eval_seed, generator

    def forward(self, x: Tensor, context: Any = None, call: Call | None = None) -> tuple[Tensor, Tensor]:
        """Return z and the log-determinant [B]; context is not used.

        Args:
            x: [B, *event], whole numbers of any dtype; z has torch's default dtype if that of x is an integer one.
            context: not used.
            call: of the container, if there is one.

        Raises:
            ValueError: x has other values, as far as they can be read without waiting for a device.
        """
        check_samples(x)
        if x.is_complex():
            check_floating(x)
        advice = f"multiply images in [0, 1] by {self.n_levels - 1}, and check the data for NaN"
        check_range(x, 0, self.n_levels - 1, advice)
        if x.is_floating_point() and can_look_at(x) and not torch.equal(x, x.floor()):
            raise ValueError(f"x must hold whole numbers, got fractions; {advice}.")
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return (x + self._noise(x, Call.given(call, x))) / self.n_levels, self._logdet(x, 1.0)

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x = floor(n_levels z), kept in 0 .. n_levels - 1, and the log-determinant of the inverse [B].

        x has the dtype of z and no gradient; context is not used.
        """
        check_floating(z, "z")
        check_samples(z, "z")
        return (z.detach() * self.n_levels).floor().clamp(0, self.n_levels - 1), self._logdet(z, -1.0)

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"n_levels={self.n_levels}, eval_noise={self.eval_noise!r}"

    def _noise(self, x: Tensor, call: Call) -> Tensor | float:
        noise = uniform_noise(self, x, call)
        if noise is None:
            return 0.5
        # So near to a whole number that adding, dividing and multiplying back could round to the next one.
        margin = min(2.0 * self.n_levels * torch.finfo(x.dtype).eps, 0.5)
        return noise.clamp(margin, 1.0 - margin)

    def _logdet(self, x: Tensor, sign: float) -> Tensor:
        value = -sign * math.prod(x.shape[1:]) * math.log(self.n_levels)
        return torch.full((x.shape[0],), value, dtype=x.dtype, device=x.device)


def uniform_noise(layer: Any, x: Tensor, call: Call) -> Tensor | None:
    """Return uniform noise in [0, 1), the shape of x, as mode and `eval_noise` of a layer say; None for "half"."""
    if layer.training or layer.eval_noise == "random":
        return torch.rand(x.shape, dtype=x.dtype, device=x.device, **drawn_from(layer.generator))
    return hashed_uniform(call.keys(), x, layer.eval_seed) if layer.eval_noise == "fixed" else None
