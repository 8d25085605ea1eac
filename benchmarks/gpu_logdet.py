"""The log-determinants of one case on a GPU: every implementation, replayed from a CUDA graph and eagerly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accuracy import mean_error, worst_relative
from baselines import COMPILED, MODES, NORMFLOWS, OURS, Step, make_step, memory_formats, names
from cases import Case, Problem
from gpu_cases import build_gpu, event_sets, scaled
from gpu_records import EAGER, GRAPH, GpuRecord, not_timed, origin, timed
from graphs import LEAST_SECONDS, graphed, quick_us, time_together
from precision import BF16, products_in
from torch import Tensor

FORMATS = {torch.contiguous_format: "contiguous", torch.channels_last: "channels_last"}
Truth = dict[str, tuple[Tensor, ...]]


@dataclass
class _Form:
    """An implementation in one memory format, and how it can be launched."""

    memory_format: torch.memory_format
    problem: Problem  # with events of its own
    launches: dict[str, Step] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)


def truth(problem: Problem, mode: str) -> Truth:
    """Return what the implementations estimate, in float64: by name where they differ, "" for the others.

    eval: (z, log-det) of the same probe and terms. train: the gradients of x and the parameters, Neumann's, and for
    (i) those of the series.
    """
    double = problem.to(torch.float64)
    if mode == "eval":
        return {"": make_step("series", double, mode)()}
    return {"": make_step("neumann", double, mode)(), "series": make_step("series", double, mode)()}


def measure(
    case: Case,
    problem: Problem,
    mode: str,
    precision: str,
    exact: Truth,
    compiled: bool,
    device: str,
    least_seconds: float = LEAST_SECONDS,
    say: Callable[[str], object] = lambda what: None,
) -> list[GpuRecord]:
    """Return a record of each implementation and way to launch it, all timed in turn.

    Args:
        case: for its name and label.
        problem: its tensors, contiguous float32, on the device.
        mode: "eval" or "train".
        precision: one of `precision.PRECISIONS`: as torch's switches for ours and baselines; "bf16" is autocast for
            ours, tensors of bfloat16 for baselines, which is the fastest they can do.
        exact: what `truth` returned.
        compiled: whether to time (iii) under torch.compile too, which takes a minute.
        device: "cuda", or "cpu" for a try without a GPU.
        least_seconds: of each reading.
        say: told what happens.
    """
    with products_in(precision):
        forms = {}
        for name in names(mode, compiled):
            if name not in NORMFLOWS or (problem.blocks == 1 and precision != BF16):
                say(f"{case.name} {mode} {precision}: warming up {name}")
                forms[name] = _fastest_form(name, problem, mode, precision, device, forms)
        say(f"{case.name} {mode} {precision}: timing")
        steps = {(name, launch): step for name, form in forms.items() for launch, step in form.launches.items()}
        times = time_together(steps, device, least_seconds, event_sets([form.problem for form in forms.values()]))
        records = []
        for name, form in forms.items():
            about = _about(case, problem, mode, precision, device) | {
                "implementation": name,
                "memory_format": FORMATS[form.memory_format],
            }
            form.problem.x.copy_(problem.x)
            peak = peak_mib(form.launches[EAGER], device) if EAGER in form.launches else None
            for launch, step in form.launches.items():
                known = {"peak_mib": peak, "error": _error(name, mode, step(), exact), "failed": None}
                records.append(GpuRecord(**about, launch=launch, **timed(times[name, launch]), **known))
            for launch, error in form.failures.items():
                records.append(GpuRecord(**about, launch=launch, **not_timed(error)))
    return records


def peak_mib(step: Callable[[], object], device: str) -> float | None:
    """Return by how many MiB a call raises the memory that torch has allocated at its peak; None on a CPU."""
    if device != "cuda":
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _about(case: Case, problem: Problem, mode: str, precision: str, device: str) -> dict[str, Any]:
    return {
        **origin(device),
        "case": case.name,
        "subject": case.label,
        "batch": len(problem.x),
        "terms": len(problem.coefficients),
        "mode": mode,
        "precision": precision,
    }


def _fastest_form(
    name: str, problem: Problem, mode: str, precision: str, device: str, others: dict[str, _Form]
) -> _Form:
    """Return an implementation in the memory format in which its graph, or else its eager form, is faster."""
    # A compilation takes a minute: one, in the memory format in which the same code ran faster.
    formats = [others["explicit"].memory_format] if name == COMPILED else memory_formats(name, problem)
    candidates = []
    for memory_format in formats:
        form = _form(name, problem, mode, precision, device, memory_format)
        steps = [form.launches[launch] for launch in (GRAPH, EAGER) if launch in form.launches]
        candidates.append((quick_us(steps[0], device) if steps else float("inf"), form))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _form(
    name: str, problem: Problem, mode: str, precision: str, device: str, memory_format: torch.memory_format
) -> _Form:
    narrow = precision == BF16
    own = problem.to(memory_format=memory_format)
    if narrow and name != OURS:
        own = own.to(torch.bfloat16)
    form = _Form(memory_format, replace(own, x=own.x.clone()))
    try:
        step = make_step(name, form.problem, mode, autocast=narrow and name == OURS)
        step()
    except (RuntimeError, TypeError, ValueError) as error:
        form.failures[GRAPH if name == COMPILED else EAGER] = error
        return form
    if name == COMPILED:  # into graphs of torch's own
        form.launches[GRAPH] = step
        return form
    form.launches[EAGER] = step
    if name not in NORMFLOWS:  # which reads numbers on the host
        try:
            form.launches[GRAPH] = graphed(step, device)
        except RuntimeError as error:
            form.failures[GRAPH] = error
    return form


def _error(name: str, mode: str, result: Sequence[Tensor], exact: Truth) -> float | None:
    truth = exact.get(name, exact[""])
    if mode == "eval":
        return mean_error(result[1].double() - truth[1], truth[0][0].numel())
    # In training normflows draws a probe of its own.
    return None if name in NORMFLOWS else worst_relative([t.double() for t in result], truth)


def run(
    cases: Sequence[Case],
    precisions: Sequence[str],
    compiled: Sequence[str],
    device: str,
    terms: int | None = None,
    scale: float = 1.0,
    least_seconds: float = LEAST_SECONDS,
    say: Callable[[str], object] = lambda what: None,
) -> Iterator[GpuRecord]:
    """Yield the records of all cases, modes and precisions, in this order, as soon as they are known.

    Args:
        cases: of `gpu_cases.GPU_CASES`.
        precisions: of `precision.PRECISIONS`.
        compiled: names of the cases in which (iii) is also timed under torch.compile.
        device: "cuda", or "cpu" for a try without a GPU.
        terms: of the series; None: those of each case.
        scale: as `scaled` takes it.
        least_seconds: of each reading.
        say: told what happens.
    """
    for full in cases:
        case = scaled(full if terms is None else replace(full, terms=terms), scale)
        say(f"{case.name}: preparing")
        problem = build_gpu(case, device)
        for mode in MODES:
            exact = truth(problem, mode)
            for precision in precisions:
                yield from measure(
                    case, problem, mode, precision, exact, case.name in compiled, device, least_seconds, say
                )
