"""One line of the table: choose the best form of every implementation, time them all together, measure their memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accuracy import Errors
from baselines import COMPILED, OURS, Step, make_step, memory_formats, names
from cases import Case, Problem, step_flops
from machine import Record, environment
from memory import peak_mib
from timing import SGEMM_FLOPS, interleave, medians, sgemm, trial

Progress = Callable[[str, float], object]  # what is being done, share of this record done

_SGEMM = "sgemm"


def measure(
    case: Case,
    problem: Problem,
    mode: str,
    compiled: bool,
    seconds: float,
    rounds: int,
    errors: Errors,
    progress: Progress,
) -> Record:
    """Return the record of a case and mode.

    Args:
        case: for its name and batch.
        problem: its tensors, contiguous.
        mode: "eval" or "train".
        compiled: whether to time (iii) under torch.compile.
        seconds: time for the interleaved rounds.
        rounds: number of rounds to make however long they take.
        errors: those of the case.
        progress: told what happens.
    """
    threads = torch.get_num_threads()
    chosen: dict[str, tuple[torch.memory_format, Step]] = {}
    compile_seconds = None
    everything = names(mode, compiled)
    for i, name in enumerate(everything):
        progress(f"{case.name} {mode}: warming up {name}", 0.3 * i / len(everything))
        # A compilation takes ten seconds or more: one, in the memory format in which the same code ran faster eagerly.
        formats = [chosen["explicit"][0]] if name == COMPILED else memory_formats(name, problem)
        candidates = []
        for memory_format in formats:
            step = make_step(name, problem.to(memory_format=memory_format), mode)
            first, second = trial(step)
            candidates.append((second, memory_format, step))
            if name == COMPILED:
                compile_seconds = first
        chosen[name] = min(candidates, key=lambda candidate: candidate[0])[1:]
    steps: dict[str, Callable[[], object]] = {name: step for name, (_, step) in chosen.items()}
    samples = interleave(
        steps | {_SGEMM: sgemm()},
        seconds,
        rounds,
        progress=lambda share: progress(f"{case.name} {mode}: timing", 0.3 + 0.5 * share),
    )
    times = medians(samples)
    peaks = {}
    for i, (name, (memory_format, _)) in enumerate(chosen.items()):
        progress(f"{case.name} {mode}: memory of {name}", 0.8 + 0.2 * i / len(everything))
        if name != COMPILED:  # a process of its own would have to compile again
            peaks[name] = peak_mib(name, problem.to(memory_format=memory_format), mode, threads)
    progress(f"{case.name} {mode}: done", 1.0)
    return {
        "case": case.name,
        "branch": case.label,
        "batch": len(problem.x),
        "terms": len(problem.coefficients),
        "mode": mode,
        "ours_ms": 1e3 * times[OURS],
        "baselines": {name: 1e3 * times[name] for name in everything if name != OURS},
        "channels_last": [name for name, (form, _) in chosen.items() if form == torch.channels_last],
        "calls": {name: len(values) for name, values in samples.items()},
        "compile_seconds": compile_seconds,
        "gflops": step_flops(problem, mode) / times[OURS] / 1e9,
        "sgemm_peak_gflops": SGEMM_FLOPS / times[_SGEMM] / 1e9,
        "sgemm_best_gflops": SGEMM_FLOPS / min(samples[_SGEMM]) / 1e9,
        "peak_mib": peaks[OURS],
        "baselines_peak_mib": {name: peak for name, peak in peaks.items() if name != OURS},
        **errors,
        **environment(),
    }
