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
    accelerate: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve x + g(x) = z by x <- z - g(x) from x = z, each sample until residual / (1 - lipschitz) is at most `tol`.

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
        accelerate=accelerate,
    )
