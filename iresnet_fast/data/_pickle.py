"""Reading a pickle of arrays, numbers and texts without running it.

A pickle is a program: it can call functions, ask for any memory, and nest so deep that Python crashes. Here its
instructions are followed one by one, those alone that such data need, of all protocols; each of the few functions that
pickles of arrays name is a case of `_pickle_calls.result_of`, so nothing is looked up or called.
"""

from __future__ import annotations

import codecs
import pickletools
import struct
from collections.abc import Callable
from typing import Any

from ._files import AGAIN, said
from ._pickle_calls import LaterArray, Named, RefusedError, Type, filled, name_of, result_of
from .dataset import DataError

Content = bytes | bytearray

# Each may put something on the stack. Batches of images have a few for every image.
_MOST_INSTRUCTIONS = 1 << 22
# From so many bytes on a byte string is not copied: arrays are read where they are.
_LARGE = 1 << 16


def loads(where: str, content: Content) -> Any:
    """Return the arrays, numbers, texts, byte strings, lists and dictionaries that Python 2 or 3 pickled.

    A str of Python 2 is returned as bytes. Of nested objects only arrays directly in a dictionary that is the whole
    pickle are made arrays.

    Args:
        where: what the sentence of an error calls the file.
        content: the pickle, of any protocol.

    Raises:
        DataError: it is damaged, or holds something else.
    """
    try:
        value = _Reader(content).read()
    except Exception as error:  # a damaged pickle ends in whatever its instructions happen to do
        raise DataError(
            f"{where} must be a whole pickle of arrays and numbers, got one that is damaged or holds more "
            f"({said(error)}); {AGAIN}."
        ) from None
    if not isinstance(value, dict):
        return value
    return {key: entry.values if isinstance(entry, LaterArray) else entry for key, entry in value.items()}


def _bytes(raw: memoryview) -> bytes | memoryview:
    return bytes(raw) if len(raw) < _LARGE else raw


def _text(raw: memoryview) -> str:
    return str(raw, "utf-8", "surrogatepass")


def _signed(raw: memoryview) -> int:
    return int.from_bytes(raw, "little", signed=True)


def _unsigned(raw: memoryview) -> int:
    return int.from_bytes(raw, "little")


def _quoted(raw: memoryview) -> bytes:
    line = bytes(raw).strip()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise RefusedError("a string without quotes")
    return codecs.escape_decode(line[1:-1])[0]


def _line_integer(raw: memoryview) -> int:
    line = bytes(raw).rstrip(b"L")
    return line == b"01" if line in (b"00", b"01") else int(line)  # so protocol 0 writes False and True


# What the instructions that push a value make of their argument.
_VALUES: dict[str, Callable[[memoryview], Any]] = {
    "NONE": lambda raw: None,
    "NEWTRUE": lambda raw: True,
    "NEWFALSE": lambda raw: False,
    "INT": _line_integer,
    "LONG": _line_integer,
    "BININT": _signed,
    "BININT1": _unsigned,
    "BININT2": _unsigned,
    "LONG1": _signed,
    "LONG4": _signed,
    "FLOAT": lambda raw: float(bytes(raw)),
    "BINFLOAT": lambda raw: struct.unpack(">d", raw)[0],
    "STRING": _quoted,
    "BINSTRING": _bytes,
    "SHORT_BINSTRING": _bytes,
    "BINBYTES": _bytes,
    "SHORT_BINBYTES": _bytes,
    "BINBYTES8": _bytes,
    "BYTEARRAY8": _bytes,
    "UNICODE": lambda raw: str(raw, "raw-unicode-escape"),
    "BINUNICODE": _text,
    "SHORT_BINUNICODE": _text,
    "BINUNICODE8": _text,
    "EMPTY_TUPLE": lambda raw: (),
    "EMPTY_LIST": lambda raw: [],
    "EMPTY_DICT": lambda raw: {},
}
# Where the length of an argument stands: its number of bytes, and whether it is signed.
_PREFIXES = {
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}
_OPCODES = {ord(opcode.code): (opcode.name, opcode.arg.n if opcode.arg else 0) for opcode in pickletools.opcodes}


