"""Arrays in numpy's formats .npy and .npz; their headers are compared with what is there before they are believed."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from .._regular import half_of_memory
from . import _files
from ._files import Array
from .dataset import DataError

# The third version is for records with names in other alphabets.
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_MOST_HEADER = 1 << 17  # bytes of a header; one of numbers has 128
_NUMBERS = "biuf"  # kinds of dtypes; the others are pickles, texts, times and records


def read_npy(where: str, content: bytearray) -> Array:
    """Return the array of a .npy file; raises DataError unless it holds real numbers and is whole."""
    buffer = io.BytesIO(content[:_MOST_HEADER])
    try:
        version = np.lib.format.read_magic(buffer)
        shape, is_fortran, dtype = _READ_HEADER[version](buffer)
    except Exception as error:  # of a damaged file the reader raises whatever it stumbles over
        raise DataError(
            f"{where} must be a whole .npy file of numbers, got one that is not ({_files.said(error)}); save it anew."
        ) from None
    if dtype.kind not in _NUMBERS:
        raise DataError(f"{where} must hold real numbers, got an array of dtype {dtype}; convert it to float32.")
    start = buffer.tell()
    if not _files.is_shape(shape):
        got = _files.shown(str(shape)) if len(shape) <= _files.MOST_DIMENSIONS else f"{len(shape)} of them"
        raise DataError(
            f"{where} must have a shape of whole numbers, {_files.MOST_DIMENSIONS} at most, got {got}; save it anew."
        )
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise DataError(
            f"{where} must be {expected} bytes long for an array of shape {shape}, got {len(content)}; save it anew."
        )
    if max(shape, default=0) > len(content):  # beside a zero
        raise DataError(f"{where} must hold numbers, got none in the shape {shape}; save it anew.")
    array: Array = np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if is_fortran else "C")
    return array


def axes_of(path: Path) -> int:
    """Return the most axes that an array of a .npy or .npz file has by its header; 0 if that cannot be found out."""
    try:
        with _files.opened(path, half_of_memory()) as file:
            if path.suffix.lower() == ".npy":
                return _axes(_files.up_to(file, _MOST_HEADER))
            with zipfile.ZipFile(file) as archive:
                axes = [0]
                for info in archive.infolist():
                    if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        with archive.open(info) as member:
                            axes.append(_axes(_files.up_to(cast(BinaryIO, member), _MOST_HEADER)))
                return max(axes)
    except Exception:  # whoever reads the file says what is wrong with it
        return 0


def _axes(start: bytearray) -> int:
    buffer = io.BytesIO(start)
    shape, _, _ = _READ_HEADER[np.lib.format.read_magic(buffer)](buffer)
    return len(shape)


def read_npz(path: Path, most: int, wanted: Callable[[list[str]], list[str]]) -> dict[str, Array]:
    """Return arrays of a .npz file by their names.

    Args:
        path: of the file.
        most: bytes that the file, and its arrays together after unpacking, can have.
        wanted: returns the names of those to read, given the names of all.

    Raises:
        DataError: the file is damaged or longer.
    """
    with _files.opened(path, most) as file, open_zip(path, file, ".npz file") as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        arrays, left = {}, most
        for name in wanted(list(members)):
            content = read_member(str(path), archive, members[name], ".npz file", left)
            arrays[name] = read_npy(f"{_files.shown(name)} in {path}", content)
            left -= len(content)
        return arrays


def open_zip(path: Path, file: BinaryIO, kind: str) -> zipfile.ZipFile:
    """Return an open file as a zip archive; raises DataError, which says what it must be, if it is none."""
    try:
        return zipfile.ZipFile(file)
    except Exception as error:  # of a damaged file the reader raises whatever it stumbles over
        raise not_whole(str(path), kind, error) from None


def read_member(where: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, kind: str, most: int) -> bytearray:
    """Return a member of a zip archive, checked by its checksum; raises DataError if it is damaged or longer."""
    if info.file_size > most:
        raise DataError(
            f"{where} must hold at most {most} bytes, unpacked, got {info.file_size}; check that it is the file its "
            f"name says, and save larger tables as .npy files."
        )
    # The other methods ask for as much memory as the file says.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise not_whole(where, kind, ValueError(f"{info.filename} is packed by method {info.compress_type}"))
    try:
        with archive.open(info) as member:
            return _files.up_to(cast(BinaryIO, member), info.file_size + 1)
    except Exception as error:
        raise not_whole(where, kind, error) from None


def not_whole(where: str, kind: str, error: Exception) -> DataError:
    """Return the error about a file that is not a whole file of its kind."""
    return DataError(f"{where} must be a whole {kind}, got one that is not ({_files.said(error)}); {_files.AGAIN}.")
