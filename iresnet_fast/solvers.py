"""How a block inverts itself: small objects that carry the numbers."""

from __future__ import annotations

from dataclasses import dataclass

from iresnet_fast import _checks


@dataclass(frozen=True)
class FixedPoint:
    """Banach iteration x <- z - g(x), each sample stopped by its own certified error (arXiv 1811.00995, section 2).

    Attributes:
        tol: bound on the Euclidean error |x - f^-1(z)| of a sample, in the units of x.
        max_iterations: at most so many updates of x; a sample that needs more is returned as it is, with its residual.
            A CUDA graph may record fewer, see `iresnet_fast.ops.residual_inverse`.

    Raises:
        ValueError: tol is not positive or max_iterations is negative.
        TypeError: max_iterations is not an integer.
    """

    tol: float = 1e-5
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        """Check the fields."""
        _checks.check_tolerance(self.tol)
        _checks.check_count("max_iterations", self.max_iterations, 0)
