"""What the commands share that read and write tables: the columns of a run, its options, and tidy numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import data
from ..data import Column, Source, Table, TableOptions, TableSchema

TABLES = (".csv", ".tsv", ".parquet", ".npy")  # suffixes that `data.write_table` knows

_DIGITS = 9  # that tell every two numbers of float32 apart


def schema_of(metadata: dict[str, Any]) -> TableSchema | None:
    """Return the columns that a run was trained on; None if they were none of a table."""
    values = metadata["data"].get("table")
    return None if values is None else TableSchema.from_dict(values)


def numbered(width: int, context: Sequence[str] = ()) -> TableSchema:
    """Return a schema for vectors whose columns have numbers, and a context whose columns have names, as they are."""
    return TableSchema(tuple(Column(str(i + 1)) for i in range(width)), tuple(map(Column, context)))


def read_rows(options: argparse.Namespace, metadata: dict[str, Any]) -> Table:
    """Return the table of --data, read as that of the run was."""
    source = metadata["data"].get("source")
    given = TableOptions() if source is None else Source.from_dict(source).table
    path = options.data if options.data_root is None else Path(options.data_root, options.data)
    return data.read_table(path, given)


def is_table(name: str) -> bool:
    """Return whether --data is a file of rows and not the name of a data set."""
    return name not in data.NAMES


def check_suffix(path: Path, known: Sequence[str], of: str) -> None:
    """Raise ValueError unless the suffix of --out is one of those known."""
    if path.suffix.lower() not in known:
        raise ValueError(
            f"--out must end in {', '.join(known)} for {of}, got {str(path)!r}; name it e.g. "
            f"{path.with_suffix(known[0]).name or 'out' + known[0]}."
        )


def tidy(table: Table, schema: TableSchema) -> Table:
    """Return a table that a schema decoded, its numbers with the digits that float32 holds and no more."""
    columns = {column.name: column for column in (*schema.columns, *schema.context)}
    cells = [
        _shortest(values, columns[name]) if values.dtype.kind == "f" else values
        for name, values in zip(table.names, table.columns, strict=True)
    ]
    return Table(table.where, table.names, tuple(cells), table.has_names)


def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers that come from float32 without the digits that it does not hold."""
    return np.array([float(f"{value:.{_DIGITS}g}") for value in values.tolist()])


def _shortest(values: NDArray[np.float64], column: Column) -> NDArray[np.float64]:
    moved = values - column.shift
    if column.scale != 1.0:
        texts = [f"{value:.{_DIGITS}g}" for value in moved.tolist()]
    else:
        texts = [str(value) for value in moved.astype(np.float32)]
    if column.shift == 0.0:
        return np.array([float(text) for text in texts])
    shift = Decimal(repr(column.shift))
    return np.array([float(Decimal(text) + shift) for text in texts])
