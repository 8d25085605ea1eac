"""The tables of a page whose columns are those of the data."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...data import Column, Table
from ...data.table import is_missing
from .. import pictures
from ._facts import Facts

_MOST = 100  # columns that are listed
_MOST_SAMPLED = 12  # columns of the rows of samples
_MOST_CATEGORIES = 8
_MOST_DIGITS = 9  # behind the point


class Grid(NamedTuple):
    """A table of texts: names of columns, rows, and what is left out."""

    names: list[str]
    rows: list[list[str]]
    note: str = ""


def columns_grid(facts: Facts) -> Grid | None:
    """Return a row for each column of the data: what it is, and its values; None if the data are no vectors."""
    dataset, schema = facts.dataset, facts.schema
    if len(facts.metadata["data"].get("event_shape", [])) != 1 or (dataset is None and schema is None):
        return None
    table = None
    if dataset is not None:
        table = pictures.rows_of("data", dataset.train, dataset.train_context, schema, dataset.context_names)
    rows = []
    if schema is not None:
        described = [(column, role) for role in ("columns", "context") for column in getattr(schema, role)]
        for column, role in described:
            kind = f"context, {_kind(column)}" if role == "context" else _kind(column)
            rows.append([column.name, kind, _change(column), *_values(table, column.name)])
    elif table is not None:
        n_columns = len(facts.metadata["data"]["event_shape"]) and facts.metadata["data"]["event_shape"][0]
        for number, name in enumerate(table.names):
            rows.append([name, "number" if number < n_columns else "context, number", "", *_values(table, name)])
    note = f"and {len(rows) - _MOST} more columns" if len(rows) > _MOST else ""
    return Grid(["Column", "Kind", "Shift and scale", "Least", "Mean", "Largest"], rows[:_MOST], note)


def samples_grid(facts: Facts) -> Grid | None:
    """Return some rows of samples in the units of the file."""
    if facts.samples is None:
        return None
    names = facts.samples.names[:_MOST_SAMPLED]
    cells = [_texts(facts.samples.column(name)) for name in names]
    n_more = len(facts.samples.names) - len(names)
    note = f"and {n_more} more columns" if n_more else ""
    return Grid(list(names), [list(row) for row in zip(*cells, strict=True)], note)


def _kind(column: Column) -> str:
    if column.kind == "category":
        listed = ", ".join(column.categories[:_MOST_CATEGORIES]) + ", \N{HORIZONTAL ELLIPSIS}" * (
            len(column.categories) > _MOST_CATEGORIES
        )
        form = "an entry each" if column.one_hot else "codes with noise"
        return f"{len(column.categories)} categories ({listed}), {form}"
    return f"{column.kind}, steps of {column.step:g} with noise" if column.step else column.kind


def _change(column: Column) -> str:
    parts = [f"minus {column.shift:.15g}"] if column.shift else []
    return ", ".join([*parts, f"divided by {column.scale:g}"] if column.scale != 1.0 else parts)


def _values(table: Table | None, name: str) -> list[str]:
    """Return the least, the mean and the largest value of a column of training data; of texts the most frequent."""
    if table is None:
        return ["", "", ""]
    cells = table.column(name)
    known = cells[~is_missing(cells)]
    if len(known) == 0:
        return ["", "", ""]
    if cells.dtype == object:
        texts, counts = np.unique(known.astype(str), return_counts=True)
        return ["", f"mostly {texts[counts.argmax()]}", ""]
    mean = float(known.astype(np.float64).mean())
    return _texts(np.array([known.min(), mean, known.max()]), whole=known.dtype.kind in "iub")


def _texts(cells: NDArray[Any], whole: bool = False) -> list[str]:
    """Return cells as texts, numbers to about a thousandth of what they differ by, or as whole ones where they are."""
    if cells.dtype.kind != "f":
        return [str(cell) for cell in cells]
    span = float(np.ptp(cells)) or float(np.abs(cells).max())
    digits = max(0, math.ceil(4.0 - math.log10(span))) if 0.0 < span < math.inf else 0
    if digits > _MOST_DIGITS or np.abs(cells).max() > 1e15:
        return [f"{cell:.6g}" for cell in cells]
    return [f"{cell:.0f}" if whole and cell == round(cell) else f"{cell:.{digits}f}" for cell in cells]
