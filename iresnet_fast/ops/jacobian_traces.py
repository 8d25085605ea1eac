"""tr J and tr J^2 of a branch, exactly, on the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks, reference
from .._autocast import widen
from .._backend import kernels_serve
from .._inputs import check_tensor
from .._lowering import lowered
from .._traces import MOST_TERMS, coloured_probes, places_of
from .._tracing import under_transforms
from .residual_logdet import residual_logdet

# With these coefficients the series of a log-determinant is tr J, or tr J^2, alone.
_ALONE = ([1.0], [0.0, -2.0])


def jacobian_traces(
    x: Tensor,  # [B, d] or [B, C, H, W]
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    n_terms: int = MOST_TERMS,
    parameters: Sequence[Tensor | None] | None = None,
    factors: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Return tr J^k, k = 1 .. n_terms, of every sample, [B, n_terms], J = dg/dx.

    In closed form for one or two layers, and for three dense ones, where that is known (docs/mathematics.md, 3a). Else
    by probes that are zero but on pixels too far apart to be connected by J^k: at most as many products with J^T as
    events have numbers, for convolutions of few channels far less.

    Args:
        x: [B, d] or [B, C, H, W].
        weights: L tensors, [out, in] (dense) or [out, in, k, k] (convolution, odd k, stride 1, zero padding k // 2).
        biases: L tensors, [out], [B, out] or, for images, [B, out, H, W], or None each.
        activations: L names, each applied before its linear map.
        n_terms: 1 or 2.
        parameters: None, or L entries, each None or the activation's learnable scalar.
        factors: None, or L entries, each None or a tensor [B, in], for images also [B, in, H, W], that multiplies what
            the activation returns.

    Returns:
        [B, n_terms], differentiable in x and all tensors of the stages (a second time through the reference).

    Raises:
        ValueError: a shape, device, name or range does not fit.
        TypeError: a dtype differs from that of x.
    """
    check_tensor(x)
    x, weights, biases, parameters, factors = widen(x, weights, biases, parameters, factors)
    _checks.check_branch(x, weights, biases, activations, parameters, factors)
    _checks.check_exact_terms(n_terms, 1)
    if not kernels_serve(x, activations) or under_transforms():
        return reference.jacobian_traces(x, weights, biases, activations, n_terms, parameters, factors)
    stages = lowered(weights, biases, activations, parameters, factors)
    n_closed = len(places_of(stages.weights, stages.activations, stages.factors))
    traces = []
    for k in range(1, n_terms + 1):
        if k <= n_closed:
            probe, exact_terms = torch.zeros_like(x), k
        else:
            probes = coloured_probes(x, [weight.shape[2:] for weight in weights], k)
            probe, exact_terms = probes.unsqueeze(1).expand(-1, x.shape[0], *x.shape[1:]), 0
        n_probes = probe.shape[0] if probe.dim() > x.dim() else 1
        _, mean = residual_logdet(  # type: ignore[misc]  # no info was asked for
            x,
            weights,
            biases,
            activations,
            probe,
            _ALONE[k - 1],
            parameters=parameters,
            factors=factors,
            exact_terms=exact_terms,
        )
        traces.append(n_probes * mean)
    return torch.stack(traces, 1)
