"""The log-determinants of one case on a GPU: every implementation, replayed from a CUDA graph and eagerly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from accuracy import mean_error, worst_relative
from baselines import COMPILED, MODES, NORMFLOWS, OURS, make_step, memory_formats, names
from cases import Case, Problem
from gpu_cases import build_gpu, event_sets, scaled
from gpu_records import EAGER, GRAPH, GpuRecord, origin
from gpu_timing import Implementation, Step, records_of
from graphs import LEAST_SECONDS
from precision import BF16, products_in
from torch import Tensor

Truth = dict[str, tuple[Tensor, ...]]


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
    eager_series: bool = True,
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
        eager_series: whether (i) is also timed eagerly, which over 100 blocks takes half a second a call.
    """
    forms: dict[str, _Form] = {}

    def error(name: str, step: Step) -> float | None:
        forms[name].problem.x.copy_(problem.x)
        return _error(name, mode, step(), exact)

    with products_in(precision):
        for name in names(mode, compiled):
            if name not in NORMFLOWS or (problem.blocks == 1 and precision != BF16):
                say(f"{case.name} {mode} {precision}: warming up {name}")
                forms[name] = _fastest_form(name, problem, mode, precision, device, forms)
        if not eager_series:
            forms["series"].implementation.launches.pop(EAGER, None)
        say(f"{case.name} {mode} {precision}: timing")
        about = {
            **origin(device),
            "case": case.name,
            "subject": case.label,
            "batch": len(problem.x),
            "terms": len(problem.coefficients),
            "mode": mode,
            "precision": precision,
        }
        implementations = {name: form.implementation for name, form in forms.items()}
        fresh_events = event_sets([form.problem for form in forms.values()])
        return records_of(implementations, about, device, least_seconds, error, fresh_events)


class _Form(NamedTuple):
    """An implementation and the tensors it reads, its events being its own."""

    implementation: Implementation
    problem: Problem


def _fastest_form(
    name: str, problem: Problem, mode: str, precision: str, device: str, others: dict[str, _Form]
) -> _Form:
    """Return an implementation in the memory format in which it is faster."""
    # A compilation takes a minute: one, in the memory format in which the same code ran faster.
    formats = [others["explicit"].implementation.memory_format] if name == COMPILED else memory_formats(name, problem)
    candidates = [_form(name, problem, mode, precision, device, memory_format) for memory_format in formats]
    return min(candidates, key=lambda form: form.implementation.quick_us(device))


def _form(
    name: str, problem: Problem, mode: str, precision: str, device: str, memory_format: torch.memory_format
) -> _Form:
    own = problem.to(memory_format=memory_format)
    if precision == BF16 and name != OURS:
        own = own.to(torch.bfloat16)
    own = replace(own, x=own.x.clone())
    step = make_step(name, own, mode, autocast=precision == BF16 and name == OURS)
    launches = (EAGER, GRAPH)
    if name == COMPILED:
        launches = (GRAPH,)  # torch's own
    elif name in NORMFLOWS:
        launches = (EAGER,)  # it reads numbers on the host
    return _Form(Implementation.of(step, device, memory_format, launches), own)


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
