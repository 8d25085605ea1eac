"""Loss and metrics over the time of training."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._figures import BLUE, GREEN, GREY, ORANGE, new_figure, save, tidy

Rows = Sequence[dict[str, float]]

_STEEP = 4.0  # how much larger than later ones the first losses may be before the axis leaves them out
_MANY = 3000  # points of a line that would make a large file of curves
_KINDS = {"validation": GREEN, "test": ORANGE}  # of columns <kind>_<metric>


def curves(log: str | Path, path: str | Path) -> Path:
    """Draw the loss, and the metrics of validation and test data, against minutes of training.

    A metric has axes of its own if it was measured more than once; else its only value is stated. The step that was
    best on validation data is marked.

    Args:
        log: a log.csv that `fit` has written.
        path: of the file to write.

    Returns:
        The path.

    Raises:
        ValueError: the log holds no step, a line of it is damaged, or the suffix of the path is that of no format.
        OSError: it cannot be read.
    """
    rows, n_damaged = read_log(log)
    if n_damaged:
        raise ValueError(
            f"{log} must hold a row of numbers in each line, got {n_damaged} that are not; remove these lines."
        )
    if not rows:
        raise ValueError(f"{log} must hold a row at least, got none; train for more steps.")
    return draw_curves(rows, path)


def read_log(log: str | Path) -> tuple[list[dict[str, float]], int]:
    """Return the rows of a log without what was not measured, and the number of lines that are no rows.

    Raises:
        OSError: it cannot be read.
    """
    rows, n_damaged = [], 0
    with open(log, newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.reader(line.replace("\0", "") for line in file)
        try:
            names = next(reader, [])
            for cells in reader:
                row = _row(names, cells)
                if row is None:
                    n_damaged += 1
                else:
                    rows.append(row)
        except csv.Error:
            n_damaged += 1
    return rows, n_damaged


def draw_curves(rows: Rows, path: str | Path) -> Path:
    """Draw rows of a log, at least one; else as `curves`."""
    metrics = _metrics(rows)
    with_axes = [name for name, columns in metrics.items() if any(len(_known(rows, c)) > 1 for c in columns)]
    figure = new_figure(1 + len(with_axes), max(5.0 * (1 + len(with_axes)), 6.5), 3.8)
    loss, *others = figure.axes
    _draw_loss(loss, rows)
    for axes, name in zip(others, with_axes, strict=True):
        _draw_metric(axes, rows, name, metrics[name])
    best = _best(rows, metrics)
    for axes in figure.axes:
        axes.set_xlim(0.0, 1.02 * max(row["minutes"] for row in rows) or 1.0)
        axes.set_xlabel("minutes of training")
        tidy(axes)
        if best is not None:
            axes.axvline(
                best["minutes"], color=GREY, linestyle="--", linewidth=1.0, label=f"best: step {best['step']:.0f}"
            )
        if axes.get_legend_handles_labels()[0] and (best is not None or axes is not loss):
            axes.legend(frameon=False, fontsize=8)
    alone = [c for name, columns in metrics.items() if name not in with_axes for c in columns if _known(rows, c)]
    if alone:
        said = ", ".join(f"{column.replace('_', ' ')} {_known(rows, column)[-1][1]:.4g}" for column in alone)
        figure.suptitle(said, fontsize=10, color="#444444")
    return save(figure, path)


def _draw_loss(axes: Any, rows: Rows) -> None:
    known = _known(rows, "loss")
    axes.set_title("loss")
    if not known:
        return
    axes.plot(
        *zip(*known, strict=True), color=BLUE, marker=_marker(known), linewidth=1.0, rasterized=len(known) > _MANY
    )
    values = [value for _, value in known]
    later = values[len(values) // 20 + 1 :] or values
    low, high = min(later), max(later)
    margin = 0.05 * (high - low) or abs(high) or 1.0
    if max(values) > high + _STEEP * (high - low) and high > low:
        axes.set_ylim(min(values) - margin, high + margin)
        axes.set_title(f"loss (it begins at {values[0]:.3g})")


def _draw_metric(axes: Any, rows: Rows, name: str, columns: list[str]) -> None:
    axes.set_title(name.replace("_", " "))
    for column in columns:
        known = _known(rows, column)
        kind = column.partition("_")[0]
        if known:
            style = {"color": _KINDS[kind], "marker": "o" if len(known) == 1 else _marker(known), "linewidth": 1.2}
            axes.plot(*zip(*known, strict=True), label=f"{kind} data", clip_on=len(known) > 1, zorder=3, **style)


def _metrics(rows: Rows) -> dict[str, list[str]]:
    """Return the columns of each metric."""
    found: dict[str, list[str]] = {}
    for column in dict.fromkeys(name for row in rows for name in row):
        kind, _, name = column.partition("_")
        if kind in _KINDS and name:
            found.setdefault(name, []).append(column)
    return found


def _best(rows: Rows, metrics: dict[str, list[str]]) -> dict[str, float] | None:
    """Return the row that was best on validation data, by the first of the metrics; None if there are none."""
    column = next((c for columns in metrics.values() for c in columns if c.startswith("validation_")), None)
    return (
        None
        if column is None
        else min(
            (row for row in rows if math.isfinite(row.get(column, math.nan))), default=None, key=lambda row: row[column]
        )
    )


def _known(rows: Rows, column: str) -> list[tuple[float, float]]:
    return [(row["minutes"], row[column]) for row in rows if math.isfinite(row.get(column, math.nan))]


def _marker(known: list[tuple[float, float]]) -> str:
    return "." if len(known) < 50 else ""


def _row(names: list[str], cells: list[str]) -> dict[str, float] | None:
    """Return a row without empty cells; None if it is damaged."""
    try:
        row = {name: float(cell) for name, cell in zip(names, cells, strict=True) if cell}
    except ValueError:
        return None
    return row if all(math.isfinite(row.get(name, math.nan)) for name in ("step", "minutes")) else None