class _Reader:
    """Follows the instructions of one pickle."""

    def __init__(self, content: Content) -> None:
        self._content, self._view, self._at = content, memoryview(content), 0
        self._stack: list[Any] = []
        self._marks: list[int] = []  # heights of the stack
        self._memo: dict[int, Any] = {}
        self._encoded = 0  # bytes that calls have made of texts

    def read(self) -> Any:
        """Return the value."""
        for _ in range(_MOST_INSTRUCTIONS):
            if self._at >= len(self._content):
                raise RefusedError("it ends without a value")
            name, size = _OPCODES.get(self._content[self._at], ("", 0))
            self._at += 1
            if name in _VALUES:
                self._stack.append(_VALUES[name](self._argument(size)))
            elif name == "STOP":
                return self._stack.pop()
            elif name == "GLOBAL":
                module, function = (str(self._argument(size), "latin-1") for _ in range(2))
                self._stack.append(Named(f"{module}.{function}"))
            elif name in _ACTIONS:
                _ACTIONS[name](self, self._argument(size))
            else:
                raise RefusedError(f"the instruction {name or 'no pickle has'} is not needed for arrays")
        raise RefusedError(f"it has more than {_MOST_INSTRUCTIONS} instructions")

    def _argument(self, size: int) -> memoryview:
        """Return the bytes of an argument, which end where the content does at the latest."""
        start = self._at
        if size in _PREFIXES:
            width, signed = _PREFIXES[size]
            start += width
            size = int.from_bytes(self._view[self._at : start], "little", signed=signed)
        if size == pickletools.UP_TO_NEWLINE:
            end = self._content.find(b"\n", start)
            self._at = end + 1
        else:
            end = self._at = start + size
        if not start <= end <= len(self._content):
            raise RefusedError("it ends within an instruction")
        return self._view[start:end]

    def _pop_mark(self) -> list[Any]:
        """Take and return what is above the last mark."""
        height = self._marks.pop()
        items = self._stack[height:]
        del self._stack[height:]
        return items

    def _pop(self, n: int) -> list[Any]:
        """Take and return the last n values above the last mark."""
        if len(self._stack) - n < (self._marks[-1] if self._marks else 0):
            raise RefusedError("a value is missing")
        items = self._stack[len(self._stack) - n :]
        del self._stack[len(self._stack) - n :]
        return items

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise RefusedError("something is appended to what is no list")
        target.extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise RefusedError("an entry is set in what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys are not needed, and finding the hash of a deep tuple ends the process.
            if not isinstance(key, (str, bytes, int)):
                raise RefusedError(f"a key of type {type(key).__name__}")
            target[key] = value

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _dict(self) -> None:
        items = self._pop_mark()
        self._push({})
        self._set(items)

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _build(self) -> None:
        (state,) = self._pop(1)
        target = self._stack[-1]
        if isinstance(target, Type):  # (version, byte order, parts of types that are not numbers ...)
            target.order = name_of(state[1])
        elif isinstance(target, LaterArray) and target.values is None:
            _, shape, kind, is_fortran, content = state
            target.values = filled(shape, kind, "F" if is_fortran else "C", content)
        else:
            raise RefusedError("a state is set in what has none")

    def _reduce(self) -> None:
        function, arguments = self._pop(2)
        result = result_of(function, arguments)
        if isinstance(result, bytes):
            self._encoded += len(result)
            if self._encoded > len(self._content):
                raise RefusedError("it encodes a text again and again")
        self._push(result)

    def _named(self) -> None:
        module, function = self._pop(2)
        self._push(Named(f"{name_of(module)}.{name_of(function)}"))


_ACTIONS: dict[str, Callable[[_Reader, memoryview], None]] = {
    "PROTO": lambda reader, raw: None,
    "FRAME": lambda reader, raw: None,  # how much may be read at once: all of it is here
    "MARK": lambda reader, raw: reader._marks.append(len(reader._stack)),
    "TUPLE": lambda reader, raw: reader._push(tuple(reader._pop_mark())),
    "TUPLE1": lambda reader, raw: reader._push(tuple(reader._pop(1))),
    "TUPLE2": lambda reader, raw: reader._push(tuple(reader._pop(2))),
    "TUPLE3": lambda reader, raw: reader._push(tuple(reader._pop(3))),
    "LIST": lambda reader, raw: reader._push(reader._pop_mark()),
    "DICT": lambda reader, raw: reader._dict(),
    "APPEND": lambda reader, raw: reader._append(reader._pop(1)),
    "APPENDS": lambda reader, raw: reader._append(reader._pop_mark()),
    "SETITEM": lambda reader, raw: reader._set(reader._pop(2)),
    "SETITEMS": lambda reader, raw: reader._set(reader._pop_mark()),
    "PUT": lambda reader, raw: reader._put(int(bytes(raw))),
    "BINPUT": lambda reader, raw: reader._put(_unsigned(raw)),
    "LONG_BINPUT": lambda reader, raw: reader._put(_unsigned(raw)),
    "MEMOIZE": lambda reader, raw: reader._put(len(reader._memo)),
    "GET": lambda reader, raw: reader._push(reader._memo[int(bytes(raw))]),
    "BINGET": lambda reader, raw: reader._push(reader._memo[_unsigned(raw)]),
    "LONG_BINGET": lambda reader, raw: reader._push(reader._memo[_unsigned(raw)]),
    "STACK_GLOBAL": lambda reader, raw: reader._named(),
    "REDUCE": lambda reader, raw: reader._reduce(),
    "BUILD": lambda reader, raw: reader._build(),
}
