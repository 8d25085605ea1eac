"""Programs that a machine lacks, from Debian's packages: fetched and unpacked into a folder. Nothing is installed.

Root is not needed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


class MissingError(Exception):
    """The packages cannot be had: the words complete "... is missing and"."""


def unpacked(build: Path, packages: tuple[str, ...], said: str, prepare: Callable[[Path], None] | None = None) -> Path:
    """Return the root of the files of packages, and of those they need that are not installed here.

    Args:
        build: folder for them; they are fetched once.
        packages: names.
        said: on stderr while they are fetched: for what, and how large they are.
        prepare: what is done to the root before it counts as whole.

    Raises:
        MissingError: there is no apt-get, or it fails.
    """
    root = build / "debian"
    if not root.is_dir():
        build.mkdir(parents=True, exist_ok=True)
        with (build / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several tests may ask at once
            if not root.is_dir():
                _unpack(build, packages, said, prepare)
    return root


def _unpack(build: Path, packages: tuple[str, ...], said: str, prepare: Callable[[Path], None] | None) -> None:
    """Download the packages and unpack them."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise MissingError("there is no apt-get to fetch them with")
    fresh = build / "fetching"
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "lists" / "partial").mkdir(parents=True)
    (fresh / "archives" / "partial").mkdir(parents=True)
    # Lists and files of its own: the system's belong to root, and may be locked.
    folders = {"State::Lists": fresh / "lists", "Cache": fresh, "Cache::Archives": fresh / "archives"}
    options = [f"-oDir::{name}={folder}" for name, folder in folders.items()]
    apt = ["apt-get", "-qq", "-oDebug::NoLocking=1", "-oAPT::Sandbox::User=", "-oAcquire::Retries=3", *options]
    print(said, file=sys.stderr, flush=True)
    for command in (["update"], ["install", "-y", "--download-only", "--no-install-recommends", *packages]):
        _run([*apt, *command])
    for package in sorted((fresh / "archives").glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(fresh / "root")])
    if prepare is not None:
        prepare(fresh / "root")
    (fresh / "root").rename(build / "debian")  # only now: what is there is whole
    shutil.rmtree(fresh)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise MissingError(f"`{command[0]}` could not fetch them: {said[-1]}")
