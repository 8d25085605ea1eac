"""Interleaved timing: every implementation in every round, so that a noisy machine disturbs all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch

# Each implementation runs at least so long per round: short ones give many samples, all but one with a warm cache.
SLICE_SECONDS = 0.02
SGEMM_SIZES = {"cpu": 1024, "cuda": 8192}  # large enough for the full rate


def seconds_of(step: Callable[[], object], device: str) -> float:
    """Return how long a step takes: on a GPU by events, from the first kernel's turn to the last one's end."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    before = time.perf_counter()
    step()
    return time.perf_counter() - before


def interleave(
    steps: Mapping[str, Callable[[], object]],
    seconds: float,
    rounds: int,
    slice_seconds: float = SLICE_SECONDS,
    device: str = "cpu",
    progress: Callable[[float], object] = lambda share: None,
) -> dict[str, list[float]]:
    """Call all steps in turn, again and again, and return the seconds of every call.

    Args:
        steps: what to time, already warmed up.
        seconds: stop after the first round that ends later than this.
        rounds: but not before so many rounds.
        slice_seconds: in each round a step is called until it has run so long, at least once.
        device: "cpu" or "cuda".
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
                    elapsed = max(seconds_of(step, device), 1e-9)  # a clock may stand still
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


def trial(step: Callable[[], object], device: str = "cpu") -> tuple[float, float]:
    """Return the seconds of the first call, which warms up (or compiles), and of a second one."""
    return seconds_of(step, device), seconds_of(step, device)


def sgemm(device: str = "cpu") -> Callable[[], object]:
    """Return one float32 matrix product of `sgemm_flops` operations: the peak, to be timed with the rest."""
    a, b, out = (torch.randn(SGEMM_SIZES[device], SGEMM_SIZES[device], device=device) for _ in range(3))
    return lambda: torch.mm(a, b, out=out)


def sgemm_flops(device: str) -> int:
    """Return the operations of `sgemm`."""
    return 2 * SGEMM_SIZES[device] ** 3
