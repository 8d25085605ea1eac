"""NVIDIA's tools on gpu_driver, the program that calls every family of kernels without Python or torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from step import ROOT, Run

sys.path.insert(0, str(ROOT / "tests"))
from simt.gpu import DRIVER, build

KERNELS = "irf"  # the namespace of ours, in mangled names


def find_tool(name: str) -> str:
    """Return a tool of the CUDA toolkit; exit with a sentence if it is missing."""
    path = shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin:/opt/cuda/bin")
    if path is None:
        sys.exit(f"{name} is missing: it comes with the CUDA toolkit; put its folder on PATH")
    return path


def output_of(run: Run, tool: list[str], calls: list[str], seconds: float) -> str:
    """Return what a tool says while the driver makes these calls (none: all), also if its time is over."""
    program = [str(build(target=DRIVER)), *calls]
    run.say(" ".join([*tool, *program]))
    try:
        done = subprocess.run(
            [*tool, *program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False
        )
        return done.stdout
    except subprocess.TimeoutExpired as stopped:
        said = stopped.stdout or b""
        return (
            said.decode(errors="replace") if isinstance(said, bytes) else said
        ) + f"\nstopped after {seconds:.0f} s\n"


def keep(path: Path, title: str, text: str) -> None:
    """Append what a tool said to a file of the results."""
    with open(path, "a") as file:
        file.write(f"==== {title}\n{text}\n")
