"""Space to channels: the pixels of every small square, or other rectangle, become channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import _checks
from .._inputs import check_tensor
from ._transform import Transform


class Squeeze(Transform):
    """[B, C, H, W] to [B, C f^2, H / f, W / f], in the order of torch.nn.PixelUnshuffle (Real NVP, arXiv 1605.08803).

    Channel c f^2 + i f + j of z holds the pixels (i, j) of the f x f squares of channel c. With two factors the squares
    are rectangles of f x g pixels: (1, 2) is for signals as images of one row. The log-determinant is zero.

    Args:
        factor: f, or (f, g).

    Raises:
        ValueError: factor is below 2, or one of two is below 1 or both are 1.
        TypeError: factor is no integer and no two of them.
    """

    def __init__(self, factor: int | Sequence[int] = 2) -> None:
        """Build the layer; the arguments are those of the class."""
        super().__init__()
        self.factor: int | tuple[int, int]
        if isinstance(factor, (tuple, list)):
            if len(factor) != 2 or tuple(factor) == (1, 1):
                raise ValueError(f"factor must be a number from 2 on, or two of which one is, got {factor}; pass 2.")
            for one in factor:
                _checks.check_count("every number of factor", one, 1)
            self.factor = (factor[0], factor[1])
            return
        _checks.check_count("factor", factor, 2)  # type: ignore[arg-type]  # which is what is looked at
        self.factor = factor  # type: ignore[assignment]

    @property
    def _factors(self) -> tuple[int, int]:
        return (self.factor, self.factor) if isinstance(self.factor, int) else self.factor

    @property
    def _divisible(self) -> str:
        f, g = self._factors
        return f"H and W divisible by {f}" if f == g else f"H divisible by {f} and W by {g}"

    def output_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of an event of z; raises ValueError if its height or width does not divide."""
        f, g = self._factors
        if len(event_shape) != 3 or event_shape[1] % f or event_shape[2] % g:
            raise ValueError(
                f"x must have shape [B, C, H, W] with {self._divisible}, got events of shape {tuple(event_shape)}; pad "
                f"or crop the images."
            )
        channels, height, width = event_shape
        return channels * f * g, height // f, width // g

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and zeros [B]; context is not used.

        Raises:
            ValueError: x is not [B, C, H, W] with H and W divisible by the factors.
        """
        check_tensor(x)
        f, g = self._factors
        if x.dim() != 4 or x.shape[2] % f or x.shape[3] % g:
            raise ValueError(
                f"x must have shape [B, C, H, W] with {self._divisible}, got {tuple(x.shape)}; "
                f"{'add the batch dimension, x[None]' if x.dim() == 3 else 'pad, crop or reshape the images'}."
            )
        shape = self.output_shape(x.shape[1:])
        # F.pixel_unshuffle returns an empty batch as it is.
        squares = x.reshape(*x.shape[:2], shape[1], f, shape[2], g).permute(0, 1, 3, 5, 2, 4)
        return squares.reshape(x.shape[0], *shape), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and zeros [B]; context is not used.

        Raises:
            ValueError: z is not [B, C f g, H, W].
        """
        check_tensor(z, "z")
        f, g = self._factors
        if z.dim() != 4 or z.shape[1] % (f * g):
            raise ValueError(
                f"z must have shape [B, C, H, W] with C divisible by {f * g}, got {tuple(z.shape)}; pass what forward "
                f"returned."
            )
        n, channels, height, width = z.shape
        squares = z.reshape(n, channels // (f * g), f, g, height, width).permute(0, 1, 4, 2, 5, 3)
        return squares.reshape(n, channels // (f * g), height * f, width * g), z.new_zeros(n)

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"factor={self.factor}"
