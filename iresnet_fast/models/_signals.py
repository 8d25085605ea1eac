"""Signals as images of one row, which convolutions and their kernels take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .._inputs import check_tensor
from ..nn._transform import Transform


class SignalAsImage(Transform):
    """[B, C, L] to [B, C, 1, L]. The log-determinant is zero."""

    def output_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return (C, 1, L); raises ValueError if `event_shape` is not (C, L)."""
        if len(event_shape) != 2:
            raise ValueError(f"x must have shape [B, C, L], got events of shape {tuple(event_shape)}; reshape it.")
        channels, length = event_shape
        return channels, 1, length

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z [B, C, 1, L] and zeros [B]; context is not used. Raises ValueError if x is not [B, C, L]."""
        check_tensor(x)
        self.output_shape(x.shape[1:])
        return x.unsqueeze(2), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x [B, C, L] and zeros [B]; context is not used. Raises ValueError if z is not [B, C, 1, L]."""
        check_tensor(z, "z")
        if z.dim() != 4 or z.shape[2] != 1:
            raise ValueError(f"z must have shape [B, C, 1, L], got {tuple(z.shape)}; pass what forward returned.")
        return z.squeeze(2), z.new_zeros(z.shape[0])
