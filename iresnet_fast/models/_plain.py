"""What a classifier has beside invertible blocks: a border of zeros, and blocks without a bound."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..nn import Activation
from ..nn._call import DeferredInverse, TakesCall
from ..nn._transform import Transform
from ..reference.fixed_point import inverse_of
from ..solvers import FixedPoint


class Border(Transform):
    """[B, C, H, W] with so many zero pixels more on every side; the inverse crops. The log-determinant is zero."""

    def __init__(self, n_pixels: int) -> None:
        """Build the layer."""
        super().__init__()
        self.n_pixels = n_pixels

    def output_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of an event of z."""
        channels, height, width = event_shape
        return channels, height + 2 * self.n_pixels, width + 2 * self.n_pixels

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and zeros [B]; context is not used."""
        return F.pad(x, (self.n_pixels,) * 4), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z without its border, and zeros [B]; context is not used."""
        return F.pad(z, (-self.n_pixels,) * 4), z.new_zeros(z.shape[0])

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"{self.n_pixels}"


class UnboundedBlock(TakesCall):
    """z = x + g(x), g ordinary convolutions without a bound on their norms: an ordinary residual block.

    Fixed-point iteration may find an inverse, diverge, or find none since there is none: `inverse` says in a warning
    when it did not, and returns where it stopped.

    Args:
        channels: between the layers, and of input and output.
        kernel_sizes: one odd size per layer.
        image_size: (height, width) of x, for the norms of the layers that reports ask for.
        activation: before every layer but the first.
        preactivation: also before the first layer.
        solver: of the inverse; tol bounds |z - x - g(x)|, which bounds no error here.
    """

    takes_context = False

    def __init__(
        self,
        channels: Sequence[int],
        kernel_sizes: Sequence[int],
        image_size: tuple[int, int],
        activation: str,
        preactivation: bool,
        solver: FixedPoint,
    ) -> None:
        """Build the block; the arguments are those of the class."""
        super().__init__()
        layers: list[nn.Module] = []
        for i, k in enumerate(kernel_sizes):
            if i > 0 or preactivation:
                layers.append(Activation(activation))
            layers.append(nn.Conv2d(channels[i], channels[i + 1], k, padding=k // 2))
        self.branch = nn.Sequential(*layers)
        self.activation, self.image_size, self.solver = activation, image_size, solver

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and zeros [B], for the log-determinant is not computed; context is not used."""
        return x + self.branch(x), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return where fixed-point iteration stopped, without gradient, and zeros [B]; warns if that is no inverse."""
        x = self.deferred_inverse(z).x
        return x, x.new_zeros(x.shape[0])

    def deferred_inverse(self, z: Tensor, context: Any = None, logdet: bool = True) -> DeferredInverse:
        """Return the same with the residual of every sample, whose log-determinant is zero."""
        # With 0 for the constant the residual itself is compared with tol. Ten steps without progress end it. There is
        # no contraction to safeguard an acceleration by.
        settings = 0.0, self.solver.tol, self.solver.max_iterations
        x, iterations, residual = inverse_of(self.branch, z.detach(), *settings, accelerate=False)
        missed = ~(residual <= self.solver.tol)
        if bool(missed.any()):
            warnings.warn(
                f"iresnet_fast: {int(missed.sum())} of {z.shape[0]} samples were not inverted, |z - x - g(x)| is up to "
                f"{float(residual.max()):.1e}; nothing bounds a network without coeff: pass one below 1 to invert it.",
                RuntimeWarning,
                stacklevel=2,
            )
        return DeferredInverse(x, lambda call: x.new_zeros(x.shape[0]), ((iterations, residual),))
