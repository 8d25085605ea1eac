"""What the commands share that write tables: which files they are, and their numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
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


def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers that come from float32 without the digits that it does not hold."""
    return np.array([float(f"{value:.{_DIGITS}g}") for value in values.tolist()])


def as_text(table: Table) -> str:
    """Return a table as the text of a .csv file; missing cells are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.names)
    for row in zip(*(column.tolist() for column in table.columns), strict=True):
        writer.writerow(["" if cell is None or cell != cell else cell for cell in row])
    return text.getvalue()
