"""Space to channels: the pixels of every small square become channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .. import _checks
from .._inputs import check_tensor
from ._transform import Transform


class Squeeze(Transform):
    """[B, C, H, W] to [B, C f^2, H / f, W / f], in the order of torch.nn.PixelUnshuffle (Real NVP, arXiv 1605.08803).

    Channel c f^2 + i f + j of z holds the pixels (i, j) of the f x f squares of channel c. The log-determinant is zero.

    Args:
        factor: f.

    Raises:
        ValueError: factor is below 2.
        TypeError: factor is not an integer.
    """

    def __init__(self, factor: int = 2) -> None:
        """Build the layer; the arguments are those of the class."""
        super().__init__()
        _checks.check_count("factor", factor, 2)
        self.factor = factor

    def output_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of an event of z; raises ValueError if its height or width does not divide."""
        f = self.factor
        if len(event_shape) != 3 or event_shape[1] % f or event_shape[2] % f:
            raise ValueError(
                f"x must have shape [B, C, H, W] with H and W divisible by {f}, got events of shape "
                f"{tuple(event_shape)}; pad or crop the images."
            )
        channels, height, width = event_shape
        return channels * f * f, height // f, width // f

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and zeros [B]; context is not used.

        Raises:
            ValueError: x is not [B, C, H, W] with H and W divisible by the factor.
        """
        check_tensor(x)
        f = self.factor
        if x.dim() != 4 or x.shape[2] % f or x.shape[3] % f:
            raise ValueError(
                f"x must have shape [B, C, H, W] with H and W divisible by {f}, got {tuple(x.shape)}; "
                f"{'add the batch dimension, x[None]' if x.dim() == 3 else 'pad, crop or reshape the images'}."
            )
        shape = self.output_shape(x.shape[1:])
        # F.pixel_unshuffle returns an empty batch as it is.
        squares = x.reshape(*x.shape[:2], shape[1], f, shape[2], f).permute(0, 1, 3, 5, 2, 4)
        return squares.reshape(x.shape[0], *shape), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and zeros [B]; context is not used.

        Raises:
            ValueError: z is not [B, C f^2, H, W].
        """
        check_tensor(z, "z")
        if z.dim() != 4 or z.shape[1] % self.factor**2:
            raise ValueError(
                f"z must have shape [B, C, H, W] with C divisible by {self.factor**2}, got {tuple(z.shape)}; pass what "
                f"forward returned."
            )
        return F.pixel_shuffle(z, self.factor), z.new_zeros(z.shape[0])

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"factor={self.factor}"
