"""Reading arrays of numbers from MATLAB 5 files, every length compared with what is there before it is believed.

The format (MathWorks, MAT-File Format, Level 5): 128 bytes of header, then elements, each a tag of type and length and
its content padded to 8 bytes. An array is an element of elements: flags, sizes, name, numbers. zlib may have packed it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import _files
from ._files import Array
from .dataset import DataError

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15  # types of elements
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = range(6, 16)  # of arrays: those of numbers
_COMPLEX = 0x800  # a flag
_MOST_ELEMENTS = 1 << 12  # of a file, whose reading takes time for each
_START = 1024  # bytes in which the numbers of an array begin: flags, sizes and name come first


class _DamagedError(Exception):
    """What is wrong with the file."""


@dataclass(frozen=True)
class _Element:
    kind: int
    start: int  # of the content
    size: int
    end: int  # with padding


def read_arrays(path: Path, names: Collection[str], most: int) -> dict[str, Array]:
    """Return those of the named arrays that a file has, in the type in which their numbers are stored.

    Args:
        path: of the file.
        names: of the arrays; others are left out unread.
        most: number of bytes an array, and the file beside a small rest, can have.

    Raises:
        DataError: it is no such file, is damaged or longer, or one of the arrays is not of real numbers.
    """
    content = _files.read(path, most + (1 << 24))
    found = {}
    try:
        order = _byte_order(content)
        at = _HEADER
        for _ in range(_MOST_ELEMENTS):
            if at >= len(content):
                break
            element = _element(memoryview(content)[at:], order, padded=False)
            part = memoryview(content)[at + element.start : at + element.start + element.size]
            at += element.end
            name, array = _array(part, element.kind, order, names, most)
            if array is not None:
                if name in found:
                    raise _DamagedError(f"{name} comes twice")
                found[name] = array
        else:
            raise _DamagedError(f"it has more than {_MOST_ELEMENTS} elements")
    except (_DamagedError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} must be a whole MATLAB 5 file, got one that is not ({error}); {_files.AGAIN}."
        ) from None
    return found


def _byte_order(content: bytearray) -> str:
    orders = {b"IM\x00\x01": "<", b"MI\x01\x00": ">"}
    marks = bytes(content[126:128] + content[124:126])
    if marks not in orders:
        raise _DamagedError("its header is another")
    return orders[marks]


def _element(view: memoryview, order: str, padded: bool = True) -> _Element:
    """Return the element at the start of the view; it may end after it, see `_content`."""
    if len(view) < 8:
        raise _DamagedError("it ends within a tag")
    kind, size = np.frombuffer(view[:8], f"{order}u4").tolist()
    if kind >> 16:  # a short one: four bytes at most, in the place of the size
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4:
            raise _DamagedError("a tag is wrong")
        return _Element(kind, 4, size, 8)
    return _Element(kind, 8, size, 8 + size + (-size % 8 if padded else 0))


def _content(view: memoryview, element: _Element) -> memoryview:
    if element.start + element.size > len(view):
        raise _DamagedError("an element is longer than what holds it")
    return view[element.start : element.start + element.size]


def _array(part: memoryview, kind: int, order: str, names: Collection[str], most: int) -> tuple[str, Array | None]:
    """Return the name and the numbers of an element of the file, None for what was not asked for."""
    if kind == _COMPRESSED:
        start = zlib.decompressobj().decompress(part, 8 + _START)
        element = _element(memoryview(start), order)
        if element.kind != _MATRIX:
            return "", None
        name, shape, numbers = _head(memoryview(start)[8:], order, names)
        if name not in names:
            return name, None
        expected = _check_size(name, shape, numbers, most)
        if element.size < expected or element.size > expected + 8:
            raise _DamagedError(f"{name} has another length than its numbers")
        unpack = zlib.decompressobj()
        body = unpack.decompress(part, 8 + element.size + 1)
        if len(body) != 8 + element.size or not unpack.eof:  # at the end the checksum was right
            raise _DamagedError(f"{name} is packed to another length than it says")
        part = memoryview(body)[8:]
    elif kind == _MATRIX:
        name, shape, numbers = _head(part[:_START], order, names)
        if name not in names:
            return name, None
        _check_size(name, shape, numbers, most)
    else:
        return "", None
    values = np.frombuffer(_content(part, numbers), order + _TYPES[numbers.kind]).reshape(shape, order="F")
    return name, values


def _head(view: memoryview, order: str, names: Collection[str]) -> tuple[str, tuple[int, ...], _Element]:
    """Return name, shape and the element with the numbers of an array; only the name if that is not asked for."""
    at, parts = 0, []
    for _ in range(3):
        element = _element(view[at:], order)
        parts.append(_content(view[at:], element))
        at += element.end
    flags, sizes, name = parts
    if len(flags) != 8 or len(sizes) < 8 or len(sizes) % 4:
        raise _DamagedError("the head of an array is wrong")
    text = str(name, "ascii")
    if text not in names:
        return text, (), _Element(0, 0, 0, 0)
    (flag,) = np.frombuffer(flags[:4], f"{order}u4").tolist()
    if flag & 0xFF not in _CLASSES or flag & _COMPLEX:
        raise _DamagedError(f"{text} is not an array of real numbers")
    shape = tuple(np.frombuffer(sizes, f"{order}i4").tolist())
    numbers = _element(view[at:], order)
    return text, shape, _Element(numbers.kind, at + numbers.start, numbers.size, at + numbers.end)


def _check_size(name: str, shape: tuple[int, ...], numbers: _Element, most: int) -> int:
    """Return the length of an array with its head; raises unless it has as many numbers as its shape says."""
    if numbers.kind not in _TYPES or not _files.is_shape(shape):
        raise _DamagedError(f"{name} is not an array of real numbers")
    if math.prod(shape) * int(_TYPES[numbers.kind][1]) != numbers.size:
        raise _DamagedError(f"{name} has {numbers.size} bytes, another number than its shape {shape} has")
    if numbers.size > most:
        raise _DamagedError(f"{name} has {numbers.size} bytes, more than {most}")
    return numbers.start + numbers.size
