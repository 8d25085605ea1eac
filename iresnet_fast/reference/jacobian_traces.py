"""tr J and tr J^2 of a branch, exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iresnet_fast import _checks
from iresnet_fast._lowering import lowered
from iresnet_fast._stages import Stages
from iresnet_fast._traces import MOST_TERMS, Places, coloured_probes, maps_of, own_maps, places_at
from iresnet_fast.reference.branch import evaluate, linear, linearize
from iresnet_fast.reference.functional import traces_of


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

    Arguments, results and errors: those of `iresnet_fast.ops.jacobian_traces`.
    """
    _checks.check_branch(x, weights, biases, activations, parameters, factors)
    _checks.check_exact_terms(n_terms, 1)
    stages = lowered(weights, biases, activations, parameters, factors)
    places = places_at(stages.weights, stages.activations, stages.factors)[:n_terms]
    if len(places) == n_terms:
        maps = maps_of(places, stages.weights, x.shape[2:])
        return torch.stack(traces_of_maps(x, stages, places, maps), 1)
    inputs = [t for t in (*weights, *biases, *(parameters or ()), *(factors or ())) if t is not None]
    probes = coloured_probes(x, [weight.shape[2:] for weight in weights], n_terms)
    return traces_of(
        lambda a: evaluate(a, weights, biases, activations, parameters, factors), x, probes, n_terms, inputs
    )


def traces_of_maps(x: Tensor, stages: Stages, places: Places, maps: Sequence[Tensor]) -> list[Tensor]:
    """Return the traces [B] of elementwise stages by their maps, as `_traces` describes them."""
    if not places:
        return []
    places, maps = own_maps(places, stages.weights, x.shape[2:], maps)
    derivatives = linearize(x, *stages)[1]
    traces = []
    for (left, right), made in zip(places, maps, strict=True):
        d_left, d_right = derivatives[left], None if right < 0 else derivatives[right]
        assert d_left is not None  # no stage of a place is an identity
        product = d_left * (made if d_right is None else linear(d_right, made))
        traces.append(product.flatten(1).sum(1))
    return traces
