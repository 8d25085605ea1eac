"""Tables of numbers from .npy, .npz and .csv files: a row is a vector."""

from __future__ import annotations

import csv
import io
import math
from array import array as Numbers
from pathlib import Path

import numpy as np
import torch

from .._regular import half_of_memory
from . import _files
from ._files import Array
from ._numpy import read_npy, read_npz
from .dataset import DataError, DataSet

SUFFIXES = (".npy", ".npz", ".csv")
TEST_SHARE = 10  # one row in so many
MOST_UNPACKED = 1 << 31  # bytes of the arrays of a .npz file


def load_table(name: str, root: _files.Root, seed: int) -> DataSet:
    """Return the table of a file as vectors [N, d]; a tenth, drawn by the seed, is for testing unless the file says."""
    path = Path(name) if root is None else Path(root, name)
    tables = _READERS[path.suffix.lower()](path)
    tables = {where: _checked(where, array) for where, array in tables.items()}
    if len(tables) == 2:
        (train_name, train), (_, test) = tables.items()
    else:
        [(train_name, table)] = tables.items()
        order = np.random.default_rng(seed).permutation(len(table))
        n_test = max(1, len(table) // TEST_SHARE)
        train, test = table[order[n_test:]], table[order[:n_test]]
    if len(train) < 2:
        raise DataError(f"{train_name} must leave at least 2 rows to train on, got {len(train)}; add rows.")
    constant = (train == train[0]).all(0).nonzero()[0]
    if len(constant) > 0:
        columns = ", ".join(str(column + 1) for column in constant[:10]) + ", ..." * (len(constant) > 10)
        raise DataError(
            f"{train_name} must vary in every column, got the same number in all training rows of column {columns}; "
            f"remove it, it has no density."
        )
    return DataSet(name, torch.from_numpy(train), torch.from_numpy(test))


def _checked(where: str, array: Array) -> Array:
    """Return a table as float32 [N, d]; raises DataError if it is none."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where} must hold real numbers, got an array of dtype {array.dtype}; convert it to float32.")
    if array.ndim != 2 or array.size == 0:
        raise DataError(f"{where} must have shape [N, d], N rows, got {array.shape}; save one row for each sample.")
    with np.errstate(over="ignore", invalid="ignore"):  # becomes infinite or NaN, which is looked for next
        table = np.ascontiguousarray(array, np.float32)
    bad = np.argwhere(~np.isfinite(table))
    if len(bad) > 0:
        row, column = bad[0]
        raise DataError(
            f"{where} must hold finite numbers that fit in float32, got {array[row, column]} in row {row + 1}, column "
            f"{column + 1}; remove or replace it."
        )
    return table


def _read_npy(path: Path) -> dict[str, Array]:
    return {str(path): read_npy(str(path), _files.read(path, half_of_memory()))}


def _read_npz(path: Path) -> dict[str, Array]:
    def wanted(names: list[str]) -> list[str]:
        if set(names) == {"train", "test"}:
            return ["train", "test"]
        if len(names) != 1:
            got = _files.shown(", ".join(names)) or "none"
            raise DataError(f"{path} must hold one array, or two called train and test, got {got}; save it anew.")
        return names

    return {f"{_files.shown(name)} in {path}": array for name, array in read_npz(path, MOST_UNPACKED, wanted).items()}


def _read_csv(path: Path) -> dict[str, Array]:
    """Return the rows of a file of comma separated numbers; a first line without any number is one of names."""
    text = io.TextIOWrapper(io.BytesIO(_files.read(path, half_of_memory())), "utf-8-sig", newline="")
    reader = csv.reader(text)
    numbers, n_columns = Numbers("d"), 0
    try:
        for cells in filter(None, reader):
            if n_columns == 0:
                n_columns = len(cells)
                if not any(map(_is_number, cells)):
                    continue
            numbers.extend(_numbers(path, reader.line_num, cells, n_columns))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} must be a text file of comma separated numbers, got another ({_files.said(error)}); save it anew."
        ) from None
    return {str(path): np.array(numbers).reshape(-1, max(1, n_columns))}


def _numbers(path: Path, line: int, cells: list[str], n_columns: int) -> list[float]:
    """Return the numbers of a line; raises DataError unless there are as many as columns, all of them finite."""
    if len(cells) != n_columns:
        raise DataError(
            f"{path} must have {n_columns} cells in line {line} as in its first line, got {len(cells)}; correct it."
        )
    for column, cell in enumerate(cells, 1):
        if not _is_number(cell) or not math.isfinite(float(cell)):
            raise DataError(
                f"{path} must have a finite number in line {line}, column {column}, got {cell[:40]!r}; correct it."
            )
    return [float(cell) for cell in cells]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_READERS = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv}
