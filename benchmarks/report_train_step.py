"""The tables of a whole training step."""

from __future__ import annotations

import textwrap
from typing import Any

from baselines import COMPILED, OURS, TITLES
from machine import setting
from report import verdict
from sections import BACKWARD, FORWARD
from text_table import table
from train_steps import PHASES

# End to end: over the autograd series, and over the best of the others; largest share of glue.
SERIES_FLOOR, BEST_FLOOR, GLUE_LIMIT = 5.0, 2.5, 0.15
GLUE = "Python and glue"
_WIDTH = 140

Record = dict[str, Any]


def best_other(record: Record) -> str:
    """Return the fastest baseline but the series."""
    others = {name: time for name, time in record["baselines"].items() if name != "series"}
    return min(others, key=others.__getitem__)


def parts(record: Record) -> dict[str, float]:
    """Return the milliseconds of the sections of our step, glue last."""
    return {**record["sections_ms"], GLUE: record["glue_ms"]}


def tables(record: Record) -> str:
    """Return all results as Markdown tables, which read well on a terminal too."""
    return "\n\n".join([_setting(record), _times(record), _ratios(record), _sections(record), _notes(record)])


def _setting(record: Record) -> str:
    return (
        f"{setting([record])}\nbatch {record['batch']}, {record['terms']} terms, {record['power_iterations']} power "
        f"iterations of the baselines; {record['images']}; "
        f"medians, of ours of {record['steps']} steps; sgemm {record['sgemm_peak_gflops']:.0f} GFLOP/s"
    )


def _times(record: Record) -> str:
    ours = record["ours_ms"]
    rows = []
    for name, total in ({OURS: ours} | record["baselines"]).items():
        phases = record["phases_ms"][name]
        cells = ["-" if name == OURS and phase == PHASES[1] else f"{phases[phase]:.1f}" for phase in PHASES]
        star = "*" * (name in record["channels_last"])
        rows.append([TITLES[name], f"{total:.1f}{star}", f"{1e3 * record['batch'] / total:.0f}", *cells])
    return table(["median ms", "step", "images/s", *PHASES], rows)


def _ratios(record: Record) -> str:
    ours, name = record["ours_ms"], best_other(record)
    series, best = record["baselines"]["series"] / ours, record["baselines"][name] / ours
    glue = record["glue_ms"] / ours
    rows = [
        ["over (i) series", TITLES["series"], verdict(series, SERIES_FLOOR, f"{series:.2f}x")],
        ["over the best of the others", TITLES[name], verdict(best, BEST_FLOOR, f"{best:.2f}x")],
        ["glue", TITLES[OURS], f"{glue:.1%} (<= {GLUE_LIMIT:.0%}: {'met' if glue <= GLUE_LIMIT else 'MISSED'})"],
    ]
    return table(["whole step", "what", "result"], rows)


def _sections(record: Record) -> str:
    rates = {FORWARD: record["forward_gflops"], BACKWARD: record["backward_gflops"]}
    rows = []
    for section, time in parts(record).items():
        rate = rates.get(section)
        speed = "-" if rate is None else f"{rate:.0f} ({rate / record['sgemm_peak_gflops']:.0%} of sgemm)"
        rows.append([section, f"{time:.2f}", f"{time / record['ours_ms']:.1%}", speed])
    return table(["our step", "ms", "share", "GFLOP/s"], rows)


def _notes(record: Record) -> str:
    errors = ", ".join(f"{TITLES[name]} {error:.0e}" for name, error in record["gradient_errors"].items())
    notes = [
        "An asterisk: channels-last, where faster. All make the same step: before timing, losses agreed within "
        f"{max(record['loss_errors'].values()):.0e} and gradients within {errors}, relative, for the same noise and "
        "probes; (i) with our kernels' own gradient of the series. Ours iterates the norms within forward and draws "
        f"its noise there. {GLUE}: our step less the {record['operators']} operators of one step, timed alone."
    ]
    if record["compile_seconds"] is not None:
        seconds = f"{record['compile_seconds']:.0f} s"
        notes.append(f"{TITLES[COMPILED]}: the loss in one piece; compilation took {seconds}, not counted.")
    return "\n".join(textwrap.fill(note, _WIDTH) for note in notes)
