"""How many first terms of a block's series are exact."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .._lowering import lowered
from .._stages import Stages
from .._traces import MOST_TERMS, Places, chain_products, places_at, products
from ..estimators import PowerSeries, Series


class ExactTerms(NamedTuple):
    """The exact terms of one call.

    Attributes:
        n: how many.
        places: of their closed forms, as many if all have one.
    """

    n: int
    places: Places


def exact_terms_of(estimator: Series, training: bool, stages: Stages, x: Tensor) -> ExactTerms:
    """Return the exact terms of a series on these stages.

    Args:
        estimator: that of the series.
        training: whether the block is in training.
        stages: of the branch.
        x: its input.
    """
    if estimator.exact_terms == 0:
        return ExactTerms(0, ())
    stages = lowered(*stages)
    places = places_at(stages.weights, stages.activations, stages.factors)
    n = estimator.exact_terms
    if isinstance(n, str):
        n_pixels = x.shape[2:].numel()
        if training:
            n = sum(right < 0 for _, right in places[:1])
        else:
            budget = n_terms_of(estimator) * chain_products(stages.weights, n_pixels)
            costs = [products(place, stages.weights, n_pixels) for place in places]
            n = max((k for k in range(MOST_TERMS + 1) if k <= len(costs) and sum(costs[:k]) <= budget), default=0)
    if isinstance(estimator, PowerSeries):
        n = min(n, estimator.n_terms)
    return ExactTerms(n, places[:n])


def n_terms_of(estimator: Series) -> int:
    """Return how many terms a series has outside training."""
    return estimator.n_terms if isinstance(estimator, PowerSeries) else estimator.n_exact + estimator.eval_terms
