"""How a block inverts itself: small objects that carry the numbers."""

from __future__ import annotations

from dataclasses import dataclass

from iresnet_fast import _checks

ON_FAILURE = ("warn", "raise")


@dataclass(frozen=True)
class FixedPoint:
    """Fixed-point iteration x <- z - g(x), each sample stopped by its own certified error.

    Sources: the iteration, i-ResNet (arXiv 1811.00995, section 2); its acceleration, Walker and Ni, Anderson
    acceleration for fixed-point iterations (SIAM J. Numer. Anal. 49, 2011), window 5, safeguarded: a sample takes at
    most one evaluation more than the contraction guarantees (docs/mathematics.md, 5).

    Attributes:
        tol: bound on the Euclidean error |x - f^-1(z)| of a sample, in the units of x.
        max_iterations: at most so many updates of x; a sample that needs more is returned as it is, with its error.
            A CUDA graph may record fewer, see `iresnet_fast.ops.residual_inverse`.
        accelerate: by Anderson's method; False: the plain iteration.
        refine: samples whose certified error float32 left above tol go on in float64; x is rounded to float32 at the
            end, which alone may keep its error above tol where |x| is large.
        on_failure: what `inverse` does if a sample is not within tol: "warn" with the numbers, or "raise" RuntimeError.

    Raises:
        ValueError: tol is not positive, max_iterations is negative or on_failure is another word.
        TypeError: max_iterations is not an integer.
    """

    tol: float = 1e-5
    max_iterations: int = 1000
    accelerate: bool = True
    refine: bool = True
    on_failure: str = "warn"

    def __post_init__(self) -> None:
        """Check the fields."""
        _checks.check_tolerance(self.tol)
        _checks.check_count("max_iterations", self.max_iterations, 0)
        _checks.check_flag("accelerate", self.accelerate)
        _checks.check_flag("refine", self.refine)
        _checks.check_choice("on_failure", self.on_failure, ON_FAILURE)
