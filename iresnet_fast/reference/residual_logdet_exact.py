"""The exact log-determinant of a residual block with few dimensions: the Jacobian of every sample, then slogdet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from iresnet_fast import _checks
from iresnet_fast._determinants import narrowest_stage
from iresnet_fast.reference.branch import evaluate, is_elementwise, linearize, vector_jacobian_product
from iresnet_fast.reference.functional import logdet_exact_of, slogdet_of_rows


def residual_logdet_exact(
    x: Tensor,  # [B, d] or [B, C, H, W]
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    parameters: Sequence[Tensor | None] | None = None,
    factors: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return z = x + g(x) and log|det(I + J)|, J = dg/dx, exactly. Differentiable.

    Memory grows with the square of the event size, or of the width of the narrowest stage of a dense branch; meant for
    up to a few hundred dimensions.

    Arguments, results and errors: those of `iresnet_fast.ops.residual_logdet_exact`.
    """
    _checks.check_branch(x, weights, biases, activations, parameters, factors)
    if not is_elementwise(activations):
        inputs = [t for t in (*weights, *biases, *(parameters or ()), *(factors or ())) if t is not None]
        return logdet_exact_of(lambda a: evaluate(a, weights, biases, activations, parameters, factors), x, inputs)
    gx, derivatives = linearize(x, weights, biases, activations, parameters, factors)
    at, _ = narrowest_stage(weights)
    weights, derivatives = [*weights[at:], *weights[:at]], [*derivatives[at:], *derivatives[:at]]
    event = (weights[0].shape[1], *x.shape[2:])
    d = math.prod(event)
    basis = torch.eye(d, dtype=x.dtype, device=x.device).view(d, 1, *event)
    # The last linear map has no derivative after it: one batch of d unit vectors serves all samples.
    rows = vector_jacobian_product(basis, weights, derivatives).expand(-1, x.shape[0], *event)
    return x + gx, slogdet_of_rows(rows.flatten(2).transpose(0, 1))
