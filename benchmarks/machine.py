"""What a figure depends on besides the code."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import torch

from iresnet_fast import _library

Record = dict[str, Any]


def environment() -> Record:
    """Return what a figure of a CPU depends on besides the code: machine, threads, instructions, versions, date."""
    return {
        "device": "cpu",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "isa": _library.cpu_isa(),
        "backend": _library.backend(),
        "dtype": "float32",
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def setting(records: Sequence[Record]) -> str:
    """Return what the figures were measured on, in one line."""
    first = records[0]
    isa = f", {first['isa']}" if first["isa"] else ""
    return (
        f"{first['processor']}, {first['threads']} threads{isa}, {first['dtype']}, torch {first['torch']}, "
        f"{first['date']}; ours: {first['backend']}"
    )


def why_no_gpu() -> str | None:
    """Return why nothing can be timed on a GPU, as the rest of a sentence about --device cuda; None if it can."""
    if not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a CPU build"
        return f"needs a GPU that torch can use; this torch {built} and finds none: use cpu."
    if not _library.HAS_CUDA:
        return f"needs the CUDA kernels, which are unavailable: {_library.CUDA_ERROR}."
    return None


@cache
def processor() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()
