"""The few functions that pickles of arrays name: what each gives, without any of them being called."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._files import Array, is_shape

_MOST_OF_A_NAME = 200  # letters; each use of one makes a copy


class RefusedError(Exception):
    """An instruction that is damaged, or that data do not need."""


@dataclass(frozen=True)
class Named:
    """A function or class that the pickle names."""

    name: str


@dataclass
class Type:
    """A numpy dtype: its kind and size such as "u1", and its byte order."""

    kind: str
    order: str = "="

    def dtype(self) -> np.dtype[Any]:
        """Return the dtype."""
        if not re.fullmatch("[biu][1248]|f[248]", self.kind) or self.order not in ("<", ">", "|", "="):
            raise RefusedError(f"arrays of type {self.order}{self.kind}"[:40])
        return np.dtype(self.order + self.kind)


@dataclass
class LaterArray:
    """An array, None until the pickle says what it holds."""

    values: Array | None = None


def result_of(function: object, arguments: Any) -> Any:
    """Return what a call in the pickle gives; numpy 2 has moved some of the functions."""
    name = function.name if isinstance(function, Named) else type(function).__name__
    match name.replace("numpy._core.", "numpy.core.").replace("__builtin__.", "builtins."), arguments:
        case "numpy.core.multiarray._reconstruct", (Named("numpy.ndarray"), _, _):
            return LaterArray()
        case "numpy.dtype", (kind, _, _):
            return Type(name_of(kind))
        case "numpy.core.numeric._frombuffer", (content, kind, shape, order):
            return LaterArray(filled(shape, kind, name_of(order), content))
        case "numpy.core.multiarray.scalar", (kind, content):
            return filled((), kind, "C", content).item()
        # So Python 3 writes byte strings in the protocols of Python 2.
        case "_codecs.encode", (str(text), encoding) if name_of(encoding) in ("latin1", "latin-1"):
            return text.encode("latin-1")
        case "builtins.bytes" | "builtins.bytearray", ():
            return b""
        case "builtins.bytearray", (str(text), encoding) if name_of(encoding) in ("latin1", "latin-1"):
            return text.encode("latin-1")
        case "builtins.bytearray", (bytes() | memoryview() as content,):
            return content
    raise RefusedError(f"{name[:80]} is not needed for arrays and may do harm")


def name_of(value: object) -> str:
    """Return a short text, which Python 2 has written as bytes."""
    if not isinstance(value, (str, bytes)):
        raise RefusedError(f"a name of type {type(value).__name__}")
    if len(value) > _MOST_OF_A_NAME:
        raise RefusedError(f"a name of {len(value)} letters")
    return value.decode("latin-1") if isinstance(value, bytes) else value


def filled(shape: Any, kind: Any, order: str, content: Any) -> Array:
    """Return the array [*shape] of bytes that are there: nothing is allocated for a shape that is not."""
    if not isinstance(kind, Type) or not isinstance(shape, tuple) or not isinstance(content, (bytes, memoryview)):
        raise RefusedError("an array of something else than numbers")
    dtype = kind.dtype()
    if not is_shape(shape) or order not in ("C", "F"):
        raise RefusedError("an array without a shape")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise RefusedError(f"an array of {len(content)} bytes whose shape is another")
    array: Array = np.frombuffer(content, dtype).reshape(shape, order="F" if order == "F" else "C")
    return array
