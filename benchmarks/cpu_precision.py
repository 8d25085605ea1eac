"""Ours on a CPU under autocast to bfloat16 beside float32: times, their ratio, and errors against float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accuracy import mean_error, worst_relative
from baselines import MODES, OURS, make_step
from cases import Case, Problem
from machine import Record, environment
from precision import BF16, FLOAT32
from text_table import table
from timing import interleave, medians, trial

_SAMPLES = 4  # compared with float64


def compare(case: Case, problem: Problem, seconds: float, rounds: int) -> list[Record]:
    """Return a record of each mode.

    Args:
        case: for its name and label.
        problem: its tensors in float32.
        seconds: time for the interleaved rounds of a mode.
        rounds: number of rounds to make however long they take.
    """
    records = []
    for mode in MODES:
        steps: dict[str, Callable[[], object]] = {
            name: make_step(OURS, problem, mode, autocast=name == BF16) for name in (FLOAT32, BF16)
        }
        for step in steps.values():
            trial(step)
        times = medians(interleave(steps, seconds, rounds))
        errors = {name: _error(problem.head(_SAMPLES), mode, name == BF16) for name in steps}
        what = {"case": case.name, "branch": case.label, "batch": len(problem.x), "mode": mode}
        ms = {name: 1e3 * time for name, time in times.items()}
        records.append({**what, "ms": ms, "errors": errors, **environment()})
    return records


def _error(problem: Problem, mode: str, autocast: bool) -> float:
    """Return the mean error of the log-determinant in nats per dimension, or the largest relative one of a gradient."""
    truth = make_step("series" if mode == "eval" else "neumann", problem.to(torch.float64), mode)()
    ours = make_step(OURS, problem, mode, autocast)()
    if mode == "train":
        return worst_relative(ours, truth)
    return mean_error(ours[1].double() - truth[1], problem.x[0].numel())


def summary(records: Sequence[Record]) -> str:
    """Return the records as a table, and what they were measured on."""
    first = records[0]
    rows = [
        [
            record["case"],
            record["mode"],
            str(record["batch"]),
            *(f"{record['ms'][name]:.2f}" for name in (FLOAT32, BF16)),
            f"{record['ms'][FLOAT32] / record['ms'][BF16]:.2f}x",
            *(f"{record['errors'][name]:.1e}" for name in (FLOAT32, BF16)),
        ]
        for record in records
    ]
    header = ["case", "mode", "batch", "float32 ms", "bf16 ms", "speed-up", "float32 error", "bf16 error"]
    setting = (
        f"{first['processor']}, {first['threads']} threads, {first['isa']}, torch {first['torch']}, {first['date']}"
    )
    return f"{setting}\n\n{table(header, rows)}"
