"""tr J and tr J^2 of a branch, exactly, on the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .. import _checks, reference
from .._autocast import widen
from .._backend import kernels_serve
from .._inputs import check_tensor
from .._lowering import lowered
from .._trace_costs import cheapest
from .._traces import MOST_TERMS, coloured_probes
from .._tracing import is_eager, under_transforms
from ._local_jacobian import local_traces
from ._stages import Stages
from .residual_logdet import residual_logdet

_WORKSPACE = 1 << 26  # bytes that the probes of one call of a kernel may take, for all samples

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

    In closed form for one or two layers, and for three dense ones, where that is known (docs/mathematics.md, 3a). Else,
    without a gradient, from J itself, as a band that products at each pixel make, if only the first and the last
    convolution mix pixels; or by probes that are zero but on pixels too far apart to be connected by J^k: at most as
    many products with J^T as events have numbers, for convolutions of few channels far less. What costs least is done.

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
    differentiable = Stages.of(x, *stages).need_gradient(x)
    # A graph is no place for loops over slices, of which there are more or fewer as batches grow.
    sliced = is_eager()
    lists = (stages.weights, stages.activations, stages.factors)
    way = cheapest(*lists, x.shape[2:], n_terms, differentiable or not sliced)
    if way.ring is not None:
        return local_traces(x, stages, way.ring, n_terms)

    def mean_over(probe: Tensor, k: int, exact_terms: int) -> Tensor:
        # The gradient of <w_2, v> by its Neumann vector is that of tr J^2, but is not to be differentiated again.
        _, logdet = residual_logdet(  # type: ignore[misc]  # no info was asked for
            x,
            weights,
            biases,
            activations,
            probe,
            _ALONE[k - 1],
            "series" if k == 2 and not exact_terms else "neumann",
            parameters=parameters,
            factors=factors,
            exact_terms=exact_terms,
        )
        return logdet

    def sum_over(probes: Tensor, k: int) -> Tensor:
        return len(probes) * mean_over(probes.unsqueeze(1).expand(-1, x.shape[0], *x.shape[1:]), k, 0)

    traces = []
    for k in range(1, n_terms + 1):
        if k <= len(way.places):
            traces.append(mean_over(torch.zeros_like(x), k, k))
            continue
        probes = coloured_probes(x, [weight.shape[2:] for weight in weights], k)
        most = max(1, _WORKSPACE // max(1, x.numel() * x.element_size())) if sliced else len(probes)
        if len(probes) <= most:
            traces.append(sum_over(probes, k))
        elif differentiable:
            # What one slice keeps for its gradient is made again when that is computed.
            parts = [
                checkpoint(sum_over, own, k, use_reentrant=False, preserve_rng_state=False)
                for own in torch.split(probes, most)
            ]
            traces.append(torch.stack(parts).sum(0))
        else:
            traces.append(torch.stack([sum_over(own, k) for own in torch.split(probes, most)]).sum(0))
    return torch.stack(traces, 1)
