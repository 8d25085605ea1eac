"""Tables of scikit-learn with one class called odd, and what else scores their rows."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn import datasets
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from torch import Tensor

from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette
from iresnet_fast.models import FlowConfig, IResNetFlow

Array = np.ndarray[Any, np.dtype[np.float64]]
TERMS = 20  # of the series outside training


class Split(NamedTuple):
    """A split of a table, scaled by the mean and standard deviation of the rows to train on.

    Attributes:
        train: [n, d], normal rows: three fifths of all normal ones.
        test: [m, d], the other normal rows and all odd ones.
        odd: [m], which is which.
    """

    train: Array
    test: Array
    odd: Array


# Which class is odd: malignant, the first vineyard, the digit 0.
TABLES = {"breast cancer": datasets.load_breast_cancer, "wine": datasets.load_wine, "digits": datasets.load_digits}


def split(name: str, seed: int, most: int | None = None) -> Split:
    """Return a split of a table, drawn by the seed; at most so many rows of each kind."""
    generator = np.random.default_rng(seed)
    bunch = TABLES[name]()
    rows, odd = bunch.data, bunch.target == 0
    if name == "digits":
        rows = rows + generator.random(rows.shape)  # whole numbers have no density
    normal = generator.permutation(np.flatnonzero(~odd))
    n = 3 * len(normal) // 5
    train, others, strange = rows[normal[:n]][:most], rows[normal[n:]][:most], rows[odd][:most]
    test = (np.concatenate((others, strange)) - train.mean(0)) / train.std(0)
    return Split((train - train.mean(0)) / train.std(0), test, np.arange(len(test)) >= len(others))


def mixture(train: Array, seed: int) -> GaussianMixture:
    """Return a Gaussian mixture whose number of components is the likeliest for a fifth of the rows, held out."""
    n = len(train) // 5

    def fitted(components: int, rows: Array) -> GaussianMixture:
        return GaussianMixture(components, reg_covar=1e-2, random_state=seed).fit(rows)

    return fitted(max((1, 2, 4, 8), key=lambda components: fitted(components, train[n:]).score(train[:n])), train)


def baselines(data: Split, seed: int) -> dict[str, Array]:
    """Return the scores [m] of the test rows by a Gaussian mixture and an isolation forest; high is odd."""
    forest = IsolationForest(random_state=seed).fit(data.train)
    return {
        "Gaussian mixture": -mixture(data.train, seed).score_samples(data.test),
        "isolation forest": -forest.score_samples(data.test),
    }


def trained(rows: Tensor, steps: int, jitter: float) -> IResNetFlow:
    """Return a flow of branches of two layers that has learnt the rows, each time it saw one with another jitter."""
    config = FlowConfig(
        event_shape=tuple(rows.shape[1:]),
        prior="standard",
        final_actnorm=True,
        hidden=(64,),
        train_estimator=RussianRoulette(n_exact=2, per_sample=True),
    )
    flow = IResNetFlow(config)
    flow.initialize(rows)
    optimizer = torch.optim.Adam(flow.parameters(), 3e-3)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (100,))]
        loss = -flow.log_prob(batch + jitter * torch.randn_like(batch)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
    return flow


@torch.no_grad()
def scores(flow: IResNetFlow, estimator: Exact | PowerSeries, x: Tensor) -> tuple[Tensor, float]:
    """Return -log p of rows with an estimator of the log-determinant, and the seconds that took."""
    other = IResNetFlow(flow.config.replace(eval_estimator=estimator))
    other.load_state_dict(flow.state_dict())
    other.eval()
    began = time.perf_counter()
    return -other.log_prob(x), time.perf_counter() - began
