"""The picture of the noise of estimators, from its JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from _estimator_noise import FIXED
from _estimator_report import row_of
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

_COLOURS = {0: "#0072B2", 1: "#E69F00", 2: "#009E73"}
# In the order of the kinds of probes.
_MARKERS = {"1 Rademacher": "o", "1 Gaussian": "s", "4 Rademacher": "^", "4 orthogonal": "D", "Hutch++, 4": "v"}
_N_COLUMNS = 4


def picture(results: dict[str, Any]) -> Figure:
    """Return standard deviation against seconds, a panel for each model."""
    runs = results["runs"]
    n_columns = min(_N_COLUMNS, len(runs))
    n_rows = -(-len(runs) // n_columns)
    size = (3.4 * n_columns, 2.8 * n_rows + 0.8)
    figure, grid = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
    for axes in grid.flat[len(runs) :]:
        axes.set_axis_off()
    for axes, (name, run) in zip(grid.flat, runs.items(), strict=False):
        _draw(axes, run)
        axes.set_title(f"{name}: {run['branch']}", fontsize=7)
        axes.set_xlabel("milliseconds", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("std of log p, nats", fontsize=8)
    labels = [(f"{n} exact terms", "s", colour) for n, colour in _COLOURS.items()]
    labels += [(label, marker, "grey") for label, marker in _MARKERS.items()]
    handles = [Line2D([], [], linestyle="", marker=marker, color=colour, label=text) for text, marker, colour in labels]
    handles.append(Line2D([], [], color="black", linewidth=0.8, label="1 / sqrt(probes)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, n_columns + 1), frameon=False)
    return figure


def _draw(axes: Any, run: dict[str, Any]) -> None:
    """Draw all estimators that vary, and the line of averages of plain probes."""
    markers = dict(zip(dict.fromkeys(row["probes"] for row in run["rows"]), _MARKERS.values(), strict=True))
    for row in run["rows"]:
        if row["std_nats"] >= FIXED and row["exact_terms"] != "auto":
            colour = _COLOURS[row["exact_terms"]]
            axes.loglog(1e3 * row["seconds"], row["std_nats"], markers[row["probes"]], color=colour, markersize=5)
    plain = row_of(run, 0)
    times = np.array([1.0, 2.0 * max(row["cost"] for row in run["rows"])])
    axes.loglog(1e3 * plain["seconds"] * times, plain["std_nats"] / times**0.5, color="black", linewidth=0.8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=7)
