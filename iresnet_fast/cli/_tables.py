"""What the commands share that write tables: which files they are, and tidy numbers."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data import Column, Table, TableSchema

TABLES = (".csv", ".tsv", ".parquet", ".npy")  # suffixes that `data.write_table` knows

_DIGITS = 9  # that tell every two numbers of float32 apart


def numbered(width: int, context: Sequence[str] = ()) -> TableSchema:
    """Return a schema for vectors whose columns have numbers, and a context whose columns have names, as they are."""
    return TableSchema(tuple(Column(str(i + 1)) for i in range(width)), tuple(map(Column, context)))


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
