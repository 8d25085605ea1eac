"""The inverse of a residual block by fixed point, on plain evaluations of the branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from iresnet_fast import _checks
from iresnet_fast._tracing import under_transforms
from iresnet_fast.reference.branch import evaluate
from iresnet_fast.reference.fixed_point import Settings, check_settings, iterate
from iresnet_fast.reference.implicit import Contraction, Solution, implicit_inverse


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
    factors: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve x + g(x) = z by x <- z - g(x) from x = z, each sample until residual / (1 - lipschitz) is at most `tol`.

    Arguments, results and errors: those of `iresnet_fast.ops.residual_inverse`.
    """
    _checks.check_branch(z, weights, biases, activations, parameters, factors, name="z")
    none = (None,) * len(weights)
    # With numbers of single samples, those still iterated cannot be evaluated without the others.
    alike = all(t is None or t.dim() == 1 for t in (*biases, *(factors or ())))
    contraction = contraction_of(activations, Settings(lipschitz, tol, max_iterations, alike, accelerate))
    check_settings(contraction.settings)
    tensors = (*weights, *biases, *(parameters or none), *(factors or none))
    if under_transforms() or (
        torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (z, *tensors))
    ):
        return implicit_inverse(contraction, z, *tensors)
    with torch.no_grad():
        return iterate(lambda a: contraction.g(a, *tensors), z, z, contraction.settings)


def contraction_of(
    activations: Sequence[str], settings: Settings, kernel: Callable[..., Solution] | None = None
) -> Contraction:
    """Return the branch of these activations as a map of its input, its weights, biases, parameters and factors."""

    def g(x: Tensor, *tensors: Tensor | None) -> Tensor:
        n = len(tensors) // 4
        weights = cast("Sequence[Tensor]", tensors[:n])
        return evaluate(x, weights, tensors[n : 2 * n], activations, tensors[2 * n : 3 * n], tensors[3 * n :])

    return Contraction(g, settings, kernel)
