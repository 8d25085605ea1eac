"""Columns of data beside those of samples, one by one and two by two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...data import Table, TableSchema
from ...data.table import is_missing, table_of
from ._figures import BLUE, ORANGE, new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_COLUMNS = 8
_MOST_POINTS = 1000  # of each colour: more hide one another
_BINS = 30
_MOST_VALUES = 40  # of a column of whole numbers whose bars stand on the values themselves
_MOST_LABELS = 8  # categories that are named on an axis
_NAME = 18  # letters of a name on an axis


def pairs(data: Table, samples: Table, path: str | Path) -> Path:
    """Draw data and samples: a histogram of each column in shared bins, and the points of each two columns.

    Of more than 8 columns those are drawn whose distributions differ most, by the largest distance of the two
    distribution functions (Kolmogorov and Smirnov), in the order of the table. The axes are those of the data; samples
    outside are counted in the title. The histograms are of all rows; the points are as many of both tables, evenly
    thinned, and at most 1000 of each.

    Args:
        data: rows in the units of the file; `rows_of` makes a table of tensors.
        samples: with the same columns; others are left out.
        path: of the file to write.

    Returns:
        The path.

    Raises:
        DataError: a column of the data is not in the samples.
        ValueError: a table has no row, or the suffix of the path is that of no format.
    """
    if not (len(data) and len(samples)):
        raise ValueError(f"data and samples must have a row at least, got {len(data)} and {len(samples)}; draw more.")
    every = [_column(name, data.column(name), samples.column(name)) for name in data.names]
    kept = sorted(np.argsort([-column.distance for column in every], kind="stable")[:_MOST_COLUMNS].tolist())
    columns = [every[number] for number in kept]
    size = 1.55 * len(columns) + 1.0
    figure = new_figure(0, max(size, 5.0), max(size, 4.2))
    _draw(figure, columns)
    outside = np.zeros(len(samples), bool)
    for column in columns:
        outside |= ~((column.samples >= column.low) & (column.samples <= column.high))
    title = f"{len(data)} rows of the data, {len(samples)} samples"
    if outside.any():
        title += f", {int(outside.sum())} of them outside the axes"
    if len(every) > len(columns):
        title += f"\nthe {len(columns)} of {len(every)} columns that differ most"
    figure.suptitle(title, fontsize=10)
    return save(figure, path)


def rows_of(
    where: str,
    x: Tensor,
    context: Tensor | None = None,
    schema: TableSchema | None = None,
    context_names: tuple[str, ...] = (),
) -> Table:
    """Return vectors, and their contexts behind them, as a table in the units of their file.

    Args:
        where: what to call the table.
        x: [N, d].
        context: [N, c].
        schema: of the columns; None: they have their numbers from 1 as names.
        context_names: names of the columns of the context where there is no schema.
    """
    if schema is not None:
        return schema.decode(x, context)
    table = table_of(where, x.detach().cpu().double().numpy())
    if context is None:
        return table
    names = context_names or tuple(f"context {number + 1}" for number in range(context.shape[1]))
    cells = context.detach().cpu().double().numpy()
    return Table(where, (*table.names, *names), (*table.columns, *(np.ascontiguousarray(cell) for cell in cells.T)))


@dataclass(frozen=True)
class _Column:
    """A column of both tables as numbers, missing cells left out by NaN.

    Attributes:
        name: of the column.
        data: [N].
        samples: [M].
        ticks: texts of categories; the numbers are their codes.
        is_whole: whether the bins stand on whole numbers, one each.
        edges: of the bins of both.
        distance: of the two distribution functions.
    """

    name: str
    data: NDArray[np.float64]
    samples: NDArray[np.float64]
    ticks: tuple[str, ...]
    is_whole: bool
    edges: NDArray[np.float64]
    distance: float

    @property
    def low(self) -> float:
        return float(self.edges[0])

    @property
    def high(self) -> float:
        return float(self.edges[-1])


def _column(name: str, data: NDArray[Any], samples: NDArray[Any]) -> _Column:
    ticks: tuple[str, ...] = ()
    whole = data.dtype.kind in "iub"
    if object in (data.dtype, samples.dtype):
        both = [*data[~is_missing(data)], *samples[~is_missing(samples)]]
        ticks, whole = tuple(sorted(set(map(str, both)))), True
    numbers, drawn = _numbers(data, ticks), _numbers(samples, ticks)
    known = numbers[np.isfinite(numbers)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    if ticks:
        low, high = 0.0, len(ticks) - 1.0
    is_whole = whole and high - low < _MOST_VALUES
    if is_whole:
        edges = np.arange(low - 0.5, high + 1.0)
    else:
        margin = 0.05 * (high - low) or 0.5 * abs(high) or 0.5
        edges = np.linspace(low - margin, high + margin, _BINS + 1)
    return _Column(name, numbers, drawn, ticks, is_whole, edges, _distance(known, drawn[np.isfinite(drawn)]))


def _numbers(cells: NDArray[Any], ticks: tuple[str, ...]) -> NDArray[np.float64]:
    """Return cells as numbers: codes of texts, NaN where they are missing."""
    if not ticks:
        return cells.astype(np.float64)
    codes = {text: float(code) for code, text in enumerate(ticks)}
    return np.array([codes.get(str(cell), np.nan) for cell in cells])


def _distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the largest distance of the distribution functions of values [N] and [M]."""
    if not (len(a) and len(b)):
        return 1.0
    at = np.concatenate((a, b))
    parts = [np.searchsorted(np.sort(values), at, side="right") / len(values) for values in (a, b)]
    return float(np.abs(parts[0] - parts[1]).max())


