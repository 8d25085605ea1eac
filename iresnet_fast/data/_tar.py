"""Reading single files out of a tar archive, in one pass, with memory for those files only."""

from __future__ import annotations

from collections.abc import Collection
from typing import BinaryIO

from . import _files
from .dataset import DataError

_BLOCK = 512
_REGULAR = b"\0" + b"0"  # types of members that are plain files


def read_members(where: object, source: BinaryIO, names: Collection[str], most: int) -> dict[str, bytearray]:
    """Return the content of those of the named files that the archive has, whatever their folder in it.

    Headers say a name, a size and a type; headers that add to others (long names, times) do not matter here.

    Args:
        where: what the sentence of an error calls the archive.
        source: the archive, open.
        names: of the files, without a folder.
        most: number of bytes the whole archive can have.

    Raises:
        DataError: it is damaged, or longer than that.
    """
    found: dict[str, bytearray] = {}
    left = most
    while left > 0:
        header = _files.up_to(source, _BLOCK)
        if not any(header):  # two blocks of zeros are the end; some archives just stop
            break
        size = _size(where, header)
        left -= _BLOCK + size
        if left < 0:
            break
        name = bytes(header[:100]).split(b"\0")[0].decode("latin-1").rpartition("/")[2]
        padding = -size % _BLOCK
        if header[156] in _REGULAR and name in names:
            found[name] = _files.up_to(source, size)
            if len(found[name]) < size:
                raise _damaged(where, "it ends within a file")
            _skip(source, padding)
        else:
            _skip(source, size + padding)
    # To the end: only there it shows whether a packed archive is whole.
    if left < 0 or _skip(source, left) == left:
        raise DataError(f"{where} must hold at most {most} bytes, got more; {_files.AGAIN}.")
    return found


def _size(where: object, header: bytearray) -> int:
    """Return the size of a member; raises DataError unless the header is one, by its checksum."""
    try:
        # The checksum was taken with spaces in its own place.
        if sum(header) - sum(header[148:156]) + 8 * ord(" ") != int(header[148:156].strip(b" \0"), 8):
            raise ValueError
        size = int(header[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        raise _damaged(where, "no header where one should be") from None
    if len(header) < _BLOCK or size < 0:
        raise _damaged(where, "it ends within a header")
    return size


def _skip(source: BinaryIO, n: int) -> int:
    """Read on by n bytes, or to the end; returns by how many."""
    read = 0
    while read < n and (piece := _files.up_to(source, min(1 << 20, n - read))):
        read += len(piece)
    return read


def _damaged(where: object, reason: str) -> DataError:
    return DataError(f"{where} must be a whole tar archive, got a damaged one ({reason}); {_files.AGAIN}.")
