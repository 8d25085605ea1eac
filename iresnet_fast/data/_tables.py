"""A table as a data set: its rows split into those to train on and those to test on, its columns as a schema says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from . import _files
from ._columns import choose, make_schema
from ._notes import listed, note
from ._scaling import is_whole
from .dataset import DataError, DataSet
from .schema import Encoded
from .source import TableOptions
from .table import Table, is_missing
from .tabular import joined, read_parts

TEST_SHARE = 10  # one row in so many


def load_table(name: str, paths: Sequence[Path], seed: int, context: tuple[str, ...], options: TableOptions) -> DataSet:
    """Return the rows of files as vectors [N, d]; a tenth, drawn by the seed, is for testing unless the file says.

    Args:
        name: of the data set.
        paths: of the files, one after the other.
        seed: of the split.
        context: columns that are not entries of the vectors but their context, as for `load`.
        options: how the files are read, and what their columns are.
    """
    found = [table for path in paths for table in read_parts(path, options)]
    is_split = len(paths) == 1 and len(found) == 2
    for table in found:
        if len(table) == 0:
            raise DataError(f"{table.where} must have rows, got none; add some.")
    chosen = choose(joined(found), options, context)
    used = [*chosen.columns, *chosen.context, *([options.weights] if options.weights else [])]
    parts = [
        Table(table.where, tuple(used), tuple(table.column(name) for name in used), table.has_names)
        for table in (found if is_split else [joined(found)])
    ]
    if options.missing == "drop":
        parts = _without_gaps(parts)
    whole = joined(parts)
    train, test = _split(len(parts[0]), len(whole), is_split, seed)
    if len(train) < 2:
        raise DataError(f"{parts[0].where} must leave at least 2 rows to train on, got {len(train)}; add rows.")
    if len(test) < 1:
        raise DataError(f"{parts[-1].where} must have rows to test on, got none; add rows.")
    _check_varying(parts[0] if is_split else whole, chosen.columns, train, options.missing)
    schema = make_schema(whole, train, chosen, options)
    encoded = [schema.encode(part) for part in parts]
    _say_filled(parts, encoded, used)
    x, given = torch.cat([rows.x for rows in encoded]), _contexts(encoded)
    train_rows, test_rows = torch.from_numpy(train), torch.from_numpy(test)
    return DataSet(
        name,
        x[train_rows],
        x[test_rows],
        train_context=None if given is None else given[train_rows],
        test_context=None if given is None else given[test_rows],
        context_names=schema.context_entries,
        train_weights=_weights(whole, options.weights, train) if options.weights else None,
        table=schema,
    )


def _split(n_first: int, n: int, is_split: bool, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the rows to train on and to test on."""
    if is_split:
        return np.arange(n_first), np.arange(n_first, n)
    order = np.random.default_rng(seed).permutation(n)
    n_test = max(1, n // TEST_SHARE)
    return order[n_test:], order[:n_test]


def _contexts(encoded: list[Encoded]) -> torch.Tensor | None:
    parts = [rows.context for rows in encoded if rows.context is not None]
    return torch.cat(parts) if parts else None


def _without_gaps(parts: list[Table]) -> list[Table]:
    """Return tables without the rows that lack a cell, and say how many there were."""
    gaps = [np.logical_or.reduce([is_missing(column) for column in part.columns]) for part in parts]
    n_gone, n = sum(int(gap.sum()) for gap in gaps), sum(map(len, parts))
    if n_gone:
        note(f"{n_gone} of {n} rows of {parts[0].where} lack a value in {_gappy(parts)} and were left out.")
    return [_without(part, gap) for part, gap in zip(parts, gaps, strict=True)]


def _without(table: Table, gap: NDArray[np.bool_]) -> Table:
    """Return the rows that are no gaps; whole numbers that were float64 for the missing cells alone are int64 again."""
    columns = []
    for column in table.columns:
        kept = column[~gap]
        had_holes = column.dtype.kind == "f" and bool(np.isnan(column).any())
        columns.append(kept.astype(np.int64) if had_holes and is_whole(kept) else kept)
    return Table(table.where, table.names, tuple(columns), table.has_names)


def _gappy(parts: list[Table]) -> str:
    """Return the names of the columns that lack a value in some row."""
    gone = [name for i, name in enumerate(parts[0].names) if any(is_missing(part.columns[i]).any() for part in parts)]
    return listed(gone)


def _say_filled(parts: list[Table], encoded: list[Encoded], used: list[str]) -> None:
    n_filled = sum(rows.n_filled for rows in encoded)
    if n_filled:
        note(
            f"{n_filled} missing cells of {parts[0].where}, in {_gappy(parts)}, got the mean of the training rows, or "
            f"their most frequent category."
        )


def _check_varying(table: Table, columns: Sequence[str], train: NDArray[np.int64], missing: str) -> None:
    """Raise DataError if a column is the same in all training rows: it would have no density."""
    parts = [table.column(name)[train] for name in columns]
    known = parts if missing == "error" else [cells[~is_missing(cells)] for cells in parts]
    constant = [name for name, cells in zip(columns, known, strict=True) if bool((cells == cells[:1]).all())]
    if constant:
        shown = _files.shown(", ".join(constant[:10])) + ", ..." * (len(constant) > 10)
        raise DataError(
            f"{table.where} must vary in every column, got the same number in all training rows of column {shown}; "
            f"remove it, it has no density."
        )


def _weights(table: Table, name: str, train: NDArray[np.int64]) -> torch.Tensor:
    """Return how much each row to train on counts."""
    cells = table.column(name)
    if cells.dtype == object or not bool((cells >= 0).all() and (cells < np.inf).all()):
        raise DataError(
            f"weights must be a column of finite numbers that are not negative, got others in {name!r} of "
            f"{table.where}; correct them.",
            argument="weights",
        )
    weights = cells[train].astype(np.float64)
    most = float(weights.max())
    return torch.from_numpy((weights / most if most > 0.0 else weights).astype(np.float32))
