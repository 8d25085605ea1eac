"""Zero channels appended to the input: more width for an invertible network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .._inputs import check_samples, check_tensor
from ._transform import Transform


class InjectivePad(Transform):
    """[B, C, ...] to [B, C + n_channels, ...] by channels of zeros (i-ResNet, arXiv 1811.00995).

    An injection, not a bijection: the log-determinant is reported as zero, but a density of z is none of x. Use it to
    classify, and NoisePad for densities. `inverse` drops the channels, which projects z orthogonally onto the image;
    `distance` says how far z was from it, zero if z came from `forward`.

    Args:
        n_channels: channels of zeros to append.

    Raises:
        ValueError: n_channels is negative.
        TypeError: n_channels is not an integer.
    """

    def __init__(self, n_channels: int) -> None:
        """Build the layer; the arguments are those of the class."""
        super().__init__()
        _checks.check_count("n_channels", n_channels, 0)
        self.n_channels = n_channels

    def output_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of an event of z; raises ValueError if an event has no channels."""
        if len(event_shape) < 1:
            raise ValueError(f"x must have shape [B, C, ...], got events of shape {tuple(event_shape)}; reshape it.")
        return (event_shape[0] + self.n_channels, *event_shape[1:])

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and zeros [B]; context is not used.

        Raises:
            ValueError: x has no channels.
        """
        check_samples(x)
        zeros = x.new_zeros(x.shape[0], self.n_channels, *x.shape[2:])
        return torch.cat((x, zeros), 1), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z without the padding, and zeros [B]; context is not used.

        Raises:
            ValueError: z has no channels beside the padding.
        """
        return self._split(z)[0], z.new_zeros(z.shape[0])

    def distance(self, z: Tensor) -> Tensor:
        """Return the Euclidean distance [B] of z from the padded inputs: the norm of what `inverse` drops."""
        norm: Tensor = torch.linalg.vector_norm(self._split(z)[1].flatten(1), dim=1)
        return norm

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"{self.n_channels}"

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        check_tensor(z, "z")
        if z.dim() < 2 or z.shape[1] <= self.n_channels:
            raise ValueError(
                f"z must have shape [B, C, ...] with more than {self.n_channels} channels, got {tuple(z.shape)}; pass "
                f"what forward returned."
            )
        n = z.shape[1] - self.n_channels
        return z[:, :n], z[:, n:]
