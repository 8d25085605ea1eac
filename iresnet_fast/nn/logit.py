"""The logit of data in [0, 1]."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks
from .._inputs import check_floating, check_samples
from ._transform import Transform, check_range


class Logit(Transform):
    """z = logit(s), s = alpha + (1 - 2 alpha) x, for x in [0, 1] (Real NVP, arXiv 1605.08803, section 4.1).

    Args:
        alpha: keeps z finite at 0 and 1; Residual Flows use 0.05, and 1e-6 for MNIST.

    Raises:
        ValueError: alpha is not in [0, 0.5).
    """

    def __init__(self, alpha: float = 0.05) -> None:
        """Build the layer; the argument is that of the class."""
        super().__init__()
        _checks.check_number("alpha", alpha, "0.05")
        if not 0.0 <= alpha < 0.5:
            raise ValueError(f"alpha must be in [0, 0.5), got {alpha}; pass e.g. 0.05.")
        self.alpha = float(alpha)

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z, the shape of x, and the log-determinant [B]; context is not used.

        Raises:
            ValueError: x has values outside [0, 1], as far as they can be read without waiting for a device.
        """
        check_floating(x)
        check_samples(x)
        check_range(x, 0.0, 1.0, "scale the data, e.g. by Dequantize")
        z = torch.logit(self.alpha + (1.0 - 2.0 * self.alpha) * x)
        return z, self._logdet(z)

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and the log-determinant of the inverse [B]; context is not used.

        x lies in [-alpha, 1 + alpha] / (1 - 2 alpha): beyond [0, 1] if z is beyond the image of the data.
        """
        check_floating(z, "z")
        check_samples(z, "z")
        return (torch.sigmoid(z) - self.alpha) / (1.0 - 2.0 * self.alpha), -self._logdet(z)

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"alpha={self.alpha}"

    def _logdet(self, z: Tensor) -> Tensor:
        # dz/dx = (1 - 2 alpha) / (s (1 - s)), and s = sigmoid(z): no digit is lost near 0 and 1.
        return (F.softplus(z) + F.softplus(-z) + math.log1p(-2.0 * self.alpha)).sum(tuple(range(1, z.dim())))
