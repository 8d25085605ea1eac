"""Several estimates of each log-determinant in one call, with probes of their own: how sure an estimate is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .._traces import split_coefficients
from ..reference import LogdetInfo
from ._draws import draw

if TYPE_CHECKING:
    from ..estimators import Series
    from ._call import Call
    from .block import InvertibleResidualBlock


class Found(NamedTuple):
    """What the blocks of a call have found, summed over them.

    Attributes:
        values: [count, B] float64, the estimates.
        bound: [B] float64, of what the series leave out, in the mean over the estimates; infinite where a block does
            not know its Lipschitz constant.
        terms: [B] int64, the most terms of any of the series.
    """

    values: Tensor
    bound: Tensor
    terms: Tensor


class Survey:
    """Asks the blocks of a call for several estimates each, and keeps them; `Call.surveyed` takes it to them.

    Args:
        first: number of the first estimate; number 0 is that of a call without a survey.
        count: how many estimates.

    Attributes:
        blocks: those that have estimated.
        found: what they have; None if there is no block that estimates.
    """

    def __init__(self, first: int, count: int) -> None:
        """Begin; the arguments are those of the class."""
        self.first, self.count = first, count
        self.blocks: list[InvertibleResidualBlock] = []
        self.found: Found | None = None

    def add(self, block: InvertibleResidualBlock, more: Found) -> None:
        """Add what a block has found."""
        self.blocks.append(block)
        known = self.found
        if known is not None:
            terms = torch.maximum(known.terms, more.terms)
            more = Found(known.values + more.values, known.bound + more.bound, terms)
        self.found = more


def surveyed(
    block: InvertibleResidualBlock,
    estimator: Series,
    x: Tensor,
    call: Call,
    n_exact: int,
    series: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, LogdetInfo]],
    traces: Callable[[int], Tensor],
) -> tuple[Tensor, Tensor]:
    """Return z and the first of the estimates [B] that the survey of the call asks for, and tell it them all.

    Args:
        block: that estimates.
        estimator: its own.
        x: its input.
        call: of the block.
        n_exact: how many first terms are exact: they are computed once.
        series: from a probe and coefficients to z, the value and what the series did.
        traces: from n to tr J^k, k = 1 .. n, [B, n].
    """
    survey = call.survey
    assert survey is not None  # else there is nobody to tell
    exact: Tensor | None = None
    z, values, bounds, terms = x, [], [], []
    for number in range(survey.first, survey.first + survey.count):
        probe, q = draw(estimator, False, x, call, number)
        n = min(n_exact, q.shape[-1])
        factors, rest = split_coefficients(q, n)
        if n and exact is None:
            exact = (factors * traces(n)).sum(-1)
        # Where all terms are exact there is nothing to estimate, but the chain says what is left out after them.
        z, value, info = series(probe, rest if n < q.shape[-1] else q)
        values.append(value if exact is None else exact if n == q.shape[-1] else value + exact)
        terms.append(info.terms.amax(0))
        bounds.append(value.new_full(value.shape, math.inf) if info.tail_bound is None else info.tail_bound.mean(0))
    bound = torch.stack(bounds).double().mean(0)
    survey.add(block, Found(torch.stack(values).double(), bound, torch.stack(terms).amax(0)))
    return z, values[0]
