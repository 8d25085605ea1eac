"""How many first terms of a block's series are exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .._stages import Stages
from .._trace_costs import cheapest
from .._traces import MOST_TERMS, Places, chain_products, places_at
from ..estimators import PowerSeries, Series
from ._control_variate import has_control

# In training a map is made of the weights, and its gradient handed on, however small the batch. With fewer samples, or
# fewer multiplications of a product with J for all of them, that may take more than 3 % of a step: measured by
# benchmarks/bench_exact_terms.py.
_LEAST_BATCH = 512
_LEAST_PRODUCTS = 1 << 21

# Outside training exact terms may take so many times the multiplications of the series. What that buys is measured by
# examples/estimator_variance.py: two terms save 40 to 200 times the variance for 1.1 to 4 times the seconds, where one
# saves 15 to 30 times.
_MOST_COST = 1.5


class ExactTerms(NamedTuple):
    """The exact terms of one call.

    Attributes:
        n: how many.
        places: of their closed forms, as far as they have one.
        control: whether a control variate takes the place of an exact first term.
        value_only: whether the gradient remains that of the estimate, as theirs would cost many times the series.
    """

    n: int
    places: Places
    control: bool = False
    value_only: bool = False


def exact_terms_of(estimator: Series, training: bool, stages: Stages, x: Tensor) -> ExactTerms:
    """Return the exact terms of a series on elementwise stages.

    Args:
        estimator: that of the series.
        training: whether the block is in training.
        stages: of the branch, lowered to what kernels know.
        x: what the block is called with, for its shape.
    """
    n, image_size = estimator.exact_terms, x.shape[2:]
    if n == 0:
        return ExactTerms(0, ())
    if isinstance(n, str) and not training:
        shapes = tuple(tuple(weight.shape) for weight in stages.weights)
        masked = tuple(factor is not None for factor in stages.factors)
        key = shapes, stages.activations, masked, tuple(image_size), _n_terms_of(estimator)
        # A compiler warns of a cache, and a graph takes what has no closed form by probes alone, as gradients do.
        return _cheap.__wrapped__(*key, True) if torch.compiler.is_compiling() else _cheap(*key, False)
    if isinstance(n, str) and not _is_large(x, stages):
        return ExactTerms(0, ())
    places = places_at(stages.weights, stages.activations, stages.factors)
    if isinstance(n, str):
        n = int(bool(places) and places[0][1] < 0)  # no product with a map
    return _taken(estimator, n, places)


def _is_large(x: Tensor, stages: Stages) -> bool:
    """Whether a step is so long that a map of the weights does not count; that of the pixels of an image would."""
    batch = x.shape[0]
    return x.dim() == 2 and batch >= _LEAST_BATCH and batch * chain_products(stages.weights, 1) >= _LEAST_PRODUCTS


def _taken(estimator: Series, n: int, places: Places) -> ExactTerms:
    if isinstance(estimator, PowerSeries):
        n = min(n, estimator.n_terms)
    return ExactTerms(n, places[:n])


@lru_cache(maxsize=1024)
def _cheap(
    shapes: Sequence[Sequence[int]],
    activations: tuple[str, ...],
    masked: Sequence[bool],
    image_size: Sequence[int],
    n_terms: int,
    compiled: bool,
) -> ExactTerms:
    """Return the exact terms outside training, as many as cost no more than `_MOST_COST` allows.

    Args:
        shapes: of the weights.
        activations: likewise.
        masked: whether a stage has a factor.
        image_size: likewise.
        n_terms: of the series.
        compiled: whether the call is part of a graph.
    """
    weights = [torch.empty(shape, device="meta") for shape in shapes]
    factors = [torch.empty(0, device="meta") if there else None for there in masked]
    none = [None] * len(weights)
    budget = _MOST_COST * n_terms * chain_products(weights, math.prod(image_size))
    for n in range(min(MOST_TERMS, n_terms), 0, -1):
        way = cheapest(weights, activations, factors, image_size, n, compiled)
        if way.products <= budget:
            places = places_at(weights, activations, factors)[:n]
            return ExactTerms(n, places, value_only=n > len(places))
    return ExactTerms(0, (), has_control(Stages(weights, list(none), activations, list(none), factors), image_size))


def _n_terms_of(estimator: Series) -> int:
    """Return how many terms a series has outside training."""
    return estimator.n_terms if isinstance(estimator, PowerSeries) else estimator.n_exact + estimator.eval_terms