def _draw(figure: Figure, columns: list[_Column]) -> None:
    n = len(columns)
    grid = figure.subplots(n, n, squeeze=False)
    for row, below in enumerate(columns):
        for place, beside in enumerate(columns):
            axes = grid[row, place]
            if place > row:
                axes.set_axis_off()
                continue
            if place == row:
                _draw_histogram(axes, below)
            else:
                _draw_points(axes, beside, below)
                axes.set_ylim(below.low, below.high)
            axes.set_xlim(beside.low, beside.high)
            _label(axes.xaxis, beside, row == n - 1)
            if place != row:
                _label(axes.yaxis, below, place == 0)
            axes.tick_params(labelsize=7, length=2.5)
            axes.xaxis.get_offset_text().set_size(7)
            axes.yaxis.get_offset_text().set_size(7)
            tidy(axes, grid=False)
    figure.align_ylabels(grid[:, 0])
    figure.align_xlabels(grid[-1, :])
    handles, labels = grid[0, 0].get_legend_handles_labels()
    where = (
        {"loc": "upper right", "bbox_to_anchor": (0.98, 0.9)} if n > 1 else {"loc": "outside lower center", "ncols": 2}
    )
    figure.legend(handles, labels, frameon=False, fontsize=10, **where)


def _draw_histogram(axes: Any, column: _Column) -> None:
    """Draw both in the same bins, as fractions of their own number."""
    for values, colour, name, filled in (
        (column.data, BLUE, "data", True),
        (column.samples, ORANGE, "samples", False),
    ):
        inside = values[np.isfinite(values)]
        heights = np.histogram(inside, column.edges)[0] / max(len(inside), 1)
        options: dict[str, Any] = {"fill": True, "alpha": 0.45} if filled else {"linewidth": 1.4}
        axes.stairs(heights, column.edges, color=colour, label=name, **options)
    axes.set_ylim(bottom=0.0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _draw_points(axes: Any, beside: _Column, below: _Column) -> None:
    """Draw the points of both in one order mixed by chance, so that none of them lies above the other."""
    rng = np.random.default_rng(0)
    xs, ys, colours = [], [], []
    n = min(len(beside.data), len(beside.samples), _MOST_POINTS)
    for name, colour in (("data", BLUE), ("samples", ORANGE)):
        x, y = getattr(beside, name), getattr(below, name)
        rows = np.linspace(0, len(x) - 1, n).astype(int)
        xs.append(_spread(x[rows], beside, rng))
        ys.append(_spread(y[rows], below, rng))
        colours += [colour] * len(rows)
    order = rng.permutation(len(colours))
    size = 7.0 if len(order) <= 300 else 3.5
    axes.scatter(
        np.concatenate(xs)[order],
        np.concatenate(ys)[order],
        c=np.array(colours)[order],
        s=size,
        alpha=0.5,
        linewidths=0.0,
        rasterized=True,
    )


def _spread(values: NDArray[np.float64], column: _Column, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return values with a little noise if they are few whole numbers, whose points would cover one another."""
    return values + rng.uniform(-0.25, 0.25, len(values)) if column.is_whole else values


def _label(axis: Any, column: _Column, is_outer: bool) -> None:
    """Name the column and the values on the outer axes, and leave them out on the others."""
    if column.ticks and len(column.ticks) <= _MOST_LABELS:
        axis.set_ticks(range(len(column.ticks)), [_short(text, 10) for text in column.ticks] if is_outer else [])
        if is_outer and axis.axis_name == "x":
            axis.set_tick_params(rotation=45)
    else:
        from matplotlib.ticker import MaxNLocator

        axis.set_major_locator(MaxNLocator(3, integer=column.is_whole))
        if not is_outer:
            axis.set_tick_params(labelbottom=False, labelleft=False)
    if is_outer:
        axis.set_label_text(_short(column.name, _NAME), fontsize=9)


def _short(text: str, most: int) -> str:
    """Return a text cut to a length, without what matplotlib would take for mathematics."""
    return (text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}").replace("$", r"\$")
