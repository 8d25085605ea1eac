"""One run at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import distributed
from .files import WriteError, is_at

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """Make the folder of a run, and keep it to this run inside the block; the main process does it for all.

    What the block gets is called before something is written: if the folder or the lock was removed meanwhile, it makes
    both again, or raises ValueError if another run has begun there since.

    The lock is one of the system on a file in the folder, so it ends with the process, however that ends, and no file
    that was left behind locks anything. The file holds the number of the process.

    Raises:
        ValueError: another run is alive in the folder, of this process too; or it is a file.
        WriteError: there can be no files in it.
    """
    descriptor: int | None = None
    failure: Exception | None = None

    def keep() -> None:
        nonlocal descriptor
        if descriptor is None or is_at(folder / LOCK_FILE, descriptor):
            return
        _make(folder)
        taken = _take(folder / LOCK_FILE)
        os.close(descriptor)
        descriptor = taken
        warnings.warn(
            f"iresnet_fast: {folder / LOCK_FILE} was removed while a run was going on in the folder; it is made again, "
            f"and so is the log.",
            RuntimeWarning,
            stacklevel=2,
        )

    try:
        if distributed.is_main():
            _make(folder)
            descriptor = _take(folder / LOCK_FILE)
    except Exception as error:  # raised when the other processes know: they would wait for this one
        failure = error
    try:
        if distributed.any_process(failure is not None):
            raise failure or ValueError(
                f"folder must be one that the main process can have to itself, got {folder}; see what that says, or "
                f"pass another folder."
            )
        yield keep
    finally:
        if descriptor is not None:
            if is_at(folder / LOCK_FILE, descriptor):  # else it was removed, and may be another run's
                with suppress(OSError):
                    os.unlink(folder / LOCK_FILE)  # before the lock ends, while it is this run's
            os.close(descriptor)


def _make(folder: Path) -> None:
    try:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"folder must be a folder, got the file {folder}; pass another one.")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(folder, error) from error


def _take(path: Path) -> int:
    """Return the descriptor that holds the lock; raises ValueError if another one does."""
    while True:
        try:
            # Through a link the number would be written over what it leads to.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise WriteError(path, OSError(0, "it is a link") if error.errno == errno.ELOOP else error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise WriteError(path, OSError(0, "it is something else than a file"))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                number = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                os.close(descriptor)
                owner = f"process {number}" if number.isdigit() else "another process"
                raise ValueError(
                    f"folder must be of no run that is going on, got {path.parent}, in which {owner} is training; wait "
                    f"for its end, or pass another folder."
                ) from None
            warnings.warn(
                f"iresnet_fast: {path.parent} is on a file system without locks ({error.strerror}): nothing keeps a "
                f"second run out.",
                RuntimeWarning,
                stacklevel=2,
            )
        if is_at(path, descriptor):
            with suppress(OSError):  # the number is for the sentence only, and the disk may be full
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            return descriptor
        os.close(descriptor)  # its owner has ended and removed the file between the two calls
