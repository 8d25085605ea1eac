"""Which sources a library was built from: setup.py runs this file on its own, so it imports nothing of the package."""

import hashlib
from pathlib import Path


def digest(csrc: Path) -> str:
    """Return the SHA-256 of all C++ and CUDA files below a folder, names included, in hexadecimal."""
    total = hashlib.sha256()
    for path in sorted(path for path in csrc.rglob("*") if path.suffix in (".cpp", ".h", ".cu", ".cuh")):
        total.update(path.relative_to(csrc).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
