"""How far a truncated series can be off."""

from __future__ import annotations

import math

from ..estimators import PowerSeries, RussianRoulette
from ._blocks import Block


def truncation_bound(block: Block) -> float:
    """Return the bias of the eval_estimator of a block at most, in nats: n_dims times the sum over k > n of L^k / k.

    Theorem 3 of arXiv 1811.00995: no eigenvalue of the Jacobian is larger than its Lipschitz constant L.
    """
    estimator = block.eval_estimator
    if isinstance(estimator, PowerSeries):
        n_terms = estimator.n_terms
    elif isinstance(estimator, RussianRoulette):
        n_terms = estimator.n_exact + estimator.eval_terms
    else:
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
