"""Writing files whole or not at all, or adding to them; saying which one could not be written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from .._writing import TEMPORARY, WriteError, writing

__all__ = ["TEMPORARY", "WriteError", "append", "is_at", "writing"]


def is_at(path: Path, descriptor: int) -> bool:
    """Return whether an open file is the one of this name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def append(file: BinaryIO, path: Path, content: bytes) -> None:
    """Add to the end of a file without a buffer, everything or nothing.

    Raises:
        WriteError: there was no room for all of it.
    """
    left = memoryview(content)
    try:
        end = file.seek(0, os.SEEK_END)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(end)
            raise
    except OSError as error:
        raise WriteError(path, error) from error
