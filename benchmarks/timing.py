"""Interleaved timing: every implementation in every round, so that a noisy machine disturbs all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch

# Each implementation runs at least so long per round: short ones give many samples, all but one with a warm cache.
SLICE_SECONDS = 0.02
_SGEMM_SIZE = 1024  # large enough for the full rate
SGEMM_FLOPS = 2 * _SGEMM_SIZE**3


def seconds_of(step: Callable[[], object]) -> float:
    """Return how long a step takes."""
    before = time.perf_counter()
    step()
    return time.perf_counter() - before


def interleave(
    steps: Mapping[str, Callable[[], object]],
    seconds: float,
    rounds: int,
    slice_seconds: float = SLICE_SECONDS,
    progress: Callable[[float], object] = lambda share: None,
) -> dict[str, list[float]]:
    """Call all steps in turn, again and again, and return the seconds of every call.

    Args:
        steps: what to time, already warmed up.
        seconds: stop after the first round that ends later than this.
        rounds: but not before so many rounds.
        slice_seconds: in each round a step is called until it has run so long, at least once.
        progress: called after each round with the share of the work done, in [0, 1].
    """
    samples: dict[str, list[float]] = {name: [] for name in steps}
    gc.collect()
    gc.disable()
    try:
        start, done = time.perf_counter(), 0
        while done < rounds or time.perf_counter() - start < seconds:
            for name, step in steps.items():
                spent = 0.0
                while not spent or spent < slice_seconds:
                    elapsed = max(seconds_of(step), 1e-9)  # a clock may stand still
                    samples[name].append(elapsed)
                    spent += elapsed
            done += 1
            elapsed = time.perf_counter() - start
            progress(min(1.0, done / rounds, elapsed / seconds if seconds else 1.0))
    finally:
        gc.enable()
    return samples


def medians(samples: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of every list."""
    return {name: statistics.median(values) for name, values in samples.items()}


def trial(step: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of the first call, which warms up (or compiles), and of a second one."""
    return seconds_of(step), seconds_of(step)


def sgemm() -> Callable[[], object]:
    """Return one float32 matrix product of `SGEMM_FLOPS` operations: the peak, to be timed with the rest."""
    a, b, out = (torch.randn(_SGEMM_SIZE, _SGEMM_SIZE) for _ in range(3))
    return lambda: torch.mm(a, b, out=out)
