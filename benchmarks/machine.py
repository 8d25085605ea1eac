"""What a figure depends on besides the code."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import torch

from iresnet_fast import _library

Record = dict[str, Any]


def environment(device: str) -> Record:
    """Return what a figure depends on besides the code: machine, threads, instruction set, versions, date."""
    return {
        "device": device,
        "processor": processor() if device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "isa": _library.cpu_isa(),
        "backend": _library.backend(),
        "dtype": "float32" if device == "cpu" or not torch.backends.cuda.matmul.allow_tf32 else "float32 (TF32)",
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


@cache
def processor() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()
