"""Tables of numbers from .npy, .npz and .csv files: a row is a vector, some of whose columns may be its context."""

from __future__ import annotations

import csv
import io
import math
from array import array as Numbers
from pathlib import Path
from typing import NamedTuple

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


class _Tables(NamedTuple):
    """What a file holds.

    Attributes:
        arrays: one table, or that for training and that for testing, by what to call them in errors.
        names: of the columns; empty if the file has none.
    """

    arrays: dict[str, Array]
    names: tuple[str, ...] = ()


def load_table(name: str, root: _files.Root, seed: int, context: tuple[str, ...] = ()) -> DataSet:
    """Return the table of a file as vectors [N, d]; a tenth, drawn by the seed, is for testing unless the file says.

    Args:
        name: of the file.
        root: where a relative path starts.
        seed: of the split.
        context: columns that are not entries of the vectors but their context, as for `load`.
    """
    path = Path(name) if root is None else Path(root, name)
    arrays, names = _READERS[path.suffix.lower()](path)
    tables = {where: _checked(where, array) for where, array in arrays.items()}
    if len(tables) == 2:
        (train_name, train), (_, test) = tables.items()
    else:
        [(train_name, table)] = tables.items()
        order = np.random.default_rng(seed).permutation(len(table))
        n_test = max(1, len(table) // TEST_SHARE)
        train, test = table[order[n_test:]], table[order[:n_test]]
    if len(train) < 2:
        raise DataError(f"{train_name} must leave at least 2 rows to train on, got {len(train)}; add rows.")
    given, columns = _split(path, names, train.shape[1], context)
    constant = columns[(train == train[0])[:, columns].all(0)]
    if len(constant) > 0:
        shown = ", ".join(str(column + 1) for column in constant[:10]) + ", ..." * (len(constant) > 10)
        raise DataError(
            f"{train_name} must vary in every column, got the same number in all training rows of column {shown}; "
            f"remove it, it has no density."
        )
    if not context:
        return DataSet(name, torch.from_numpy(train), torch.from_numpy(test))
    if test.shape[1] != train.shape[1]:
        raise DataError(
            f"test in {path} must have the columns of train, {train.shape[1]}, got {test.shape[1]}; correct it."
        )
    parts = (torch.from_numpy(table[:, chosen]) for chosen in (columns, given) for table in (train, test))
    train_x, test_x, train_context, test_context = parts
    return DataSet(name, train_x, test_x, train_context=train_context, test_context=test_context, context_names=context)


def _split(path: Path, names: tuple[str, ...], n_columns: int, context: tuple[str, ...]) -> tuple[Array, Array]:
    """Return the numbers of the columns of the context, in the order asked for, and those of the others."""
    known = names or tuple(str(column + 1) for column in range(n_columns))
    for name in context:
        if known.count(name) != 1:
            shown = _files.shown(", ".join(known)) if names else f"numbers from 1 to {n_columns}, as it has no names"
            got = "that of several" if name in known else "none of them"
            raise DataError(f"context must be columns of {path}: {shown}, got {name!r}, {got}; correct it.")
    if len(set(context)) != len(context):
        raise DataError(f"context must name a column once, got {', '.join(context)}; leave one out.")
    if len(context) == n_columns:
        raise DataError(f"context must leave a column of {path} to model, got all {n_columns} of them; leave one out.")
    given = np.array([known.index(name) for name in context], int)
    return given, np.setdiff1d(np.arange(n_columns), given)


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


def _read_npy(path: Path) -> _Tables:
    return _Tables({str(path): read_npy(str(path), _files.read(path, half_of_memory()))})


def _read_npz(path: Path) -> _Tables:
    def wanted(names: list[str]) -> list[str]:
        if set(names) == {"train", "test"}:
            return ["train", "test"]
        if len(names) != 1:
            got = _files.shown(", ".join(names)) or "none"
            raise DataError(f"{path} must hold one array, or two called train and test, got {got}; save it anew.")
        return names

    found = read_npz(path, MOST_UNPACKED, wanted)
    return _Tables({f"{_files.shown(name)} in {path}": array for name, array in found.items()})


def _read_csv(path: Path) -> _Tables:
    """Return the rows of a file of comma separated numbers; a first line without any number is one of names."""
    text = io.TextIOWrapper(io.BytesIO(_files.read(path, half_of_memory())), "utf-8-sig", newline="")
    reader = csv.reader(text)
    names: tuple[str, ...] = ()
    numbers, n_columns = Numbers("d"), 0
    try:
        for cells in filter(None, reader):
            if n_columns == 0:
                n_columns = len(cells)
                if not any(map(_is_number, cells)):
                    names = tuple(cell.strip() for cell in cells)
                    continue
            numbers.extend(_numbers(path, reader.line_num, cells, n_columns))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} must be a text file of comma separated numbers, got another ({_files.said(error)}); save it anew."
        ) from None
    return _Tables({str(path): np.array(numbers).reshape(-1, max(1, n_columns))}, names)


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
