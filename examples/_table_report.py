"""The page and the picture of what methods come to on tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _common
from matplotlib import pyplot as plt

METHODS = {"ours": "#0072B2", "mixture": "#009E73", "normflows": "#D55E00"}
LEVEL = 0.005  # nats that rounding and no more can make


def text(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    header = [
        "table",
        "rows x columns",
        "Gaussian",
        "ours",
        "mixture",
        "normflows",
        "ours - mixture",
        "seconds",
        "steps",
    ]
    rows = []
    for name, one in results["runs"].items():
        gains = [shown(one["gain"][method]) for method in METHODS]
        shape, steps = f"{one['rows']} x {one['columns']}", one["steps"]
        others = [shown(one["ours_over_mixture"]), f"{one['seconds']:.0f}", f"{steps['ours']}, {steps['normflows']}"]
        rows.append([name, shape, shown(one["gaussian"], ""), *gains, *others])
    runs = results["runs"].values()
    won = {
        "the Gaussian": sum(one["gain"]["ours"][0] > -LEVEL for one in runs),
        "the mixture": sum(one["ours_over_mixture"][0] > -LEVEL for one in runs),
        "normflows' flow": sum(one["ours_over_normflows"][0] > -LEVEL for one in runs),
    }
    counts = ", ".join(f"{what} on {n}" for what, n in won.items())
    notes = (
        "Mean log-density of test rows in nats: of the Gaussian itself, of the others by how much it is larger, each "
        "with the standard error of the mean over the rows; steps of ours and of normflows' flow, in equal seconds.",
        f"Of {len(runs)} tables our flow is at least as good as {counts}.",
        *(dict.fromkeys(f"{one['machine']}." for one in runs)),
        "![Gain over the Gaussian](tables.png)",
    )
    return _common.page("Densities of tables", _common.table(header, rows), *notes)


def shown(value: list[float], sign: str = "+") -> str:
    """Return a mean with its standard error."""
    return f"{value[0]:{sign}.2f} +- {value[1]:.2f}"


def draw(results: dict[str, Any], out: Path) -> None:
    """Write the picture: what each method gains over the Gaussian."""
    runs = results["runs"]
    figure, axes = plt.subplots(figsize=(8.0, 3.6))
    for i, (method, colour) in enumerate(METHODS.items()):
        gains, errors = zip(*(one["gain"][method] for one in runs.values()), strict=True)
        at = [place + 0.25 * (i - 1) for place in range(len(runs))]
        axes.bar(at, gains, 0.25, yerr=errors, color=colour, label=method, capsize=2)
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_xticks(range(len(runs)), runs, rotation=35, ha="right")
    axes.set_ylabel("nats over the Gaussian")
    axes.legend()
    _common.save(figure, out, "tables")
