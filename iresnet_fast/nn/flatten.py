"""Images to vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import _checks
from .._inputs import check_shape
from ._transform import Transform


class Flatten(Transform):
    """[B, *event_shape] to [B, d]. The log-determinant is zero.

    Args:
        event_shape: shape of one x, which the inverse restores.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(self, event_shape: Sequence[int]) -> None:
        """Build the layer; the arguments are those of the class."""
        super().__init__()
        self.event_shape = _checks.check_sizes("event_shape", event_shape)

    def output_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return (d,); raises ValueError if `event_shape` is not that of the layer."""
        if tuple(event_shape) != self.event_shape:
            raise ValueError(
                f"x must have shape [B, {', '.join(map(str, self.event_shape))}], got events of shape "
                f"{tuple(event_shape)}; build Flatten with that shape."
            )
        return (math.prod(self.event_shape),)

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z [B, d] and zeros [B]; context is not used.

        Raises:
            ValueError: x does not have the event_shape.
        """
        check_shape(x, self.event_shape)
        size = math.prod(self.event_shape)
        return x.reshape(x.shape[0], size), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x [B, *event_shape] and zeros [B]; context is not used.

        Raises:
            ValueError: z is not [B, d].
        """
        size = math.prod(self.event_shape)
        check_shape(z, (size,), "z")
        return z.reshape(z.shape[0], *self.event_shape), z.new_zeros(z.shape[0])

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"{self.event_shape}"
