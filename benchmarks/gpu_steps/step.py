"""What every step of gpu_first_run.py shares: its options, its records, and its end when the parent ends."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from gpu_report import append

ROOT = Path(__file__).resolve().parents[2]


class Run:
    """One run of one step.

    Attributes:
        out: folder of the results.
        card: name of the GPU, part of every record.
        dry: CPU kernels and tiny sizes.
        device: "cuda", or "cpu" in a dry run.
    """

    def __init__(self, step: str) -> None:
        parser = argparse.ArgumentParser(description=f"The step {step!r} of gpu_first_run.py, which starts it.")
        parser.add_argument("--out", type=Path, required=True)
        parser.add_argument("--card", required=True)
        parser.add_argument("--until", type=float, required=True, help="of time.monotonic()")
        parser.add_argument("--dry-run", action="store_true")
        options = parser.parse_args()
        self.step, self.out, self.card, self.dry = step, options.out, options.card, options.dry_run
        self.device = "cpu" if self.dry else "cuda"
        self._end = options.until
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()

    def record(self, table: str, **measured: Any) -> None:
        """Put one record on disk, and a line in the log."""
        append(self.out, [{"step": self.step, "table": table, "card": self.card, **measured}])
        self.say(f"{table}: " + ", ".join(f"{key} {value}" for key, value in measured.items()))

    def say(self, text: str) -> None:
        """Put a line in the log."""
        print(f"{self.step}: {text}", flush=True)

    def need_kernels(self) -> None:
        """Exit unless CUDA tensors get our kernels: the ops would take plain torch, and its figures be called ours."""
        from iresnet_fast import _library  # imports torch, which not every step needs

        if not self.dry and not (_library.HAS_CUDA and _library.backend() == "kernels"):
            reason = _library.CUDA_ERROR or f"the backend is {_library.backend()!r}"
            sys.exit(f"{self.step}: the CUDA kernels are unavailable: {reason}")

    def left(self, reserve: float = 3.0) -> float:
        """Return the seconds that remain, less a reserve for the end of the step."""
        return self._end - time.monotonic() - reserve


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _end_with_parent(parent: int) -> None:
    """Kill the group of this step when the parent is gone: nobody else would."""
    while os.getppid() == parent:
        time.sleep(0.5)
    print("the parent is gone", file=sys.stderr, flush=True)
    os.killpg(0, signal.SIGKILL)
