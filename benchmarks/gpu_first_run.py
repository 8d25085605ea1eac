"""Everything a GPU can tell about this package, in one command of under nine minutes.

    python benchmarks/gpu_first_run.py [--out FOLDER] [--steps smoke,times] [--dry-run]

Each step is a program of `gpu_steps/` in a process group of its own, with a time limit. What it measures is in
FOLDER/results.jsonl at once; FOLDER/report.md is written anew after every step, and no step stops the next. The default
of --out is results/<card>. --dry-run takes the CPU kernels and tiny sizes: it tries the program, not the package.

This process imports no torch: it survives whatever a step does to the GPU, to memory or to itself.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from gpu_report import LOG, append, card_folder, read, summary, write_report  # noqa: E402

DRY_CARD = "CPU (dry run)"
DRY_PATIENCE = 6  # a dry run may share two cores with a test suite: times the limit


class Step(NamedTuple):
    """A program of gpu_steps/, and the seconds after which its process group is killed."""

    name: str
    limit: float
    what: str
    script: Path | None = None  # None: gpu_steps/<name>.py

    @property
    def command(self) -> list[str]:
        """Return the program and its interpreter."""
        return [sys.executable, "-u", str(self.script or HERE / "gpu_steps" / f"{self.name}.py")]


# What a later step needs comes first, then what is worth most. The limits stay below 500 seconds in all; what a step
# leaves of its own goes to those after it.
STEPS = (
    Step("env", 110, "what is there; kernels and their entries built for this card"),
    Step("smoke", 25, "every raw op, every way of running it: error against float64, the same bits twice"),
    Step("tests", 75, "pytest -m cuda"),
    Step("simt", 40, "tests/simt with forced plans on the card"),
    Step("ceilings", 20, "rates of the card that no kernel exceeds"),
    Step("calibrate", 25, "resident plans and the layered way timed, the plan model fitted"),
    Step("products", 18, "every route of the products of the layered way timed; rows of plan/measured.h"),
    Step("times", 75, "ours and the baselines: every case, precision, mode, in graphs and eagerly"),
    Step("kernels", 20, "GPU time of every kernel of a step"),
    Step("steps", 46, "spectral norms, inverses, whole training steps"),
    Step("sanitizer", 25, "compute-sanitizer: memory, races, initialisation, barriers"),
    Step("ncu", 20, "Nsight Compute: the main kernels"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chosen steps; exit with 1 if one failed."""
    options = parse(arguments)
    card = DRY_CARD if options.dry_run else find_card()
    folder = options.out or HERE / "results" / card_folder(card)
    print(f"gpu_first_run: {card}; results go to {folder}", flush=True)
    states = run(options.steps, folder, card, options.dry_run)
    print(summary(read(folder), lines=100), flush=True)
    sys.exit(0 if all(state == "ok" for state in states.values()) else 1)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked options."""
    parser = argparse.ArgumentParser(description="Learn everything a GPU can tell about iresnet_fast.")
    parser.add_argument("--out", type=Path, help="folder of the results (benchmarks/results/<card>)")
    parser.add_argument("--steps", type=_chosen, default=STEPS,
                        help=f"comma-separated, of {', '.join(step.name for step in STEPS)} (all)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="without a GPU: CPU kernels and tiny sizes")
    return parser.parse_args(arguments)


def _chosen(text: str) -> tuple[Step, ...]:
    known = {step.name: step for step in STEPS}
    unknown = [name for name in text.split(",") if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown {unknown[0]!r}; there are {', '.join(known)}")
    return tuple(known[name] for name in known if name in text.split(","))


def find_card() -> str:
    """Return the name of GPU 0 as its driver gives it; exit with a sentence if there is none."""
    name = ctypes.create_string_buffer(256)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        code = driver.cuInit(0) or driver.cuDeviceGetName(name, len(name), 0)
    except OSError:
        sys.exit("gpu_first_run: no NVIDIA driver (libcuda.so.1) on this machine; --dry-run tries all without a GPU.")
    if code:
        sys.exit(f"gpu_first_run: the driver finds no usable GPU (error {code}); --dry-run tries all without one.")
    return name.value.decode()


def run(steps: Sequence[Step], folder: Path, card: str, dry: bool) -> dict[str, str]:
    """Run the steps one after the other and return how each ended: "ok", "failed" or "timed out".

    Each gets its limit and what those before it left of theirs. A step that is run again replaces its earlier results
    in the folder; those of other steps stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {step.name for step in steps}
    append(folder, (record for record in read(folder) if record["step"] not in names), anew=True)
    states, spare = {}, 0.0
    for step in steps:
        step = step._replace(limit=step.limit * (DRY_PATIENCE if dry else 1) + spare)
        print(f"{step.name}: {step.what} (at most {step.limit:.0f} s)", flush=True)
        started = time.monotonic()
        state, last = run_step(step, folder, card, dry)
        seconds = time.monotonic() - started
        states[step.name], spare = state, max(0.0, step.limit - seconds)
        ending = {"step": step.name, "table": "endings", "card": card, "state": state, "seconds": round(seconds, 1)}
        append(folder, [ending if state == "ok" else ending | {"last line": last}])
        write_report(folder)
        print(f"{step.name}: {state} after {seconds:.1f} s" + ("" if state == "ok" else f": {last}"), flush=True)
    return states


def run_step(step: Step, folder: Path, card: str, dry: bool) -> tuple[str, str]:
    """Run one step in a process group of its own; return how it ended and the last line it printed."""
    log = folder / LOG
    command = [*step.command, "--out", str(folder), "--card", card]
    with open(log, "ab") as output:
        output.write(f"\n==== {step.name}\n".encode())
        output.flush()
        start = output.tell()
        # The step counts from here too, not from when its imports are done: the clock is one for all processes.
        command += ["--until", str(time.monotonic() + step.limit)]
        process = subprocess.Popen(
            [*command, "--dry-run"] if dry else command,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment(dry), cwd=HERE.parent,
        )  # fmt: skip
        try:
            state = "ok" if process.wait(step.limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            state = "timed out"
        finally:  # also when this process is told to end; and nothing a step started outlives it
            kill_group(process.pid)
            process.wait()
    with open(log, "rb") as text:
        text.seek(start)
        lines = text.read().decode(errors="replace").strip().splitlines()
    return state, lines[-1].strip() if lines else f"nothing was printed, exit code {process.returncode}"


def kill_group(group: int) -> None:
    """Kill every process of a group; there may be none left."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def environment(dry: bool) -> dict[str, str]:
    """Return the environment of a step: this checkout comes first, and compiled baselines are kept for the next run."""
    root = HERE.parent
    paths = [str(root), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(root / "build/gpu/inductor"))
    changes = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "TORCHINDUCTOR_CACHE_DIR": cache}
    if dry:
        changes["OMP_NUM_THREADS"] = "1"  # tiny sizes: threads would only wait for each other
    return os.environ | changes


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("gpu_first_run: told to end; what was measured is on disk."))
    main()
