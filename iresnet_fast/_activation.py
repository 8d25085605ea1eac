"""What the registry of activations holds of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """One activation and its derivatives.

    Attributes:
        name: the name used in `activations=[...]`.
        value: phi(a, parameter=None).
        derivative: phi'(a, parameter=None, h=None), `h` = phi(a) if known; None if phi is not elementwise.
        second_derivative: phi''(a, parameter=None, h=None, d=None), `d` = phi'(a) if known; None likewise.
        parameter_derivatives: (d phi/d beta, d phi'/d beta) at (a, parameter=None); None without a parameter.
        lipschitz: the Lipschitz constant, for lipswish an upper bound.
        least_slope: the infimum of phi', or a lower bound; without meaning if phi is not elementwise.
        has_parameter: phi takes a learnable scalar beta.
        pairwise: phi mixes pairs of channels; an odd last one stays as it is.
        expansion: number of output channels for each input channel.
        piecewise_linear: phi'' is zero wherever it exists, so its terms can be left out.
        kernel_id: the number the compiled kernels know it by; None: no kernel.
        constant: the fixed number of a family, such as 0.2 of "leaky_relu(0.2)"; zero without one.
        internal: the package makes it of others; no name for users.
    """

    name: str
    value: Callable[..., Tensor]
    derivative: Callable[..., Tensor] | None
    second_derivative: Callable[..., Tensor] | None
    kernel_id: int | None
    parameter_derivatives: Callable[..., tuple[Tensor, Tensor]] | None = None
    lipschitz: float = 1.0
    least_slope: float = 0.0
    has_parameter: bool = False
    pairwise: bool = False
    piecewise_linear: bool = False
    constant: float = 0.0
    expansion: int = 1
    internal: bool = False

    @property
    def elementwise(self) -> bool:
        """Whether every channel is treated by itself."""
        return self.derivative is not None
