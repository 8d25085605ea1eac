"""How far a truncated series can be off."""

from __future__ import annotations

import math

from ..estimators import PowerSeries, RussianRoulette
from ..nn.block import Estimator
from ._blocks import Block


def evaluation_terms(estimator: Estimator | None) -> int | None:
    """Return how many terms a series has outside training, None if there is no series."""
    if isinstance(estimator, PowerSeries):
        return estimator.n_terms
    if isinstance(estimator, RussianRoulette):
        return estimator.n_exact + estimator.eval_terms
    return None


def truncation_bound(block: Block) -> float:
    """Return the bias of the eval_estimator of a block at most, in nats: n_dims times the sum over k > n of L^k / k.

    Theorem 3 of arXiv 1811.00995: no eigenvalue of the Jacobian is larger than its Lipschitz constant L.
    """
    n_terms = evaluation_terms(block.eval_estimator)
    if n_terms is None:
        return 0.0
    lipschitz = block.lipschitz
    if lipschitz is None:
        return math.inf
    rest, k = 0.0, n_terms + 1
    term = lipschitz**k
    while term > 1e-17 * k:
        rest += term / k
        k, term = k + 1, term * lipschitz
    return block.n_dims * rest
