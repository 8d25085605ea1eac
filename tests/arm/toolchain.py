"""A compiler for AArch64, its disassembler and an emulator: those on PATH, else Debian's, unpacked below build/arm.

Nothing is installed and root is not needed: Debian's cross compiler finds its own files wherever it lies, once its
libraries and the linker's scripts are where it looks, and its qemu is a static program.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "arm"
PACKAGES = ("g++-aarch64-linux-gnu", "qemu-user-static")
COMPILERS = ("aarch64-linux-gnu-g++",)
DISASSEMBLERS = ("aarch64-linux-gnu-objdump",)
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")


def compiler() -> str:
    """Return the path of the cross compiler."""
    return _program(COMPILERS)


def disassembler() -> str:
    """Return the path of the objdump that reads AArch64."""
    return _program(DISASSEMBLERS)


def emulator() -> str:
    """Return the path of qemu, which runs one program for AArch64."""
    return _program(EMULATORS)


def _program(names: tuple[str, ...]) -> str:
    unpacked = BUILD / "debian" / "usr" / "bin"
    for name in names:
        if found := shutil.which(name):
            return found
    if not unpacked.is_dir():
        BUILD.mkdir(parents=True, exist_ok=True)
        with (BUILD / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several tests may ask at once
            if not unpacked.is_dir():
                _unpack(names)
    for name in names:
        if found := shutil.which(name, path=str(unpacked)):
            _find_libraries(unpacked.parent / "lib")
            return found
    raise SystemExit(_missing(names, f"Debian's packages have none: remove {BUILD} to fetch them again"))


def _find_libraries(folder: Path) -> None:
    """Let the assembler and the disassembler find the libraries unpacked with them, if the system has none."""
    found = {str(library.parent) for library in folder.glob("*/libopcodes-*.so")}
    before = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    os.environ["LD_LIBRARY_PATH"] = ":".join(dict.fromkeys(entry for entry in (*before, *sorted(found)) if entry))


def _unpack(names: tuple[str, ...]) -> None:
    """Download the packages, and those they need that are not installed here, and unpack them."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise SystemExit(_missing(names, "there is no apt-get to fetch them with"))
    fresh = BUILD / "fetching"
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "lists" / "partial").mkdir(parents=True)
    (fresh / "archives" / "partial").mkdir(parents=True)
    # Lists and files of its own: the system's belong to root, and may be locked.
    folders = {"State::Lists": fresh / "lists", "Cache": fresh, "Cache::Archives": fresh / "archives"}
    options = [f"-oDir::{name}={folder}" for name, folder in folders.items()]
    apt = ["apt-get", "-qq", "-oDebug::NoLocking=1", "-oAPT::Sandbox::User=", "-oAcquire::Retries=3", *options]
    print(f"neon: fetching {' and '.join(PACKAGES)} into {BUILD} (110 MB)", file=sys.stderr, flush=True)
    for command in (["update"], ["install", "-y", "--download-only", "--no-install-recommends", *PACKAGES]):
        _run([*apt, *command], names)
    for package in sorted((fresh / "archives").glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(fresh / "root")], names)
    _make_relocatable(fresh / "root" / "usr" / "aarch64-linux-gnu" / "lib")
    (fresh / "root").rename(BUILD / "debian")  # only now: what is there is whole
    shutil.rmtree(fresh)


def _make_relocatable(folder: Path) -> None:
    """Let scripts of the linker, such as libc.so, name libraries by their names, which are looked for beside them."""
    for script in folder.glob("*.so"):
        text = script.read_bytes()
        if text.startswith(b"/* GNU ld script"):
            script.write_bytes(text.replace(b"/usr/aarch64-linux-gnu/lib/", b""))


def _run(command: list[str], names: tuple[str, ...]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise SystemExit(_missing(names, f"`{command[0]}` could not fetch them: {said[-1]}"))


def _missing(names: tuple[str, ...], reason: str) -> str:
    return (
        f"neon: {' or '.join(names)} is missing and {reason}. Install a C++ compiler for AArch64 and qemu's user mode "
        f"(Debian, Ubuntu: apt install {' '.join(PACKAGES)})."
    )
