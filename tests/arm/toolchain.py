"""A compiler for AArch64, its disassembler and an emulator: those on PATH, else Debian's, unpacked below build/arm.

Nothing is installed and root is not needed: Debian's cross compiler finds its own files wherever it lies, once its
libraries and the linker's scripts are where it looks, and its qemu is a static program.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # of the tests, for the program that `make neon` runs
from debian_packages import MissingError, unpacked

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
    for name in names:
        if found := shutil.which(name):
            return found
    said = f"neon: fetching {' and '.join(PACKAGES)} into {BUILD} (110 MB)"
    try:
        folder = unpacked(BUILD, PACKAGES, said, _make_relocatable) / "usr"
    except MissingError as error:
        raise SystemExit(_missing(names, str(error))) from error
    for name in names:
        if found := shutil.which(name, path=str(folder / "bin")):
            _find_libraries(folder / "lib")
            return found
    raise SystemExit(_missing(names, f"Debian's packages have none: remove {BUILD} to fetch them again"))


def _find_libraries(folder: Path) -> None:
    """Let the assembler and the disassembler find the libraries unpacked with them, if the system has none."""
    found = {str(library.parent) for library in folder.glob("*/libopcodes-*.so")}
    before = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    os.environ["LD_LIBRARY_PATH"] = ":".join(dict.fromkeys(entry for entry in (*before, *sorted(found)) if entry))


def _make_relocatable(root: Path) -> None:
    """Let scripts of the linker, such as libc.so, name libraries by their names, which are looked for beside them."""
    for script in (root / "usr" / "aarch64-linux-gnu" / "lib").glob("*.so"):
        text = script.read_bytes()
        if text.startswith(b"/* GNU ld script"):
            script.write_bytes(text.replace(b"/usr/aarch64-linux-gnu/lib/", b""))


def _missing(names: tuple[str, ...], reason: str) -> str:
    return (
        f"neon: {' or '.join(names)} is missing and {reason}. Install a C++ compiler for AArch64 and qemu's user mode "
        f"(Debian, Ubuntu: apt install {' '.join(PACKAGES)})."
    )
