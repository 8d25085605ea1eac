"""Data frames of pandas as tables: what their columns hold in numpy's types, and which one is their index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._header import MISSING_TEXTS
from ._notes import note
from .table import Table, is_missing

_NAMELESS = ("", "Unnamed: 0", "__index_level_0__")  # what pandas calls an index
_MOST = np.iinfo(np.int64).max


def table_of_frame(where: str, frame: Any, names: Sequence[str] | None = None) -> Table:
    """Return a data frame of pandas as a table.

    A first column without a name that only numbers or names the rows is left out, and said.

    Args:
        where: what to call it in errors.
        frame: a data frame.
        names: of the columns; empty: they have none. None: those of the frame.
    """
    known = [str(name).strip() for name in frame.columns] if names is None else list(names)
    has_names = bool(known)
    columns = _all_cells(frame)
    if has_names and known[0] in _NAMELESS and len(columns) > 1 and _is_index(columns[0]):
        note(f"the first column of {where} has no name and only tells its rows apart: it was left out.")
        known, columns = known[1:], columns[1:]
    if has_names and known[-1] == "" and len(columns) > 1 and bool(is_missing(columns[-1]).all()):
        known, columns = known[:-1], columns[:-1]  # a separator at the end of every line
    numbered = [known[i] if has_names and known[i] else str(i + 1) for i in range(len(columns))]
    return Table(where, tuple(numbered), tuple(columns), has_names)


def _all_cells(frame: Any) -> list[NDArray[Any]]:
    """Return the cells of every column; of very many alike at once, as each costs pandas half a millisecond."""
    kinds = set(frame.dtypes)
    if len(kinds) == 1 and (alike := str(next(iter(kinds))).lower()) in ("int64", "float64"):
        if alike == "float64" or not frame.isna().to_numpy().any():
            rows = frame.to_numpy(dtype=alike, **({"na_value": np.nan} if alike == "float64" else {}))
            return [np.ascontiguousarray(column) for column in rows.T]
    return [_cells(frame.iloc[:, i]) for i in range(frame.shape[1])]


def _is_index(column: NDArray[Any]) -> bool:
    if column.dtype == np.int64 or (column.dtype == object and not is_missing(column).any()):
        return len(np.unique(column.astype(str) if column.dtype == object else column)) == len(column)
    return False


def _cells(series: Any) -> NDArray[Any]:
    """Return the cells of a column as float64, int64, bool or objects."""
    from pandas.api import types  # type: ignore[import-untyped]

    dtype = series.dtype
    gone = series.isna()
    missing = bool(gone.any())
    if bool(gone.all()):
        return np.full(len(series), np.nan)
    if types.is_bool_dtype(dtype) and not missing and dtype.kind == "b":
        return np.asarray(series.to_numpy(dtype=bool))
    if types.is_integer_dtype(dtype) and not (series.max() > _MOST):
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan) if missing else series.to_numpy(np.int64))
    if types.is_float_dtype(dtype):
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    return _texts(series)


def _texts(series: Any) -> NDArray[Any]:
    """Return cells of other kinds as texts, or as numbers if all of them are."""
    import pandas  # type: ignore[import-untyped]

    gone = series.isna().to_numpy(dtype=bool)
    cells = series.astype(object).to_numpy()
    found = np.empty(len(cells), object)
    for i, (cell, is_gone) in enumerate(zip(cells, gone, strict=True)):
        text = cell.strip() if isinstance(cell, str) else cell
        is_kept = not (is_gone or (isinstance(text, str) and text in MISSING_TEXTS))
        found[i] = (text if isinstance(text, (str, bool)) else str(text)) if is_kept else None
    rest = [cell for cell in found if cell is not None]
    if not rest:
        return np.full(len(found), np.nan)
    if any(isinstance(cell, bool) for cell in rest):
        return found
    try:
        numbers = pandas.to_numeric(pandas.Series(found, dtype=object))
    except (ValueError, TypeError, OverflowError):
        return found
    is_digits = all(cell.lstrip("+-").isdigit() for cell in rest)
    if is_digits and numbers.dtype != np.int64 and any(abs(int(cell)) > 1 << 53 for cell in rest):
        return found  # float64 would lose digits of such numbers
    return np.asarray(numbers.to_numpy())
