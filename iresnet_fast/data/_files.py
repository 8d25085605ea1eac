"""Finding the files of a data set, and reading them, never more than the format can hold."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from numpy.typing import NDArray

from .._regular import NotRegularError, open_regular
from .dataset import DataError

Root = str | os.PathLike[str] | None
Array = NDArray[Any]
AGAIN = "get the file again"  # what to do about a file that is damaged

MOST_DIMENSIONS = 32  # of an array, which all versions of numpy can have
_PIECE = 1 << 20  # bytes read at a time
_MOST_SHOWN = 200  # characters of a name or an error from a file


def root_folder(root: Root, name: str, files: str) -> Path:
    """Return the folder the user named; raises DataError if there is none."""
    if root is None:
        raise DataError(
            f"root must be the folder with the files of {name} ({files}), got None; get them and pass the folder.",
            argument="root",
        )
    folder = Path(root)
    if not os.path.isdir(folder):
        got = "a file" if os.path.exists(folder) else "no such folder"
        raise DataError(
            f"root must be the folder with the files of {name} ({files}), got {got}, {folder}; pass another one.",
            argument="root",
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


@contextmanager
def opened(path: Path, most: int) -> Iterator[BinaryIO]:
    """Open a file of at most so many bytes, to be read inside the block; raises DataError if that cannot be done."""
    try:
        with io.BufferedReader(open_regular(path)) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise _too_long(path, most, str(size))
            # What the system makes up while it is read, as under /proc, has no size, and may have no end.
            yield file if size else io.BytesIO()
    except NotRegularError as error:
        raise DataError(f"{path} must be a file, got {error}; move it away and put the file there.") from None
    except OSError as error:
        got = error.strerror or said(error)
        raise DataError(f"{path} must be a file that can be read, got the error {got!r}; correct the path.") from None


@contextmanager
def unpacked(path: Path, most: int) -> Iterator[BinaryIO]:
    """Open a file of at most so many bytes, unpacked while it is read if its name ends in .gz; errors as of `opened`.

    What is unpacked can be longer.
    """
    with opened(path, most) as file:
        if path.suffix != ".gz":
            yield file
            return
        try:
            with gzip.GzipFile(fileobj=file) as packed:
                yield cast(BinaryIO, packed)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path} must be a whole gzip file, got one that is not ({error}); {AGAIN}.") from None


def up_to(source: BinaryIO, n: int) -> bytearray:
    """Return the next n bytes of an open file, fewer at its end; in pieces: memory is taken for what is there."""
    content = bytearray()
    while piece := source.read(min(_PIECE, n - len(content))):
        content += piece
    return content


def read(path: Path, most: int) -> bytearray:
    """Return the content of a file, unpacked if its name ends in .gz.

    Raises:
        DataError: it cannot be read, or is longer than `most`, the bytes that such a file can hold.
    """
    with unpacked(path, most) as source:
        content = up_to(source, most + 1)
    if len(content) > most:
        raise _too_long(path, most, "more")
    return content


def said(error: Exception) -> str:
    """Return what an error of a library says on one line: some say it on several, some nothing."""
    return shown(" ".join(str(error).split())) or type(error).__name__


def shown(name: str) -> str:
    """Return what stands in a file for a sentence: not all of it if it is long, and nothing that acts on a terminal."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name[:_MOST_SHOWN])
    return text if len(name) <= _MOST_SHOWN else f"{text} ..."


def is_shape(sizes: Sequence[Any]) -> bool:
    """Return whether an array could have these sizes: others would take forever to multiply."""
    return len(sizes) <= MOST_DIMENSIONS and all(
        isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 63 for size in sizes
    )


def _too_long(path: Path, most: int, got: str) -> DataError:
    return DataError(f"{path} must hold at most {most} bytes, got {got}; check that it is the file its name says.")


def _first(paths: Sequence[Path]) -> Path | None:
    """Return the first path that is a file, else the first that is anything."""
    return next(filter(os.path.isfile, paths), None) or next(filter(os.path.exists, paths), None)


def _list(names: Sequence[str], suffixes: Sequence[str]) -> str:
    """Return the names for a sentence, with what they may end in."""
    ending = "" if len(suffixes) == 1 else f" (plain or {' or '.join(filter(None, suffixes))})"
    return ", ".join(names) + ending
