"""A chain whose proposals do not depend on its state, its effective samples, and the law that it samples from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _targets import Target
from torch import Tensor

Array = np.ndarray[Any, np.dtype[np.float64]]


def chained(
    target: Target, drawn: tuple[Tensor, float], log_prob: Callable[[Tensor], Tensor], chains: int, seed: int
) -> dict[str, Any]:
    """Return the figures of some chains.

    Args:
        target: of the chains.
        drawn: their proposals [steps * chains, d], and the seconds that these took.
        log_prob: of the proposals.
        chains: how many; a tenth of each is the way there, and left out.
        seed: of the decisions.
    """
    (x, seconds), began = drawn, time.perf_counter()
    weights = (target.log_prob(x) - log_prob(x)).view(-1, chains)
    held, acceptance = independence_chain(weights, np.random.default_rng(seed))
    seconds += time.perf_counter() - began
    values = target.functions(x).view(*weights.shape, -1).double().numpy()
    values = np.take_along_axis(values, held[..., None], 0)[len(held) // 10 :]
    effective = [effective_samples(values[..., k]) for k in range(values.shape[2])]
    return {
        "acceptance": acceptance,
        "effective": min(effective) / values[..., 0].size,
        "per_second": min(effective) / seconds,
        "seconds": seconds,
        "means": values.mean((0, 1)).tolist(),
        "standard_errors": (values.std((0, 1)) / np.sqrt(effective)).tolist(),
    }


def independence_chain(log_weights: Tensor, generator: np.random.Generator) -> tuple[Array, float]:
    """Run Metropolis-Hastings with proposals that were drawn beforehand, and their log-weights kept with them.

    A weight is target / (density of the proposal). Where it carries noise, a state keeps the noise it was accepted
    with, as in pseudo-marginal chains: to draw it anew at every step would sample from yet another law.

    Args:
        log_weights: [steps, chains].
        generator: of the decisions.

    Returns:
        Which step's proposal each chain holds, [steps, chains], and the share of proposals that were accepted.
    """
    weights = log_weights.double().numpy()
    levels = np.log(generator.random(weights.shape))
    held = np.zeros(weights.shape, dtype=np.int64)
    current, chains = np.zeros(weights.shape[1], dtype=np.int64), np.arange(weights.shape[1])
    for step in range(1, len(weights)):
        accepted = levels[step] < weights[step] - weights[current, chains]
        current = np.where(accepted, step, current)
        held[step] = current
    return held, float((np.diff(held, axis=0) != 0).mean())


def effective_samples(values: Array) -> float:
    """Return how many independent samples estimate a mean as well as the chains do.

    By the autocorrelation time over all chains, their means' differences included, summed up to the first pair of lags
    whose sum is negative (Geyer; as in Stan and arXiv 1903.08008, section 3.2).

    Args:
        values: [steps, chains].
    """
    n, m = values.shape
    centred = values - values.mean(0)
    spectrum = np.abs(np.fft.rfft(centred, 2 * n, axis=0)) ** 2
    covariance = np.fft.irfft(spectrum, axis=0)[:n].mean(1) / (n - 1)
    variance = covariance[0] * (n - 1) / n + (values.mean(0).var(ddof=1) if m > 1 else 0.0)
    if variance == 0.0:
        return 1.0  # no chain ever moved, from one and the same state
    correlation = 1.0 - (covariance[0] - covariance) / variance
    pairs = correlation[: n - n % 2].reshape(-1, 2).sum(1)
    negative = np.flatnonzero(pairs < 0.0)
    pairs = np.minimum.accumulate(pairs[: negative[0] if len(negative) else None])
    return float(n * m / max(2.0 * pairs.sum() - 1.0, 1.0 / math.log10(n * m)))


def shift_by_noise(functions: Tensor, errors: Tensor, batches: int = 50) -> tuple[Array, Array]:
    """Return by how much errors of log q move the moments of the law that a chain samples, with standard errors, [k].

    A state x with the error e of its log q has the weight of the target times exp(-e).

    Args:
        functions: [n, k], of samples of the target.
        errors: [n], of the estimated log-densities of these samples.
        batches: n is divided into so many, for the standard errors.
    """
    values, weights = functions.double(), (-errors.double()).exp()[:, None]
    weights = weights / weights.mean()
    moved, mean = (weights * values).mean(0), values.mean(0)
    off = weights * (values - moved) - (values - mean)  # of the ratio, linearised; of the same samples without noise
    parts = torch.stack([part.mean(0) for part in off.chunk(batches)])
    return (moved - mean).numpy(), (parts.std(0) / math.sqrt(len(parts))).numpy()
