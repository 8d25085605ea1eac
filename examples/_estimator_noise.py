"""The noise of log-densities and of gradients over repeated draws, and what each takes."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import _bias
import torch
from _estimator_probes import TERMS, blocks_of, evaluated_with, kinds
from torch import Tensor

from iresnet_fast.estimators import Exact, PowerSeries
from iresnet_fast.models import IResNetFlow

EXACT_TERMS = (0, 1, 2)
FIXED = 1e-9  # nats, more than float64 makes of sums of this size; what varies less does not vary


def noise(model: IResNetFlow, x: Tensor, n_draws: int, rounds: int) -> dict[str, Any]:
    """Return bias and rows, one for each kind of probe and number of exact terms.

    Draws and the truth are computed in float64, so that their differences are those of the estimators; times are of
    float32, medians over interleaved rounds.

    Args:
        model: in eval mode.
        x: [B, *event_shape], data.
        n_draws: independent draws.
        rounds: of timing.
    """
    wide, narrow, d = copy.deepcopy(model).double(), copy.deepcopy(model), x[0].numel()
    x_wide = x.double() if x.is_floating_point() else x
    with torch.no_grad(), evaluated_with(wide, lambda block: Exact()):
        exact = wide.log_prob(x_wide)
    bias = _bias.series_bias(wide, x_wide, (TERMS,))[0]
    entries = [(kind, m, make, n) for kind, (m, make) in kinds(d).items() for n in EXACT_TERMS]
    name, (m, make) = next(iter(kinds(d).items()))
    entries.append((name, m, make, "auto"))
    seconds = interleaved([_timed(narrow, make, n, x) for _, _, make, n in entries], rounds)
    rows = []
    for (kind, m, make, n), spent in zip(entries, seconds, strict=True):
        drawn = torch.stack([estimate(wide, make, n, draw, x_wide) for draw in range(n_draws)])
        std = float(drawn.var(0).mean().sqrt())
        row = {"probes": kind, "n_probes": m, "exact_terms": n, "std_nats": std, "std_bits": _bias.bits(std, d)}
        row |= {"seconds": spent, "cost": spent / seconds[0], **agreement(drawn, exact + bias)}
        rows.append(row)
    for row in rows:
        row["variance_ratio"] = (rows[0]["std_nats"] / max(row["std_nats"], FIXED)) ** 2
        row["gain"] = row["variance_ratio"] / row["cost"]
    return {"bias_nats": float(bias.mean()), "bias_nats_most": float(bias.abs().max()), "rows": rows}


@torch.no_grad()
def estimate(model: IResNetFlow, make: Callable[..., Any], exact_terms: Any, draw: int, x: Tensor) -> Tensor:
    """Return one estimate of log p(x) [B]; the noise of dequantisation is the same in all of them."""
    with evaluated_with(model, lambda block: make(block, exact_terms, draw)):
        return model.log_prob(x)


def agreement(drawn: Tensor, truth: Tensor) -> dict[str, float]:
    """Return how far means of draws [R, B] are from the truth [B], in two numbers, standard normal if they agree.

    The z of a sample is a Student t of R - 1 degrees: z_mean is the scaled sum of all, for a common error, z_square the
    scaled sum of their squares, for errors of either sign.
    """
    n_draws, n = drawn.shape
    error = (drawn.var(0) / n_draws + FIXED**2).sqrt()
    z, nu = (drawn.mean(0) - truth) / error, n_draws - 1
    second = nu / (nu - 2)
    fourth = 3 * nu**2 / ((nu - 2) * (nu - 4))
    return {
        "z_mean": float(z.sum()) / math.sqrt(n * second),
        "z_square": (float(z.square().mean()) - second) / math.sqrt((fourth - second**2) / n),
    }


def interleaved(calls: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Return the median seconds of each call, after one that does not count."""
    spent: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for times, call in zip(spent, calls, strict=True):
            start = time.perf_counter()
            call()
            if turn:
                times.append(time.perf_counter() - start)
    return [median(times) for times in spent]


def _timed(model: IResNetFlow, make: Callable[..., Any], exact_terms: Any, x: Tensor) -> Callable[[], Any]:
    return lambda: estimate(model, make, exact_terms, 0, x)


def gradient_noise(model: IResNetFlow, batch: Tensor, n_draws: int, rounds: int) -> list[dict[str, Any]]:
    """Return the noise of the gradient of a batch's mean negative log-density by exact terms, and seconds a step.

    Estimators are those of the recipe, or ten terms where it trains with exact log-determinants. The weights and the
    noise of dequantisation stay; the noise is the root mean square of |g - mean g| over |mean g|.
    """
    models = {}
    for n in (0, 1, "auto"):
        models[n] = one = copy.deepcopy(model).train()
        one.preprocessing.eval()  # which makes its noise a function of the data
        for block in blocks_of(one):
            estimator = PowerSeries() if isinstance(block.train_estimator, Exact) else block.train_estimator
            block.train_estimator = replace(estimator, exact_terms=n)
    seconds = interleaved([_step(one, batch) for one in models.values()], rounds)
    rows = []
    for (n, one), spent in zip(models.items(), seconds, strict=True):
        step = _step(one, batch)
        drawn = torch.stack([step() for _ in range(n_draws)])
        spread = float(drawn.var(0).sum().sqrt())
        row = {"exact_terms": n, "relative_std": spread / float(drawn.mean(0).norm()), "step_seconds": spent}
        rows.append({**row, "step_cost": spent / seconds[0]})
    return rows


def _step(model: IResNetFlow, batch: Tensor) -> Callable[[], Tensor]:
    """Return a training step, at a rate of zero; it returns the gradient of all parameters as one vector."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)

    def step() -> Tensor:
        optimizer.zero_grad()
        (-model.log_prob(batch)).mean().backward()
        optimizer.step()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])

    return step
