"""Writing files whole or not at all, and saying which one could not be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ._regular import kind_of

TEMPORARY = ".writing"  # the end of the name of a file that is not whole yet


class WriteError(OSError):
    """A file that could not be written: the sentence says which, why, and what to do.

    Args:
        path: of the file.
        error: what the system said.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        """Make the sentence."""
        super().__init__(error.errno, error.strerror or str(error), str(path))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it by what it was made of: processes hand on their errors so."""
        return type(self), (Path(self.filename), OSError(self.errno, self.strerror))

    def __str__(self) -> str:
        """Return the sentence."""
        return f"{self.filename} must be written whole, got: {self.strerror}; make room for it or write elsewhere."


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write into, which gets its name at the end of the block; missing folders are made.

    Under the name there is the old file or the new one, at any moment; after an error the old one, and nothing else.

    Raises:
        WriteError: the disk is full, the folder cannot be written to, or the name is that of something else.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        kind = kind_of(path)
        if kind not in (None, "a file"):
            raise OSError(0, f"it is {kind}")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # of a process that was killed and had this number
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_names(path.parent)
    except OSError as error:
        raise WriteError(path, error) from error


def _sync_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
