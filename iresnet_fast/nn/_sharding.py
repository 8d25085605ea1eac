"""Spectral norms shared out over the processes of torch.distributed: each iterates some layers, all get all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from .. import ops
from ..geometry import ConvGeometry
from ._operators import Operators


def shared_lanczos_norm(
    operators: Operators, n_iterations: int, tol: float, process_group: distributed.ProcessGroup
) -> ops.LanczosNorms:
    """Return what `ops.lanczos_norm` does but the iterations, each layer iterated by one process; a collective."""
    costs = [_cost(weight, place) for weight, place in zip(operators.weights, operators.geometry, strict=True)]
    parts = shares(costs, distributed.get_world_size(process_group))
    mine = parts[distributed.get_rank(process_group)]
    own = ops.lanczos_norm(*operators.some(mine), n_iterations, tol)
    # A process sends one row: the numbers and vectors of each of its layers, and zeros up to the longest row.
    sizes = [(1, 1, *(x.numel() for x in vectors)) for vectors in operators.vectors()]
    lengths = [[size for i in part for size in sizes[i]] for part in parts]
    row = operators.weights[0].new_zeros(max(map(sum, lengths)))
    sent = [
        x.flatten()
        for layer in zip(own.sigmas, own.residuals, own.us, own.vs, own.companions, strict=True)
        for x in layer
    ]
    if sent:
        torch.cat(sent, out=row[: sum(x.numel() for x in sent)])
    rows = row.new_empty(len(parts), row.numel())
    distributed.all_gather(list(rows.unbind()), row, process_group)
    results: list[tuple[Tensor, ...]] = [()] * len(costs)
    for part, sizes_of_part, received in zip(parts, lengths, rows, strict=True):
        pieces = received[: sum(sizes_of_part)].split(sizes_of_part)
        for k, i in enumerate(part):
            results[i] = pieces[5 * k : 5 * k + 5]
    sigmas, residuals, *vectors = zip(*results, strict=True)
    us, vs, companions = (
        [x.view(old.shape) for x, old in zip(new, before, strict=True)]
        for new, before in zip(vectors, operators[1:4], strict=True)
    )
    iterations = torch.zeros(len(costs), dtype=torch.int64, device=row.device)  # nobody asks for them
    return ops.LanczosNorms(torch.cat(sigmas), torch.cat(residuals), us, vs, companions, iterations)


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
