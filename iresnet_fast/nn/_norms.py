"""The norms that layers are divided by: how closely they are followed in training, and how well known outside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import _capture, ops
from ..certify import gram
from ._operators import Norms, Operators
from ._sharding import shared_lanczos_norm

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Outside training: the residual that Lanczos steps reach. The norm is then known to its square over the gap, and it is
# increased by the residual.
_SETTLED = 1e-5
_MOST_ITERATIONS = 1000
# In training: a larger residual is not enough. So many more steps are taken then.
_FOLLOWED = 3e-2
MORE_STEPS = 100
# A start from nothing that finds the same norm must not change it: a resumed run, which has doubts, computes the bits
# of the run that was not killed.
_CLEARLY = 1.0 + 3e-4
# Steps of a layer cost in proportion to it. As many as its smaller side has numbers find the norm exactly, which the
# smallest layers can always afford; those up to the second side can afford as many, and a smaller residual.
_CHEAP_STEPS, _CHEAP_SIDE = 40, 256
# Layers with a side up to this get their exact norm outside training: below it that is faster than an iteration that
# has nothing to start from.
_EXACT_SIDE = 128


def steps_for(side: int, most: int, tol: float | None) -> tuple[int, float | None]:
    """Return how many steps a layer of this smaller side takes in training at most, and its tolerance."""
    if side <= _CHEAP_STEPS:
        return _CHEAP_STEPS, None
    if side <= _CHEAP_SIDE:
        return max(most, _CHEAP_STEPS), None if tol is None else 0.2 * tol
    return most, tol


def follow(
    operators: Operators,
    most: int,
    tol: float | None,
    process_group: ProcessGroup | None = None,
    doubtful: Sequence[int] = (),
) -> tuple[Norms, Tensor | None]:
    """Go on from the vectors. Returns the norms, and whether that was not enough, [layers] bool; None in a capture.

    The weight of a training step has moved a little. A norm is increased by its residual, and it is not enough if that
    is above 3e-2 of it after all iterations. Doubtful ones are also iterated from nothing; a clearly larger norm wins.
    """
    limit = 0.0 if tol is None else tol
    if process_group is None:
        found = ops.lanczos_norm(*operators, most, limit)
    else:
        found = shared_lanczos_norm(operators, most, limit, process_group)
    if _capture.of(found.sigmas) is not None:
        return _increased(found), None
    if doubtful:
        anew = ops.lanczos_norm(*operators.some(doubtful).without_hints(), most, limit, seed=1)
        found = _larger(found, anew, doubtful, _CLEARLY)
    return _increased(found), found.residuals > _FOLLOWED * found.sigmas


def settle(operators: Operators, strict: bool = False) -> Norms:
    """Find the norms from nothing but the weights: copies and checkpoints of a model compute the same bits.

    A layer of a small side gets an upper bound that is its norm to rounding. Another one is iterated from two random
    vectors and gets the larger norm of both, increased by its residual; if `strict`, an upper bound by Gram iteration.
    """
    reads = _capture.of(operators.weights[0]) is None  # eigenvalues wait for the device
    exact = [i for i, vectors in enumerate(operators.vectors()) if reads and vectors[2].numel() <= _EXACT_SIDE]
    rest = [i for i in range(len(operators.weights)) if i not in set(exact)]
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = [()] * len(operators.weights)  # type: ignore[list-item]
    for i in exact:
        found = gram.norm(operators.weights[i], operators.geometry[i])
        u, v, companion = operators.vectors()[i]
        sigma = _safe_divisor(found.upper, operators, i)
        new_u, new_v = (new.to(old).contiguous().view_as(old) for new, old in ((found.u, u), (found.v, v)))
        parts[i] = sigma, new_u, new_v, torch.zeros_like(companion)
    if rest:
        others = operators.some(rest)
        norms = _iterated(others)
        sigmas: Sequence[Tensor] = norms.sigmas.unbind()
        if strict:
            bounds = (gram.upper_bound(w, place) for w, place in zip(others.weights, others.geometry, strict=True))
            sigmas = [_safe_divisor(bound, others, k) for k, bound in enumerate(bounds)]
        for i, *values in zip(rest, sigmas, norms.us, norms.vs, norms.companions, strict=True):
            parts[i] = values[0], values[1], values[2], values[3]
    sigmas, us, vs, companions = zip(*parts, strict=True)
    return Norms(torch.stack(sigmas), us, vs, companions)


def _iterated(operators: Operators) -> Norms:
    """Return the norms by Lanczos steps from two random starts."""
    one, other = (ops.lanczos_norm(*operators.without_hints(), _MOST_ITERATIONS, _SETTLED, seed) for seed in (1, 2))
    return _increased(_larger(one, other, range(len(operators.weights)), 1.0))


def _increased(found: ops.LanczosNorms) -> Norms:
    return Norms(found.sigmas + found.residuals, found.us, found.vs, found.companions)


def _larger(
    found: ops.LanczosNorms, others: ops.LanczosNorms, places: Sequence[int], factor: float
) -> ops.LanczosNorms:
    """Return what was found, and at these places the others where their norm is larger by this factor."""

    def merged(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> list[Tensor]:
        result = list(ours)
        for i, candidate, sigma in zip(places, theirs, others.sigmas, strict=True):
            result[i] = torch.where(sigma > factor * found.sigmas[i], candidate, result[i])
        return result

    return ops.LanczosNorms(
        torch.stack(merged(found.sigmas, others.sigmas)),
        torch.stack(merged(found.residuals, others.residuals)),
        merged(found.us, others.us),
        merged(found.vs, others.vs),
        merged(found.companions, others.companions),
        found.iterations,
    )


def _safe_divisor(bound: Tensor, operators: Operators, i: int) -> Tensor:
    """Return an upper bound in float64 as a divisor in the dtype of the weight, increased for what rounding may do.

    Each entry of W / (sigma / c) is off by at most 2 eps of itself (a quotient, a product with a rounded factor), which
    is at most 2 eps |W|_F <= 2 eps sqrt(r) |W| in the norm, r the smaller side; and so is the bound when it is rounded.
    """
    dtype, side = operators.weights[i].dtype, operators.companions[i].numel()
    return (bound * (1.0 + 4.0 * torch.finfo(dtype).eps * math.sqrt(side))).to(dtype)
