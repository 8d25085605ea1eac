"""What a chain can take its proposals from: a residual flow, a Gaussian, and the i-ResNet of torchflows."""

from __future__ import annotations

import importlib
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import _common
import torch
from torch import Tensor

from iresnet_fast import data, training
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette
from iresnet_fast.models import FlowConfig, IResNetFlow

Estimator = Exact | PowerSeries
BATCH, RATE = 500, 3e-3
TERMS = 20  # of the series outside training
PART = 4000  # samples of one call


@dataclass(frozen=True)
class Proposal:
    """A density q that proposals are drawn from.

    Attributes:
        draw: from n to samples [n, d].
        log_prob: from x [n, d] to the density that is reported for them [n].
        seconds: that it took to fit.
        note: what else there is to say.
    """

    draw: Callable[[int], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    seconds: float = 0.0
    note: str = ""


def gaussian(samples: Tensor) -> Proposal:
    """Return the normal distribution with the mean and covariance of the samples [n, d]."""
    law = torch.distributions.MultivariateNormal(samples.mean(0), samples.T.cov())
    return Proposal(lambda n: law.sample((n,)), law.log_prob)


def fitted_flow(name: str, samples: Tensor, held_out: Tensor, options: Namespace) -> tuple[IResNetFlow, float]:
    """Return a flow of branches of two layers with exact log-determinants, and the seconds that fitting it took."""
    n = samples.shape[1]
    # Up to 16 dimensions training is exact; beyond it is unbiased, since a truncated series would be exploited.
    estimator = Exact() if n <= 16 else RussianRoulette(n_exact=2, per_sample=True)
    config = FlowConfig(
        event_shape=(n,),
        blocks=(options.blocks,),
        hidden=(64,),
        prior="standard",
        final_actnorm=True,
        train_estimator=estimator,
        eval_estimator=Exact(),
    )
    recipe = training.TrainConfig(
        batch_size=min(BATCH, len(samples)), learning_rate=RATE, max_steps=options.steps, seed=options.seed
    )
    folder = _common.fresh_folder(options.runs, f"mcmc_proposal-{n}")
    dataset = data.DataSet(name, samples, held_out)
    began = time.perf_counter()
    run = training.fit(IResNetFlow(config), dataset, recipe, folder=folder)
    return run.best, time.perf_counter() - began


def of_flow(flow: IResNetFlow, estimator: Estimator) -> Proposal:
    """Return a flow as a proposal, with some estimator of its log-determinants."""
    other = IResNetFlow(flow.config.replace(eval_estimator=estimator))
    other.load_state_dict(flow.state_dict())
    other.eval()
    return Proposal(other.sample, other.log_prob)


@torch.no_grad()
def drawn(proposal: Proposal, n: int) -> tuple[Tensor, float]:
    """Return n samples, and the seconds they took."""
    began = time.perf_counter()
    x = torch.cat([proposal.draw(min(PART, n - first)) for first in range(0, n, PART)])
    return x, time.perf_counter() - began


@torch.no_grad()
def log_density(proposal: Proposal, x: Tensor) -> Tensor:
    """Return the log-density of samples, computed for some at a time."""
    return torch.cat([proposal.log_prob(part) for part in x.split(PART)])


def torchflows_version() -> str | None:
    """Return the version of torchflows, or None where it is not installed."""
    try:
        return version("torchflows")
    except PackageNotFoundError:
        return None


def torchflows_iresnet(samples: Tensor, seconds: float, options: Namespace) -> Proposal:
    """Return torchflows' i-ResNet with as many blocks as the flow has, trained for so many seconds by the same recipe.

    It is trained with its two terms of the series, which lets it take more steps, and reports densities with as many
    terms as the flow, and one Gaussian probe. Version 1.2.1 estimates the norms of its weights from a random vector in
    every call, so that it is another function each time: what it draws is not exactly of the density that it reports.
    """
    warnings.filterwarnings("ignore", module="torchflows")
    residual = importlib.import_module("torchflows.bijections.finite.residual.architectures")
    event_shape, steps = (samples.shape[1],), 0
    bijection = residual.InvertibleResNet(event_shape=event_shape, n_layers=options.blocks)
    flow = importlib.import_module("torchflows.flows").Flow(bijection)
    optimizer = torch.optim.Adam(flow.parameters(), RATE)
    began = time.perf_counter()
    while steps == 0 or time.perf_counter() - began < seconds:
        loss = -flow.log_prob(samples[torch.randint(len(samples), (min(BATCH, len(samples)),))]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        steps += 1
    taken = time.perf_counter() - began
    flow.eval()
    for layer in bijection.layers:
        if hasattr(layer, "n_power_series_iterations"):
            layer.n_power_series_iterations = TERMS
    with torch.no_grad():
        x = samples[:1000]
        error = float((flow.bijection.inverse(flow.bijection(x)[0])[0] - x).norm(dim=1).median())
    return Proposal(flow.sample, flow.log_prob, taken, f"{steps} steps; median error of its inverse {error:.2g}")
