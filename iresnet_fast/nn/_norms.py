"""The norms that layers are divided by: how closely they are followed in training, and how well known outside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
# In training: a larger residual is not enough, whatever the tolerance at which the steps may end.
_FOLLOWED = 1e-2
# As many steps as the smaller side has numbers find the norm exactly: smaller ones always take them.
EXACT_STEPS = 40
# Layers with a side up to this get their exact norm outside training: below it that is faster than an iteration that
# has nothing to start from.
_EXACT_SIDE = 128


def follow(
    operators: Operators,
    most: int,
    tol: float | None,
    process_group: ProcessGroup | None = None,
    doubtful: Sequence[int] = (),
) -> tuple[Norms, Tensor | None]:
    """Go on from the vectors. Returns the norms, and whether that was not enough, [layers] bool; None in a capture.

    The weight of a training step has moved a little. A norm is increased by its residual; it is not enough if that is
    above 1e-2 of it after all iterations, or, for the doubtful ones, if a start from nothing finds a larger norm.
    """
    limit = 0.0 if tol is None else tol
    if process_group is None:
        found = ops.lanczos_norm(*operators, most, limit)
        norms, residuals = Norms(found.sigmas, found.us, found.vs, found.companions), found.residuals
    else:
        norms, residuals = shared_lanczos_norm(operators, most, limit, process_group)
    increased = norms._replace(sigmas=norms.sigmas + residuals)
    if _capture.of(residuals) is not None:
        return increased, None
    missed = residuals > _FOLLOWED * norms.sigmas
    if doubtful:
        some = operators.some(doubtful)
        anew = ops.lanczos_norm(*some.without_hints(), most, limit, seed=1)
        missed[doubtful] |= anew.sigmas > increased.sigmas[doubtful]
    return increased, missed


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
        parts[i] = sigma, found.u.to(u).view_as(u), found.v.to(v).view_as(v), torch.zeros_like(companion)
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
    better = other.sigmas > one.sigmas

    def best(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[Tensor]:
        return [torch.where(take, b, a) for take, a, b in zip(better, ours, theirs, strict=True)]

    return Norms(
        torch.where(better, other.sigmas + other.residuals, one.sigmas + one.residuals),
        best(one.us, other.us),
        best(one.vs, other.vs),
        best(one.companions, other.companions),
    )


def _safe_divisor(bound: Tensor, operators: Operators, i: int) -> Tensor:
    """Return an upper bound in float64 as a divisor in the dtype of the weight, increased for what rounding may do.

    Each entry of W / (sigma / c) is off by at most 2 eps of itself (a quotient, a product with a rounded factor), which
    is at most 2 eps |W|_F <= 2 eps sqrt(r) |W| in the norm, r the smaller side; and so is the bound when it is rounded.
    """
    dtype, side = operators.weights[i].dtype, operators.companions[i].numel()
    return (bound * (1.0 + 4.0 * torch.finfo(dtype).eps * math.sqrt(side))).to(dtype)
