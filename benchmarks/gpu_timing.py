"""Implementations of one thing, each as a CUDA graph and eagerly, timed together into records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from gpu_records import EAGER, GRAPH, GpuRecord, not_timed, timed
from graphs import READINGS, graphed, quick_us, time_together

Step = Callable[[], Any]
_FORMATS = {torch.contiguous_format: "contiguous", torch.channels_last: "channels_last"}


@dataclass
class Implementation:
    """What can be timed of an implementation, and why other things cannot."""

    memory_format: torch.memory_format = torch.contiguous_format
    launches: dict[str, Step] = field(default_factory=dict)  # by "graph" or "eager"
    failures: dict[str, Exception] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        step: Step,
        device: str,
        memory_format: torch.memory_format = torch.contiguous_format,
        launches: tuple[str, ...] = (EAGER, GRAPH),
    ) -> Implementation:
        """Try a step eagerly and capture it.

        Args:
            step: takes no argument.
            device: "cuda", or "cpu", where the step itself stands for its graph.
            memory_format: to be told in the records.
            launches: "eager" alone for a step that waits for the GPU; "graph" alone for one that is a graph already.
        """
        found = cls(memory_format)
        try:
            step()
        except Exception as error:  # a baseline may fail in its own way, and the others are of interest
            found.failures = dict.fromkeys(launches, error)
            return found
        found.launches = dict.fromkeys(launches, step)
        if EAGER in launches and GRAPH in launches:
            try:
                found.launches[GRAPH] = graphed(step, device)
            except Exception as error:
                del found.launches[GRAPH]
                found.failures[GRAPH] = error
        return found

    def quick_us(self, device: str) -> float:
        """Return microseconds of a call, to choose between forms: of the graph or else eagerly; infinite if neither."""
        step = self.launches.get(GRAPH, self.launches.get(EAGER))
        return math.inf if step is None else quick_us(step, device)

    def seconds_to_time(self, device: str) -> float:
        """Return how long `records_of` will at least call the steps, from one short reading of each."""
        return READINGS * sum(quick_us(step, device) for step in self.launches.values()) / 1e6


def records_of(
    implementations: Mapping[str, Implementation],
    about: Mapping[str, Any],
    device: str,
    least_seconds: float,
    error: Callable[[str, Step], float | None],
    prepare: Callable[[], object] = lambda: None,
) -> list[GpuRecord]:
    """Time all implementations in turn and return a record for each way to launch them.

    Args:
        implementations: by name.
        about: the fields of the records that they share.
        device: "cuda" or "cpu".
        least_seconds: of each reading.
        error: given a name and a step of that implementation, returns the error of what the step computes; if it cannot
            be computed, there is none and the times stand.
        prepare: called before every round, untimed.
    """
    steps = {(name, launch): step for name, one in implementations.items() for launch, step in one.launches.items()}
    times = time_together(steps, device, least_seconds, prepare)
    records = []
    for name, one in implementations.items():
        what = {**about, "implementation": name, "memory_format": _FORMATS[one.memory_format]}
        peak = None
        with suppress(RuntimeError):  # out of memory, beside what the others hold: the times stand without it
            peak = peak_mib(one.launches[EAGER], device) if EAGER in one.launches else None
        for launch, step in one.launches.items():
            try:
                wrong = error(name, step)
            except RuntimeError:
                wrong = None
            known = {"peak_mib": peak, "error": wrong, "failed": None}
            records.append(GpuRecord(**what, launch=launch, **timed(times[name, launch]), **known))
        records += [GpuRecord(**what, launch=launch, **not_timed(why)) for launch, why in one.failures.items()]
    return records


def peak_mib(step: Step, device: str) -> float | None:
    """Return by how many MiB a call raises the memory that torch has allocated at its peak; None on a CPU."""
    if device != "cuda":
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
