"""What takes most of the noise of tr J's estimate where J begins with an activation, which makes tr J itself dear."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._autocast import widen
from .._backend import kernels_serve
from .._lowering import lowered
from .._stages import Stages
from .._trace_costs import cheapest
from .._traces import chain_products
from .._tracing import is_eager
from ..ops import jacobian_traces, residual_logdet
from ..reference.branch import activate


def has_control(stages: Stages, image_size: Sequence[int]) -> bool:
    """Whether J of elementwise stages begins with a derivative that makes tr J dear, and tr J' is cheap."""
    if stages.activations[0] == "identity" and stages.factors[0] is None:
        return False
    step = chain_products(stages.weights, math.prod(image_size))
    own, rest = (
        cheapest(some.weights, some.activations, some.factors, image_size, 1, False).products
        for some in (stages, _without_leading_activation(stages))
    )
    return own > step >= rest


def trace_control(
    x: Tensor,  # [B, d] or [B, C, H, W]
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    probe: Tensor,
    parameters: Sequence[Tensor | None] | None = None,
    factors: Sequence[Tensor | None] | None = None,
) -> Tensor | None:
    """Return what to add to the mean of <v, J v> over probes v to make it less noisy, [B]; its own mean is zero.

    That is tr K - mean of <v, K v> with K = c J', J' = J without the D_0 of its leading activation and c the mean of
    D_0 over the sample: K is as near to J as D_0 is to a constant, and its trace is cheap (a control variate). Of mean
    zero for probes of independent entries of mean zero and variance one. Without a gradient: that of a mean of zero.

    Args:
        x: [B, d] or [B, C, H, W].
        weights: those of the branch, as for `residual_logdet`; the others likewise.
        biases: likewise.
        activations: likewise.
        probe: v, the shape of x, or [m, *x.shape].
        parameters: likewise.
        factors: likewise.

    Returns:
        [B], or None where tr J itself is as cheap, tr J' is not, or the kernels do not serve the call.
    """
    x, weights, biases, parameters, factors, probe = widen(x, weights, biases, parameters, factors, probe)
    with torch.no_grad():
        stages = lowered(weights, biases, activations, parameters, factors)
        if not (is_eager() and kernels_serve(x, activations) and has_control(stages, x.shape[2:])):
            return None
        after = _without_leading_activation(stages)
        h, d = activate(stages.activations[0], x, stages.parameters[0], stages.factors[0])
        assert d is not None
        branch = (after.weights, after.biases, after.activations)
        trace = jacobian_traces(h, *branch, 1, after.parameters, after.factors)[:, 0]
        _, estimate = residual_logdet(  # type: ignore[misc]  # no info was asked for
            h, *branch, probe, [1.0], parameters=after.parameters, factors=after.factors
        )
        return d.flatten(1).mean(1) * (trace - estimate)


def _without_leading_activation(stages: Stages) -> Stages:
    return stages._replace(
        activations=("identity", *stages.activations[1:]),
        parameters=[None, *stages.parameters[1:]],
        factors=[None, *stages.factors[1:]],
    )
