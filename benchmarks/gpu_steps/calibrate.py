"""Times forced resident plans beside the plan model, fits the model's constants, and counts how often it chose well.

In a dry run the times are those of the model itself with other constants, which the fit must find again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from plan_fit import Constants, fit, within
from step import ROOT, Run, first_line

sys.path.insert(0, str(ROOT / "tests"))
os.environ["SIMT_ONLY"] = "plan,plan_constants,plan_layout,plan_model,plan_text"  # of the emulator, in a dry run
from simt.chain_cases import Problem
from simt.chain_cases import run as run_chain
from simt.emulator import SimtError, project_emulator
from simt.gpu import OnlyEmulated, this_gpu
from simt.plans import NOT_SHARED, TRANSPOSED, constants_of, modelled
from simt.resident import BF16, FULL, TF32, Choice, Shape

TERMS = 10
CARDS = {75: "t4", 80: "a100", 86: "rtx3090", 89: "rtx4090", 90: "h100", 100: "b200", 120: "rtx5090"}
PRECISIONS = {"float32": FULL, "tf32": TF32, "bf16": BF16}
# What an FMA costs and the clock are known; the layered way is not timed by itself.
FREE = (
    "l2_bytes_per_cycle", "load_latency_cycles", "shared_latency_cycles", "barrier_cycles", "step_cycles", "mma_cycles",
    "fragment_cycles", "start_cycles", "store_cycles", "exchange_cycles", "product_cycles", "element_cycles",
    "setup_cycles", "element_setup_cycles",
)  # fmt: skip
SHAPES = [
    *(Shape((2, 128, 128, 128, 2), batch) for batch in (100, 500, 1000, 4000)),
    *(Shape((43, 128, 128, 43), batch) for batch in (200, 1000, 3000)),
    *(Shape((64, 256, 64), batch) for batch in (500, 4096)),
    *(Shape((6, 64, 64, 6), batch) for batch in (500, 5000)),
    *(Shape((4, 32, 32, 4), batch, (3, 1, 3), (14, 14)) for batch in (32, 128, 256, 600)),
    *(Shape((16, 64, 64, 16), batch, (3, 1, 3), (7, 7)) for batch in (64, 256)),
    *(Shape((12, 64, 12), batch, (3, 3), (8, 8)) for batch in (64, 512)),
    Shape((3, 16, 16, 3), 128, (3, 1, 3), (16, 16)),
]
MEASURING = 0.65  # share of the time; the rest is the fit's


class Forced(NamedTuple):
    """A shape, a precision and a plan for it."""

    shape: Shape
    precision: str
    choice: Choice
    words: str


def main() -> None:
    """Measure, fit, judge."""
    run = Run("calibrate")
    gpu = None if run.dry else this_gpu()
    library = gpu or project_emulator("fast")
    card = "h100" if gpu is None else CARDS.get(gpu.architecture)
    if card is None:
        sys.exit(f"calibrate: card.h knows no card of architecture {gpu.architecture}: add it there, and a row to "
                 "plan_constants.cpp")  # fmt: skip
    start = constants_of(card, library)

    def model(plans: list[Forced], constants: Constants) -> NDArray[np.float64]:
        return np.array([
            modelled(p.shape, card, TRANSPOSED, 1, TERMS, PRECISIONS[p.precision], choice=p.choice,
                     constants=constants, library=library)[1].resident
            for p in plans
        ])  # fmt: skip

    if gpu is None:
        try_fit(run, list(candidates(SHAPES[:6:2] + SHAPES[11:16:2], card, library)), model, start)
        return
    plans, times, until = [], [], (1.0 - MEASURING) * run.left()
    for plan in candidates(SHAPES, card, library):
        if run.left() < until:
            run.record("left out", shape=str(plan.shape), precision=plan.precision)
            break
        about = {
            "shape": f"{plan.shape.channels} {plan.shape.image} x {plan.shape.batch}",
            "precision": plan.precision,
            "plan": plan.words,
        }
        try:
            us = measured(gpu, plan, card)
        except (SimtError, OnlyEmulated) as failure:  # one plan; the fit needs not all
            run.record("failures", **about, message=first_line(failure))
            continue
        plans.append(plan)
        times.append(us)
        run.record("plans", **about, us=us, modelled=float(model([plan], start)[0]))
    if not plans:
        sys.exit("calibrate: no plan could be timed")
    judge(run, plans, np.array(times), model, start)


def candidates(shapes: list[Shape], card: str, library: Any) -> Iterator[Forced]:
    """Yield every resident plan that differs from the others of its shape and precision."""
    choices = [Choice(items, 0, w, d) for items in (1, 2, 4, 8, 16, 32, 64) for w in (0, 1) for d in (0, 1)]
    # Shape by shape: what there is no time for is shapes, not precisions.
    for shape in shapes:
        for precision, number in PRECISIONS.items():
            seen = set()
            for choice in choices:
                plan, _ = modelled(shape, card, TRANSPOSED, 1, TERMS, number, choice=choice, library=library)
                stages = plan.stage[: plan.stages]
                places = tuple((s.weight != NOT_SHARED, s.derivative != NOT_SHARED) for s in stages)
                key = (plan.family, plan.threads, plan.items, plan.blocks_per_multiprocessor, places)
                if plan.resident and key not in seen:
                    seen.add(key)
                    words = f"family {plan.family}, {plan.items} items, {plan.threads} threads, {plan.blocks} blocks"
                    yield Forced(shape, precision, choice, words)


def measured(gpu: Any, plan: Forced, card: str) -> float:
    """Return the microseconds of a chain under a plan."""
    problem = Problem(plan.shape, terms=TERMS)
    try:
        with gpu.timed():
            run_chain(gpu, problem, torch.float32, powers=False, choice=plan.choice, card=card,
                      precision=PRECISIONS[plan.precision], place=gpu.managed)  # fmt: skip
            return float(gpu.microseconds)
    finally:
        gpu.release()


def judge(run: Run, plans: list[Forced], times: NDArray[np.float64], model: Any, start: Constants) -> Constants:
    """Fit, and record constants, times, how often the model chose within 5 % of the best, and the row of the table."""
    fitted = fit(lambda constants: model(plans, constants), times, start, FREE)
    before, after = model(plans, start), model(plans, fitted)
    groups = [(plan.shape, plan.precision) for plan in plans]
    for title, times_modelled in (("before", before), ("fitted", after)):
        run.record(
            "choices", constants=title, shapes=len(set(groups)), plans=len(plans),
            within_5_percent=within(times, times_modelled, groups, 0.05),
            typical_error=float(np.exp(np.median(np.abs(np.log(times_modelled / times)))) - 1.0),
        )  # fmt: skip
    for name, value in fitted.items():
        run.record("constants", name=name, before=start[name], fitted=value, free=name in FREE)
    run.record("row", text="{" + ", ".join(f"{value:.4g}" for value in fitted.values()) + "}")
    return fitted


def try_fit(run: Run, plans: list[Forced], model: Any, start: Constants) -> None:
    """Give the fit the model's own times with other constants; the program fails if it does not find them again."""
    generator = np.random.default_rng(0)
    truth = {name: value * (generator.uniform(0.7, 1.4) if name in FREE else 1.0) for name, value in start.items()}
    times = model(plans, truth)
    fitted = judge(run, plans, times, model, start)
    worst = float(np.abs(np.log(model(plans, fitted) / times)).max())
    run.record("tried", plans=len(plans), worst_error_of_a_time=worst)
    if worst > 0.05:
        sys.exit(f"calibrate: the fit must find the times it was given again within 5 %, one is off by {worst:.0%}")


if __name__ == "__main__":
    main()
