"""The inverse of a residual block by fixed point, on plain evaluations of the branch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from iresnet_fast import _checks
from iresnet_fast.reference.branch import evaluate
from iresnet_fast.reference.fixed_point import inverse_of


def residual_inverse(
    z: Tensor,  # [B, d] or [B, C, H, W]
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    lipschitz: float,
    tol: float = 1e-5,
    max_iterations: int = 1000,
    parameters: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve x + g(x) = z by x <- z - g(x) from x = z, each sample until its certified error is below `tol`.

    Certified error: |x - x*| <= residual / (1 - lipschitz) (i-ResNet, arXiv 1811.00995, section 2). Converged samples
    are frozen; a sample stops unconverged, which its residual tells, at `max_iterations`, at a NaN, or when ten
    evaluations brought no better residual (the floor of rounding, or no contraction). Gradients to z, weights, biases
    and parameters by the implicit function theorem, to the relative tolerance `tol`.

    Arguments, results and errors: those of `iresnet_fast.ops.residual_inverse`.
    """
    _checks.check_branch(z, weights, biases, activations, parameters, name="z")
    inputs = [t for t in (*weights, *biases, *(parameters or ())) if t is not None]
    return inverse_of(
        lambda a: evaluate(a, weights, biases, activations, parameters),
        z,
        lipschitz,
        tol,
        max_iterations,
        inputs,
        compact=True,
    )
