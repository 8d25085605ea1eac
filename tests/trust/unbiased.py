"""Estimates of log-determinants: their means, and the means of their gradients, over very many independent draws."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from scipy.stats import t as student
from torch import Tensor

from iresnet_fast import ops
from iresnet_fast._keys import row_keys
from iresnet_fast.estimators import PowerSeries, RussianRoulette

from .explicit import Branch, jacobian, symmetric_branch
from .tally import Tally

GROUPS = 100
DRAWS = 20_000  # of the probe, in each group
CALLS = 160  # in each group, of an estimator whose batch shares one depth
FALSE_ALARM = 1e-6  # the chance that an estimator without a bias fails
EVENTS = ((3,), (2, 2, 2))
# Per dimension the term k is at most L^k / k times its weight 1 / P(N >= k - n_exact): with L = 0.5 at most 1 for the
# geometric depths here, and for the Poisson ones where P(N >= k - n_exact) is above 1e-8. Deeper ones are too rare to
# be met, and without them the mean lacks less than 1e-7: the means of a group are close to normal.
LIPSCHITZ = 0.5

ROULETTES = (
    RussianRoulette(),
    RussianRoulette(per_sample=True),
    RussianRoulette(n_exact=0, parameter=0.3, per_sample=True),
    RussianRoulette(n_exact=1, n_probes=3, probe="gaussian", per_sample=True),
    RussianRoulette(gradient="series", per_sample=True),
    RussianRoulette(n_exact=1, distribution="poisson", parameter=4.0),
    RussianRoulette(distribution="poisson", parameter=4.0, per_sample=True),
    RussianRoulette(n_exact=0, distribution="poisson", parameter=6.0, gradient="series", per_sample=True),
    RussianRoulette(per_sample=True, exact_terms=1),
    RussianRoulette(n_exact=0, parameter=0.3, per_sample=True, exact_terms=2),
)
SERIES = (
    PowerSeries(n_terms=1),
    PowerSeries(n_terms=4),
    PowerSeries(n_terms=4, probe="gaussian"),
    PowerSeries(n_terms=5, gradient="series"),
    PowerSeries(n_terms=3, n_probes=4, gradient="series", probe="gaussian"),
    PowerSeries(n_terms=4, exact_terms=1),
    PowerSeries(n_terms=4, n_probes=2, exact_terms=2),
    PowerSeries(n_terms=4, gradient="series", exact_terms=1),
)


class Mean(NamedTuple):
    """Means of a value and of all entries of its gradient, one after the other."""

    error: Tensor  # of the mean
    spread: Tensor  # standard error of the mean
    exact: Tensor

    def seen(self, limit: float) -> tuple[float, float]:
        """Return the relative bias of the value, and of the gradient in any entry, that would not be missed."""
        least = 2.0 * limit * self.spread
        return float(least[0] / self.exact[0].abs()), float(least[1:].max() / self.exact[1:].norm())


def roulette(share: float = 1.0) -> Tally:
    """The mean of a roulette is the log-determinant."""
    return _tally("RussianRoulette: mean value and gradient are those of log|det(I + J)|", share, ROULETTES, True)


def series_in_training(share: float = 1.0) -> Tally:
    """The mean of a truncated series is the truncated series of traces."""
    return _tally("PowerSeries: mean value and gradient are those of the truncated series", share, SERIES, True)


def series_in_evaluation(share: float = 1.0) -> Tally:
    """The same, where probes are hashed and the mean is over seeds and the keys of samples."""
    chosen = [estimator for estimator in SERIES if estimator.gradient == "neumann"]
    claim = "PowerSeries outside training: mean over samples and eval_seed is the truncated series"
    return _tally(claim, share, chosen, False)


def _tally(claim: str, share: float, estimators: Sequence[PowerSeries | RussianRoulette], training: bool) -> Tally:
    generator = torch.Generator().manual_seed(11)
    means = []
    for event in EVENTS:
        branch = symmetric_branch(generator, event, LIPSCHITZ)
        x = torch.randn(1, *event, generator=generator).double()
        for estimator in estimators:
            means.append(_mean(branch, x, estimator, training, share, generator))
    # Student's distribution, since each spread comes from GROUPS means; divided by the number of all tests.
    tests = sum(mean.error.numel() for mean in means)
    limit = float(student.isf(FALSE_ALARM / (2 * tests), GROUPS - 1))
    value, gradient = (max(sizes) for sizes in zip(*(mean.seen(limit) for mean in means), strict=True))
    tally = Tally(f"{claim} (a bias of {value:.1%}, in a gradient of {gradient:.1%}, would be seen)")
    for mean in means:
        # Sums of float64 numbers of order one: what does not vary at all is right to this.
        tally.add(mean.error.abs() / (limit * mean.spread + 1e-12))
    return tally


def _mean(
    branch: Branch,
    x: Tensor,
    estimator: PowerSeries | RussianRoulette,
    training: bool,
    share: float,
    generator: torch.Generator,
) -> Mean:
    shared = isinstance(estimator, RussianRoulette) and not estimator.per_sample
    calls = max(round(CALLS * share), 2) if shared else 1
    draws = max(round(DRAWS * share), 2 * calls) // calls
    leaves = [tensor.clone().requires_grad_() for tensor in (x, *branch.weights, *branch.biases)]
    x, weights, biases = leaves[0], leaves[1 : 1 + len(branch.weights)], leaves[1 + len(branch.weights) :]
    groups = []
    for group in range(GROUPS):
        values = []
        for _ in range(calls):
            samples = x.expand(draws, *branch.event)
            keys = row_keys(0, 0, draws, x.device)[0]  # of samples that are one and the same here
            probe, q = replace(estimator, eval_seed=group).draw(samples, training, generator, keys)
            settings = (branch.activations, probe, q, estimator.gradient)
            n_exact = 0 if estimator.exact_terms == "auto" else estimator.exact_terms
            values.append(ops.residual_logdet(samples, weights, biases, *settings, exact_terms=n_exact)[1].mean())
        groups.append(_flat(torch.stack(values).mean(), leaves))
    found = torch.stack(groups)
    exact = _flat(_exact(branch._replace(weights=weights, biases=biases), x, estimator), leaves)
    return Mean(found.mean(0) - exact, found.std(0) / GROUPS**0.5, exact)


def _flat(value: Tensor, leaves: list[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return torch.cat([value.detach().view(1), *(gradient.flatten() for gradient in gradients)])


def _exact(branch: Branch, x: Tensor, estimator: PowerSeries | RussianRoulette) -> Tensor:
    """Return what the mean should be: log|det(I + J)|, or the sum of (-1)^(k+1) / k tr(J^k) over the terms."""
    J = jacobian(branch, x, create_graph=True)[0]
    if isinstance(estimator, RussianRoulette):
        return torch.linalg.slogdet(torch.eye(len(J), dtype=J.dtype) + J)[1]
    powers = itertools.accumulate(itertools.repeat(J, estimator.n_terms), torch.matmul)
    return sum((-1) ** k / (k + 1) * power.trace() for k, power in enumerate(powers))


SUBJECTS = (roulette, series_in_training, series_in_evaluation)
