"""Spectral norms shared out over the processes of torch.distributed: each iterates some layers, all get all."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from .. import ops
from ..geometry import ConvGeometry
from ._layer import SpectralLayer

# Kept outside the modules: copies, on which one process alone may evaluate, are not in it.
_process_groups: weakref.WeakKeyDictionary[SpectralLayer, distributed.ProcessGroup] = weakref.WeakKeyDictionary()


@contextmanager
def shard_spectral_norms(model: nn.Module, process_group: distributed.ProcessGroup | None = None) -> Iterator[None]:
    """Let each process iterate a share of the spectral layers of `model`, inside the block.

    A refresh is then a collective: the processes must hold the same weights and run the model equally often, as in
    distributed training. All get the same sigma, u and v, the bits that each would have computed by itself. Copies of
    the model, made inside the block or before, are not affected.

    Args:
        model: any module that contains SpectralLinear or SpectralConv2d layers.
        process_group: who shares; None: all processes.

    Raises:
        RuntimeError: torch.distributed is not initialised.
    """
    group = process_group or _all_processes()
    if group is None:
        raise RuntimeError(
            "shard_spectral_norms: torch.distributed must be initialised, got no process group; call "
            "torch.distributed.init_process_group, or run without sharding."
        )
    layers = [module for module in model.modules() if isinstance(module, SpectralLayer)]
    for layer in layers:
        _process_groups[layer] = group
    try:
        yield
    finally:
        for layer in layers:
            _process_groups.pop(layer, None)


def process_group_of(layer: SpectralLayer) -> distributed.ProcessGroup | None:
    """Return the processes that share this layer's refreshes; None: there are no others."""
    return _process_groups.get(layer)


def shared_spectral_norm(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    geometry: Sequence[ConvGeometry | None],
    n_iterations: int,
    tol: float | None,
    process_group: distributed.ProcessGroup,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return sigmas, us, vs as `ops.spectral_norm` does, each layer iterated by one process; a collective."""
    costs = [_cost(weight, place) for weight, place in zip(weights, geometry, strict=True)]
    parts = shares(costs, distributed.get_world_size(process_group))
    mine = parts[distributed.get_rank(process_group)]
    own_sigmas, own_us, own_vs, _ = ops.spectral_norm(
        [weights[i] for i in mine],
        [us[i] for i in mine],
        [vs[i] for i in mine],
        [geometry[i] for i in mine],
        n_iterations,
        tol,
    )
    # A process sends one row: sigma, u and v of each of its layers, and zeros up to the length of the longest row.
    sizes = [(1, u.numel(), v.numel()) for u, v in zip(us, vs, strict=True)]
    lengths = [[size for i in part for size in sizes[i]] for part in parts]
    row = weights[0].new_zeros(max(map(sum, lengths)))
    sent = [x.flatten() for layer in zip(own_sigmas, own_us, own_vs, strict=True) for x in layer]
    if sent:
        torch.cat(sent, out=row[: sum(x.numel() for x in sent)])
    rows = row.new_empty(len(parts), row.numel())
    distributed.all_gather(list(rows.unbind()), row, process_group)
    results: list[tuple[Tensor, ...]] = [()] * len(costs)
    for part, sizes_of_part, received in zip(parts, lengths, rows, strict=True):
        pieces = received[: sum(sizes_of_part)].split(sizes_of_part)
        for k, i in enumerate(part):
            results[i] = pieces[3 * k : 3 * k + 3]
    return (
        torch.cat([sigma for sigma, _, _ in results]),
        [new.view(u.shape) for (_, new, _), u in zip(results, us, strict=True)],
        [new.view(v.shape) for (_, _, new), v in zip(results, vs, strict=True)],
    )


def _all_processes() -> distributed.ProcessGroup | None:
    return distributed.group.WORLD if distributed.is_available() and distributed.is_initialized() else None


def shares(costs: Sequence[int], n: int) -> list[list[int]]:
    """Return n lists of indices with about equal sums of costs: the largest first, each to who has least so far."""
    parts: list[list[int]] = [[] for _ in range(n)]
    loads = [0] * n
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        lightest = loads.index(min(loads))
        parts[lightest].append(i)
        loads[lightest] += costs[i]
    return parts


def _cost(weight: Tensor, place: ConvGeometry | None) -> int:
    """Return the multiplications of one product with the operator."""
    if place is None:
        return weight.numel()
    return weight.numel() * math.prod(place.output_size((weight.shape[2], weight.shape[3])))
