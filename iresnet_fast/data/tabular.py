"""Tables of numbers from .npy, .npz and .csv files: a row is a vector."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from pathlib import Path

import numpy as np
import torch

from . import _files
from ._files import Array
from .dataset import DataError, DataSet

SUFFIXES = (".npy", ".npz", ".csv")
TEST_SHARE = 10  # one row in so many


def load_table(name: str, root: _files.Root, seed: int) -> DataSet:
    """Return the table of a file as vectors [N, d]; a tenth, drawn by the seed, is for testing unless the file says."""
    path = Path(name) if root is None else Path(root, name)
    tables = _READERS[path.suffix.lower()](path, _files.read(path))
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
        raise DataError(
            f"{train_name} must vary in every column, got the same number in all training rows of column "
            f"{', '.join(str(column + 1) for column in constant)}; remove it, it has no density."
        )
    return DataSet(name, torch.from_numpy(train), torch.from_numpy(test))


def _checked(where: str, array: Array) -> Array:
    """Return a table as float32 [N, d]; raises DataError if it is none."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where} must hold real numbers, got an array of dtype {array.dtype}; convert it to float32.")
    if array.ndim != 2 or array.size == 0:
        raise DataError(f"{where} must have shape [N, d], N rows, got {array.shape}; save one row for each sample.")
    with np.errstate(over="ignore"):  # becomes infinite, which is looked for next
        table = np.ascontiguousarray(array, np.float32)
    bad = np.argwhere(~np.isfinite(table))
    if len(bad) > 0:
        row, column = bad[0]
        raise DataError(
            f"{where} must hold finite numbers that fit in float32, got {array[row, column]} in row {row + 1}, column "
            f"{column + 1}; remove or replace it."
        )
    return table


def _read_npy(path: Path, content: bytes) -> dict[str, Array]:
    return {str(path): _array(str(path), content)}


def _read_npz(path: Path, content: bytes) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            contents = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    except Exception as error:  # of a damaged file the reader raises whatever it stumbles over
        raise DataError(f"{path} must be a whole .npz file, got one that is not ({error}); {_files.AGAIN}.") from None
    names = ["train", "test"] if set(contents) == {"train", "test"} else list(contents)
    if len(names) != 1 and names != ["train", "test"]:
        raise DataError(
            f"{path} must hold one array, or two called train and test, got {', '.join(names) or 'none'}; save it anew."
        )
    return {where: _array(where, contents[name]) for name in names for where in [f"{name} in {path}"]}


def _array(where: str, content: bytes) -> Array:
    """Return the array of a file in numpy's format; a pickle inside is refused."""
    buffer = io.BytesIO(content)
    try:
        array: Array = np.lib.format.read_array(buffer, allow_pickle=False)
    except Exception as error:  # of a damaged file the reader raises whatever it stumbles over
        raise DataError(
            f"{where} must be a whole .npy file of numbers, got one that is not ({_files.said(error)}); save it anew."
        ) from None
    if buffer.tell() != len(content):
        raise DataError(
            f"{where} must be {buffer.tell()} bytes long for an array of shape {array.shape}, got {len(content)}; "
            f"save it anew."
        )
    return array


def _read_csv(path: Path, content: bytes) -> dict[str, Array]:
    """Return the rows of a file of comma separated numbers; a first line without any number is one of names."""
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} must be a text file of comma separated numbers, got another ({error}).") from None
    first = lines[0][1] if lines else []
    if not any(map(_is_number, first)):
        del lines[:1]
    for number, cells in lines:
        if len(cells) != len(first):
            raise DataError(
                f"{path} must have {len(first)} cells in line {number} as in its first line, got {len(cells)}; "
                f"correct it."
            )
        for column, cell in enumerate(cells, 1):
            if not _is_number(cell) or not math.isfinite(float(cell)):
                raise DataError(
                    f"{path} must have a finite number in line {number}, column {column}, got {cell!r}; correct it."
                )
    return {str(path): np.array([[float(cell) for cell in cells] for _, cells in lines])}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_READERS = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv}
