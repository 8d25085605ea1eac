"""Where the compiler and the readers of machine code are. What is missing is said in one sentence."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cuda-static"
INCLUDES = (ROOT / "csrc", ROOT / "csrc" / "include")


@cache
def nvcc() -> str:
    """Return the path of nvcc."""
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=str(Path(home) / "bin") if home else None)
    if not found:
        sys.exit(
            "cuda-static: nvcc is missing: install the CUDA toolkit and put its bin folder on PATH or set CUDA_HOME."
        )
    return found


@cache
def nvcc_version() -> str:
    """Return the toolkit's version, such as 13.0.88."""
    return re.search(r"V([\d.]+)", run(nvcc(), "--version"))[1]


@cache
def reader(name: str) -> str:
    """Return the path of cuobjdump or nvdisasm: PyPI packages of the development set."""
    package = f"nvidia-cuda-{name}"
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"cuda-static: the package {package} is missing: `make` installs it from requirements/dev.txt.")
    return str(next(file.locate() for file in files if file.name == name))


def run(*command: object, **options: object) -> str:
    """Return what a command prints; its failure is an exception."""
    path = os.pathsep.join([str(Path(reader("nvdisasm")).parent), os.environ["PATH"]])
    text = [str(part) for part in command]
    done = subprocess.run(text, capture_output=True, text=True, env={**os.environ, "PATH": path}, **options)
    if done.returncode:
        raise RuntimeError(f"{Path(text[0]).name} failed on {text[-1]}:\n{done.stderr.strip()[-2000:]}")
    return done.stdout
