"""Times ways of running a chain beside the plan model, fits the model's constants, and counts how often it chose well.

The ways are forced resident plans and the layered way. In a dry run the times are those of the model itself with other
constants, which the fit must find again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from forced_plans import SHAPES, Forced, candidates, measured, modelled
from gpu_report import read
from known_cards import DRY_ARCHITECTURE, known_card
from numpy.typing import NDArray
from plan_fit import Constants, Fit, fit, within
from step import ROOT, Run, first_line

sys.path.insert(0, str(ROOT / "tests"))
from simt.emulator import SimtError, project_emulator
from simt.gpu import Gpu, OnlyEmulated, this_gpu
from simt.plans import constants_of

DRY_SHAPES = 6
MEASURING = 0.55  # share of the time; the rest is the fit's
# What is known and not fitted, and from where.
SHEET = "data sheet"
FACTS = {"clock_megahertz": SHEET, "float_fma_cycles": SHEET, "double_fma_cycles": SHEET}


def main() -> None:
    """Measure, fit, judge."""
    run = Run("calibrate")
    gpu = None if run.dry else this_gpu()
    architecture = DRY_ARCHITECTURE if gpu is None else gpu.architecture
    card = known_card("calibrate", architecture)
    if gpu is None:
        os.environ["SIMT_ONLY"] = "plan"
        library = project_emulator("fast")
        plans = list(candidates(SHAPES[:DRY_SHAPES], card, library))
        fitted = try_fit(run, plans, constants_of(card, library))
    else:
        start, facts = constants_of(card, gpu), dict(FACTS)
        clock = measured_clock(run)
        if clock is not None:
            start["clock_megahertz"], facts["clock_megahertz"] = clock, "measured by ceilings"
        plans, times = measure(run, gpu, card, start)
        fitted = judge(run, plans, times, start, facts)
    if fitted.finished:
        values = ", ".join(f".{name} = {value:.4g}" for name, value in fitted.constants.items())
        run.record("row", text=f"{{{architecture}, {{{values}}}}},")
    else:
        run.record("left out", what="the rest of the fit, and a row made of it")


def measured_clock(run: Run) -> float | None:
    """Return the MHz that the step `ceilings` counted on this card under load, or None if it did not."""
    wanted = ("ceilings", "clock", run.card)
    found = (record for record in read(run.out) if (record["step"], record.get("name"), record["card"]) == wanted)
    return next((record["value"] for record in found), None)


def measure(run: Run, gpu: Gpu, card: str, start: Constants) -> tuple[list[Forced], NDArray[np.float64]]:
    """Return what there was time for, and the microseconds of each; exit if there is nothing."""
    plans, times, until = [], [], (1.0 - MEASURING) * run.left()
    for plan in candidates(SHAPES, card, gpu):
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
        run.record("plans", **about, us=us, modelled=float(modelled([plan], start)[0]))
    if not plans:
        sys.exit("calibrate: no plan could be timed")
    return plans, np.array(times)


def judge(
    run: Run, plans: Sequence[Forced], times: NDArray[np.float64], start: Constants, facts: Mapping[str, str]
) -> Fit:
    """Fit the constants and return what was found; record them, and how well the model chose before and does now.

    Args:
        run: what records.
        plans: what was timed.
        times: microseconds of each.
        start: the constants so far.
        facts: those not to be fitted, and where their values are from.
    """

    def model(constants: Constants) -> NDArray[np.float64]:
        return modelled(plans, constants)

    def record_choices(title: str, constants: Constants) -> None:
        run.record("choices", constants=title, plans=len(plans), **choices(plans, times, model(constants)))

    record_choices("before", start)  # at once: what may end the step is the fit
    fitted = fit(model, times, start, [name for name in start if name not in facts], run.left)
    record_choices("fitted", fitted.constants)
    for name, value in fitted.constants.items():
        origin = facts.get(name) or _origin(name, fitted)
        run.record("constants", name=name, before=start[name], now=value, origin=origin)
    return fitted


def _origin(name: str, fitted: Fit) -> str:
    if not fitted.finished:
        return "fit not finished"
    if name in fitted.determined:
        return "fitted"
    return "fitted, if those not determined are right" if name in fitted.moved else "not determined by these times"


def choices(
    plans: Sequence[Forced], times: NDArray[np.float64], times_modelled: NDArray[np.float64]
) -> dict[str, float]:
    """Return how often the model chose within 5 % of the best, and how far it is off a time."""
    good, all_choices = within(times, times_modelled, [plan.group for plan in plans], 0.05)
    # Resident or layered: the resident plan that the model would take against the layered way.
    fastest = {(plans[i].group, plans[i].choice.layered): i for i in np.argsort(-times_modelled)}
    ways = list(fastest.values())
    good_ways, all_ways = within(times[ways], times_modelled[ways], [plans[i].group for i in ways], 0.05)
    return {
        "choices": all_choices,
        "within_5_percent": good,
        "resident_or_layered": all_ways,
        "of_these_within_5_percent": good_ways,
        "typical_error": float(np.exp(np.median(np.abs(np.log(times_modelled / times)))) - 1.0),
    }


def try_fit(run: Run, plans: Sequence[Forced], table: Constants) -> Fit:
    """Give the fit the model's own times with other constants; the program fails if it does not find them again."""
    generator = np.random.default_rng(0)
    truth = {name: value * (1.0 if name in FACTS else generator.uniform(0.7, 1.4)) for name, value in table.items()}
    times = modelled(plans, truth)
    fitted = judge(run, plans, times, table, FACTS)
    worst = float(np.abs(np.log(modelled(plans, fitted.constants) / times)).max())
    run.record("tried", plans=len(plans), worst_error_of_a_time=worst)
    if worst > 0.05:
        sys.exit(f"calibrate: the fit must find the times it was given again within 5 %, one is off by {worst:.0%}")
    return fitted


if __name__ == "__main__":
    main()
