"""Files of tables: texts of cells, Parquet, ARFF, .npy and .npz, texts also packed as .gz or alone in a .zip."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._optional import needed
from .._regular import half_of_memory
from . import _files
from ._arff import read_arff
from ._frames import table_of_frame
from ._numpy import not_whole, open_zip, read_member, read_npy, read_npz
from ._text import read_text
from .dataset import DataError
from .source import TableOptions
from .table import Table, category_texts, is_missing, table_of

SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".data", ".parquet", ".arff", ".npy", ".npz", ".zip")
MOST_UNPACKED = 1 << 31  # bytes of the arrays of a .npz file


def is_table(name: str) -> bool:
    """Return whether a file of this name is read as a table."""
    return _suffix(name) in SUFFIXES


def read_table(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Any, options: TableOptions | None = None
) -> Table:
    """Return the rows of a file, or of several one after the other, as they are.

    Args:
        source: the path of a file whose name ends in .csv, .tsv, .txt, .dat, .data, .parquet, .arff, .npy, .npz, of one
            of these packed by gzip (.csv.gz), or of a .zip archive with one of them; a list of such paths, whose
            columns must have the same names; or a data frame of pandas or polars.
        options: how to read texts; what they say about columns is not looked at. None: everything is found out.

    Raises:
        DataError: a file cannot be read, or has other columns than the first.
        TypeError: source is something else.
    """
    options = TableOptions() if options is None else options
    if hasattr(source, "to_pandas"):
        source = source.to_pandas()
    if hasattr(source, "columns") and hasattr(source, "iloc"):
        return table_of_frame("the data frame", source)
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    if (
        not isinstance(source, (list, tuple))
        or not source
        or not all(isinstance(s, (str, os.PathLike)) for s in source)
    ):
        raise TypeError(
            f"source must be a path, a list of paths or a data frame, got {source!r:.60}; pass one of them."
        )
    return joined([table for path in source for table in read_parts(Path(path), options)])


def read_parts(path: Path, options: TableOptions) -> list[Table]:
    """Return the table of a file, or that to train on and that to test on of a .npz file; errors as of `read_table`."""
    suffix = _suffix(path.name)
    try:
        if suffix not in SUFFIXES:
            raise DataError(f"{path} must end in {', '.join(SUFFIXES)} (or .gz after it), got another name; rename it.")
        if path.suffix.lower() == ".npz":
            return _read_npz(path)
        if suffix == ".zip":
            where, suffix, content = _member(path)
            return [_read(where, content, suffix, options)]
        return [_read(str(path), _files.read(path, half_of_memory()), suffix, options)]
    except MemoryError:
        raise DataError(
            f"{path} must fit in memory, got more than there is; free some, or take a part of it."
        ) from None


def joined(tables: Sequence[Table]) -> Table:
    """Return the rows of tables one after the other; raises DataError unless they have the same columns."""
    first = tables[0]
    if len(tables) == 1:
        return first
    parts = []
    for table in tables:
        if sorted(table.names) != sorted(first.names) or table.has_names != first.has_names:
            if not (table.has_names or first.has_names):
                raise DataError(
                    f"{table.where} must have the columns of {first.where}, {len(first.names)}, got "
                    f"{len(table.names)}; correct one of them."
                )
            odd = sorted(set(first.names) ^ set(table.names)) or ["one of them twice"]
            raise DataError(
                f"{table.where} must have the columns of {first.where}, {_files.shown(', '.join(first.names))}, got a "
                f"difference in {_files.shown(', '.join(odd))}; correct one of the files."
            )
        parts.append([table.column(name) for name in first.names])
    columns = tuple(_concatenated(column) for column in zip(*parts, strict=True))
    return Table(f"{first.where} and {len(tables) - 1} more", first.names, columns, first.has_names)


def _concatenated(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the cells of all parts; numbers become texts where others are."""
    if any(part.dtype == object for part in parts) and not all(part.dtype == object for part in parts):
        texts = []
        for part in parts:
            cells = np.array([*category_texts(part), None], object)[:-1]
            cells[is_missing(part)] = None
            texts.append(cells)
        return np.concatenate(texts)
    if len({part.dtype for part in parts}) > 1:
        return np.concatenate([part.astype(np.float64) for part in parts])
    return np.concatenate(parts)


def _suffix(name: str) -> str:
    path = Path(name)
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _read(where: str, content: bytes | bytearray, suffix: str, options: TableOptions) -> Table:
    if suffix == ".npy":
        return of_array(where, read_npy(where, bytearray(content)))
    if suffix == ".parquet":
        return _read_parquet(where, content)
    if suffix == ".arff":
        return read_arff(where, content, options)
    return read_text(where, content, options, "\t" if suffix == ".tsv" else "")


def of_array(where: str, array: _files.Array) -> Table:
    """Return an array [N, d] as a table; raises DataError if it is none."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where} must hold real numbers, got an array of dtype {array.dtype}; convert it to float32.")
    if array.ndim != 2 or array.size == 0:
        raise DataError(f"{where} must have shape [N, d], N rows, got {array.shape}; save one row for each sample.")
    if array.dtype.kind in "iu" and not (array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max):
        array = array.astype(np.int64)
    elif array.dtype != bool:
        array = array.astype(np.float64)
    return table_of(where, array)


def _read_npz(path: Path) -> list[Table]:
    def wanted(names: list[str]) -> list[str]:
        if set(names) == {"train", "test"}:
            return ["train", "test"]
        if len(names) != 1:
            got = _files.shown(", ".join(names)) or "none"
            raise DataError(f"{path} must hold one array, or two called train and test, got {got}; save it anew.")
        return names

    found = read_npz(path, MOST_UNPACKED, wanted)
    return [of_array(f"{_files.shown(name)} in {path}", array) for name, array in found.items()]


def _member(path: Path) -> tuple[str, str, bytearray]:
    """Return what to call the only table in an archive, its suffix, and its content."""
    with _files.opened(path, half_of_memory()) as file, open_zip(path, file, ".zip archive") as archive:
        tables = [
            info
            for info in archive.infolist()
            if is_table(info.filename)
            and not Path(info.filename).name.startswith((".", "_"))
            and Path(info.filename).suffix.lower() not in (".zip", ".gz", ".npz")
            and not info.filename.startswith("__MACOSX/")
        ]
        if len(tables) != 1:
            got = _files.shown(", ".join(info.filename for info in tables)) or "none"
            raise DataError(f"{path} must hold one table, got {got}; unpack it and name its files.")
        name = tables[0].filename
        content = read_member(str(path), archive, tables[0], ".zip archive", half_of_memory())
        return f"{path}/{_files.shown(name)}", _suffix(name), content


def _read_parquet(where: str, content: bytes | bytearray) -> Table:
    with needed("reading .parquet files"):
        import pandas  # type: ignore[import-untyped]  # noqa: F401  # of which the frame is
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(content))
        n_cells = file.metadata.num_rows * max(1, file.metadata.num_columns)
        if 8 * n_cells > half_of_memory():  # columns of one value take no room in a file
            raise MemoryError
        frame = file.read(use_threads=False).to_pandas(ignore_metadata=True, integer_object_nulls=True)
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file the reader raises whatever it stumbles over
        raise not_whole(where, ".parquet file", error) from None
    return table_of_frame(where, frame)
