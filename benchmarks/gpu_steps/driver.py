"""NVIDIA's tools on gpu_driver, the program that calls every family of kernels without Python or torch."""

from __future__ import annotations

import os
import shutil
import signal
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
    return output_within([*tool, *program], seconds)


def output_within(command: list[str], seconds: float) -> str:
    """Return what a program says; after that time it is killed with all that it started, and what it said counts."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        kill_others()
        return process.communicate()[0] + f"\nstopped after {seconds:.0f} s\n"


def kill_others() -> None:
    """Kill all other processes of this step's group, which are those it started and theirs.

    A tool runs the program in a process of its own, which would keep the GPU. It gets no group of its own: when this
    step is killed, its whole group goes.
    """
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            group = int(stat.read_text().rsplit(")", 1)[1].split()[2])
            if group == os.getpgrp() and int(stat.parent.name) != os.getpid():
                os.kill(int(stat.parent.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended by itself


def keep(path: Path, title: str, text: str) -> None:
    """Append what a tool said to a file of the results."""
    with open(path, "a") as file:
        file.write(f"==== {title}\n{text}\n")
