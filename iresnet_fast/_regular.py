"""Opening files that others name: a named pipe, a device or a folder is refused before anything waits for it.

And how long such files may be.
"""

from __future__ import annotations

import io
import os
import stat

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class NotRegularError(OSError):
    """A path that is something else than a file; the text says what."""


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """Return what is at a path, links followed: "a file", "a folder", "a named pipe", "a device", None if nothing is.

    Raises:
        OSError: that cannot be found out.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    except ValueError as error:  # a null character
        raise OSError(0, str(error)) from None
    return _KINDS.get(stat.S_IFMT(mode), "a file")


def half_of_memory() -> int:
    """Return how many bytes a file can have that is read whole and copied once; one full of holes can have any."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def open_regular(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a file for reading, without a buffer and without waiting.

    Raises:
        NotRegularError: the path is something else, which its text names.
        OSError: the file is not there or cannot be read.
    """
    kind = kind_of(path)
    if kind not in ("a file", None):  # a device may act on being opened
        raise NotRegularError(kind)
    file = io.FileIO(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it has been put there meanwhile
        file.close()
        raise NotRegularError("something else than a file")
    return file
