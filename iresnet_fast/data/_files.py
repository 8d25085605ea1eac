"""Finding the files of a data set, and reading them whole."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .dataset import DataError

Root = str | os.PathLike[str] | None
Array = NDArray[Any]
AGAIN = "get the file again"  # what to do about a file that is damaged


def root_folder(root: Root, name: str, files: str) -> Path:
    """Return the folder the user named; raises DataError if there is none."""
    if root is None:
        raise DataError(
            f"root must be the folder with the files of {name} ({files}), got None; get them and pass the folder "
            f"(--data-root on the command line)."
        )
    folder = Path(root)
    if not folder.is_dir():
        got = "a file" if folder.exists() else "no such folder"
        raise DataError(
            f"root must be the folder with the files of {name} ({files}), got {got}, {folder}; pass another one."
        )
    return folder


def find(folders: Sequence[Path], names: Sequence[str], suffixes: Sequence[str] = ("",)) -> list[Path]:
    """Return the paths of all `names`, each with one of the suffixes, in the first folder that has one of them.

    Raises:
        DataError: a file is missing, or is a folder.
    """
    for folder in folders:
        found = [_first([folder / (name + suffix) for suffix in suffixes]) for name in names]
        if not any(found):
            continue
        missing = [name for name, path in zip(names, found, strict=True) if path is None]
        if missing:
            raise DataError(f"{folder} must hold {_list(names, suffixes)}, got no {_list(missing, suffixes)}; add it.")
        return [path for path in found if path is not None]
    raise DataError(
        f"one of the folders {', '.join(map(str, folders))} must hold {_list(names, suffixes)}, got none of them; "
        f"get the files and pass their folder as root (--data-root on the command line)."
    )


def read(path: Path) -> bytes:
    """Return the bytes of a file, unpacked if its name ends in .gz; raises DataError if that cannot be done."""
    if path.is_dir():
        raise DataError(f"{path} must be a file, got a folder; move the file out of it.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} must be a file that can be read, got: {error.strerror}; correct the path.") from None
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} must be a whole gzip file, got one that is not ({error}); {AGAIN}.") from None


def said(error: Exception) -> str:
    """Return what an error of a library says on one line: some say it on several."""
    return " ".join(str(error).split())


def _first(paths: Sequence[Path]) -> Path | None:
    """Return the first path that is a file, else the first that is anything."""
    return next(filter(Path.is_file, paths), None) or next(filter(Path.exists, paths), None)


def _list(names: Sequence[str], suffixes: Sequence[str]) -> str:
    """Return the names for a sentence, with what they may end in."""
    ending = "" if len(suffixes) == 1 else f" (plain or {' or '.join(filter(None, suffixes))})"
    return ", ".join(names) + ending
