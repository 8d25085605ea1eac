"""A table as a file holds it: named columns of numbers or texts, before anything is made of them."""

from __future__ import annotations

import difflib
import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import DataError


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of the same length.

    Args:
        where: what to call it in errors, the file.
        names: of the columns; their numbers from 1, as texts, if the file has none.
        columns: [N] each: float64, int64 or bool for numbers, object for texts; a missing cell is NaN or None.
        has_names: whether the names are those of a header.
    """

    where: str
    names: tuple[str, ...]
    columns: tuple[NDArray[Any], ...]
    has_names: bool = True

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.columns[0]) if self.columns else 0

    def column(self, name: str) -> NDArray[Any]:
        """Return a column; raises DataError if there is none of that name, or several."""
        place = self._places.get(name, -1)
        if place >= 0:
            return self.columns[place]
        near = difflib.get_close_matches(name, self.names, 1)
        listed = ", ".join(self.names[:20]) + ", ..." * (len(self.names) > 20)
        known = listed if self.has_names else f"numbers from 1 to {len(self.names)}, as it has no names"
        got = "which several have" if name in self.names else "none of them"
        advice = f"did you mean {near[0]!r}?" if near and name not in self.names else "correct it."
        raise DataError(f"the columns of {self.where} must include {name!r}, got {known}: {got}; {advice}")

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        """Where each column is by its name, -1 if several have it: tables may have very many columns."""
        counts = Counter(self.names)
        return {name: i if counts[name] == 1 else -1 for i, name in enumerate(self.names)}

    def rows(self, rows: NDArray[Any]) -> Table:
        """Return some of the rows, by their numbers or a mask."""
        return Table(self.where, self.names, tuple(column[rows] for column in self.columns), self.has_names)


def is_missing(column: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which cells [N] of a column are missing."""
    if column.dtype == object:
        return np.array([cell is None or cell != cell for cell in column], bool)
    return np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), bool)


def category_texts(cells: NDArray[Any]) -> list[str]:
    """Return cells as the texts that categories are compared by: 3 and 3.0 are the same one."""
    if cells.dtype == object:
        return [str(cell) for cell in cells]
    if cells.dtype.kind == "f":
        return [str(int(cell)) if cell.is_integer() else repr(cell) for cell in cells.tolist()]
    return [str(cell) for cell in cells.tolist()]


def table_of(where: str, array: NDArray[Any], names: Sequence[str] = ()) -> Table:
    """Return an array [N, d] of numbers as a table; without names the columns have numbers from 1."""
    known = tuple(names) or tuple(str(column + 1) for column in range(array.shape[1]))
    return Table(where, known, tuple(np.ascontiguousarray(column) for column in array.T), bool(names))


def narrowed(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return numbers as float32, infinite where they are too large for it."""
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)
