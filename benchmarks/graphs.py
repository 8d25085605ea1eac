"""CUDA graphs of steps, and the time of steps on a GPU apart from the time of the host that launches them."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import torch

WARM_UPS = 3  # cuBLAS and cuDNN make their choices, allocators and autograd settle
LEAST_SECONDS = 0.03  # of one reading: events resolve half a microsecond
ROUNDS, PASSES = 5, 2
READINGS = ROUNDS * PASSES + 1  # of each step by `time_together`, at least one call each
_NOTHING_SECONDS = 1e-9  # a clock may stand still

Result = TypeVar("Result")
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call."""

    gpu_us: float  # between two CUDA events around many calls, or by the clock on a CPU; mean of the passes
    host_us: float  # until a call returns that finds the GPU idle; as gpu_us on a CPU
    passes_us: tuple[float, ...]  # gpu_us of each pass, a median of rounds

    @property
    def spread(self) -> float:
        """Difference between the largest and the smallest pass as a share of their mean."""
        return (max(self.passes_us) - min(self.passes_us)) / self.gpu_us


def graphed(step: Callable[[], Result], device: str) -> Callable[[], Result]:
    """Capture a step in a CUDA graph, after warm-ups on a side stream, and return a function that replays it.

    Args:
        step: takes no argument, reads and writes the same memory at every call and never waits for the GPU.
        device: "cuda"; with "cpu" the step itself is returned.

    Returns:
        A function that replays the graph and returns the tensors of the capture, overwritten by each replay.

    Raises:
        RuntimeError: the step does what cannot be captured, such as reading a number on the host. Others can still be.
    """
    if device != "cuda":
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            step()
    before = torch.cuda.current_stream()
    before.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            result = step()
    except BaseException:
        _end_capture(before)
        raise

    def replay() -> Result:
        graph.replay()
        return result

    return replay


def _end_capture(stream: torch.cuda.Stream) -> None:
    """Undo what torch leaves of a failed capture: its stream is the current one, and its generator still captures.

    Until a capture ends well every random number would be refused.
    """
    torch.cuda.set_stream(stream)
    with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.zeros(1, device="cuda").add_(1)
    torch.cuda.set_stream(stream)


def time_gpu(
    step: Callable[[], object],
    device: str,
    least_seconds: float = LEAST_SECONDS,
    prepare: Callable[[], object] = lambda: None,
) -> Timing:
    """Time one step that is already warm; see `time_together`."""
    return time_together({"": step}, device, least_seconds, prepare)[""]


def time_together(
    steps: Mapping[Name, Callable[[], object]],
    device: str,
    least_seconds: float = LEAST_SECONDS,
    prepare: Callable[[], object] = lambda: None,
) -> dict[Name, Timing]:
    """Time steps that are already warm, all in turn in each of 5 rounds, and everything twice.

    Args:
        steps: what to time.
        device: "cuda" or "cpu".
        least_seconds: of each reading; a step is called so often in a row that it takes so long.
        prepare: called before every round, untimed: say, writes fresh events.
    """
    calls = {name: _calls_for(step, device, least_seconds)[0] for name, step in steps.items()}
    passes: dict[Name, list[float]] = {name: [] for name in steps}
    hosts: dict[Name, list[float]] = {name: [] for name in steps}
    gc.collect()
    gc.disable()
    try:
        for _ in range(PASSES):
            readings: dict[Name, list[float]] = {name: [] for name in steps}
            for _ in range(ROUNDS):
                prepare()
                for name, step in steps.items():
                    seconds, host = _seconds(step, calls[name], device)
                    readings[name].append(seconds / calls[name])
                    hosts[name].append(host)
            for name, values in readings.items():
                passes[name].append(1e6 * statistics.median(values))
    finally:
        gc.enable()
    return {
        name: Timing(
            gpu_us=statistics.mean(values),
            host_us=1e6 * statistics.median(hosts[name]) if device == "cuda" else statistics.mean(values),
            passes_us=tuple(values),
        )
        for name, values in passes.items()
    }


def quick_us(step: Callable[[], object], device: str) -> float:
    """Return the microseconds of a call from one short reading, to choose between forms of one thing."""
    _seconds(step, 1, device)
    calls, seconds = _calls_for(step, device, LEAST_SECONDS / 10)
    return 1e6 * seconds / calls


def _calls_for(step: Callable[[], object], device: str, least_seconds: float) -> tuple[int, float]:
    """Return how many calls in a row take so long, and how long these took.

    The first readings are mostly launches, so the number grows.
    """
    calls = 1
    while (seconds := _seconds(step, calls, device)[0]) < least_seconds:
        calls = max(2 * calls, math.ceil(calls * min(least_seconds / seconds, 16.0)))
    return calls, seconds


def _seconds(step: Callable[[], object], calls: int, device: str) -> tuple[float, float]:
    """Return the seconds of calls in a row, and those for which the first keeps the host.

    On a GPU the former are counted by events, from the first kernel's turn to the last one's end, and the first call
    finds it idle. On a CPU there is but the former.
    """
    if device != "cuda":
        before = time.perf_counter()
        for _ in range(calls):
            step()
        return max(time.perf_counter() - before, _NOTHING_SECONDS), 0.0
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    before = time.perf_counter()
    step()
    host = time.perf_counter() - before
    for _ in range(calls - 1):
        step()
    end.record()
    end.synchronize()
    return max(start.elapsed_time(end) / 1e3, _NOTHING_SECONDS), host
