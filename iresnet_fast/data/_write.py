"""Tables as files: whole, or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._optional import needed
from .._writing import writing
from .dataset import DataError
from .table import Table

_SUFFIXES = (".csv", ".tsv", ".parquet", ".npy")


def write_table(table: Table, path: str | os.PathLike[str]) -> None:
    """Write a table into a file, which is there whole afterwards, or as it was before.

    Numbers that float32 can hold have its digits in a text, others those of float64: both are read as they were. Whole
    numbers are written as such, missing cells are empty, and texts are in quotation marks where they need them.

    Args:
        table: what to write.
        path: of the file, which ends in .csv, .tsv, .parquet or .npy, which holds numbers alone and no names.

    Raises:
        DataError: the path ends in something else, or an array was to hold texts.
        WriteError: the file could not be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise DataError(f"path must end in {', '.join(_SUFFIXES)}, got {str(path)!r}; rename it.", argument="path")
    with writing(path) as file:
        file.write(_array(table) if suffix == ".npy" else _frame(table, suffix))


def _array(table: Table) -> bytes:
    for name, column in zip(table.names, table.columns, strict=True):
        if column.dtype == object:
            raise DataError(
                f"a .npy file must hold numbers alone, got the texts of column {name!r}; write a .csv file."
            )
    kinds = {column.dtype for column in table.columns}
    rows = np.stack([column if len(kinds) == 1 else column.astype(np.float64) for column in table.columns], 1)
    content = io.BytesIO()
    np.save(content, rows)
    return content.getvalue()


def _frame(table: Table, suffix: str) -> bytes:
    """Return the bytes of a text file or of one of Parquet."""
    with needed("writing tables"):
        import pandas  # type: ignore[import-untyped]

        if suffix == ".parquet":
            import pyarrow  # type: ignore[import-untyped]  # noqa: F401  # by which pandas writes it
    is_text = suffix != ".parquet"
    series = [pandas.Series(_shortest(column) if is_text else column) for column in table.columns]
    frame = pandas.concat(series, axis=1, keys=range(len(series)))
    frame.columns = list(table.names)
    if not is_text:
        content: bytes = frame.to_parquet(index=False)
        return content
    text: str = frame.to_csv(index=False, sep="\t" if suffix == ".tsv" else ",", lineterminator="\n")
    return text.encode()


def _shortest(column: NDArray[Any]) -> NDArray[Any]:
    """Return numbers in the type whose digits are the fewest that tell them apart."""
    if column.dtype != np.float64:
        return column
    with np.errstate(over="ignore"):
        narrow = column.astype(np.float32)
    return narrow if np.array_equal(narrow.astype(np.float64), column, equal_nan=True) else column
