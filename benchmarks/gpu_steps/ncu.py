"""Nsight Compute on the kernels that take the time: how far from the limits, and what warps wait for."""

from __future__ import annotations

import csv

from driver import find_tool, keep, output_of
from step import Run

# Calls of gpu_driver and their kernels, one run of the tool each: what came to an end is there when the time is over.
# Products come first in every call, so that only a run of their own shows weight gradients.
JOBS = (
    ("norms", "power_iteration"),
    *(
        (call, kernel)
        for call in ("layered-tf32", "layered-float32")
        for kernel in ("stage_product", "weight_gradient")
    ),
    ("layered-bf16", "stage_product"),
    *(
        (f"{way}-{precision}", "resident_chain")
        for way in ("dense", "image")
        for precision in ("tf32", "float32", "bf16")
    ),
)
SECTIONS = ("SpeedOfLight", "WarpStateStats", "MemoryWorkloadAnalysis", "Occupancy", "InstructionStats")
COLUMNS = {
    "gpu__time_duration.sum": "ns",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "compute %",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": "memory %",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy %",
}
LAUNCHES = 6  # of each run
SAMPLE = '"ID","Kernel Name","gpu__time_duration.sum"\n"","","ns"\n"0","resident_chain","41000"\n'


def main() -> None:
    """Profile call after call while there is time; in a dry run only read a sample of what the tool prints."""
    run = Run("ncu")
    file = run.out / "ncu.csv"
    file.unlink(missing_ok=True)
    found, text = 0, ""
    for call, kernel in JOBS[:1] if run.dry else JOBS:
        if run.left() <= 0:
            run.record("left out", what=f"{call}: {kernel}")
            continue
        text = SAMPLE if run.dry else output_of(run, profiler(kernel), [call], run.left())
        keep(file, call, text)
        for row in kernels(text):
            run.record("a sample, no result" if run.dry else "kernels", call=call, **row)
            found += 1
    if not found:
        raise SystemExit(f"ncu: {text.strip().splitlines()[-1] if text.strip() else 'nothing was printed'}")


def profiler(kernel: str) -> list[str]:
    """Return the command of the tool for the first launches of a kernel, without the program."""
    sections = [word for section in SECTIONS for word in ("--section", section)]
    chosen = ["--clock-control", "none", "-k", f"regex:{kernel}", "--launch-count", str(LAUNCHES)]
    return [find_tool("ncu"), *chosen, *sections, "--csv", "--page", "raw"]


def kernels(text: str) -> list[dict[str, str]]:
    """Return what the report shows of every launch, from the lines of CSV among others."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(lines))[1:]  # the first holds units
    return [
        {"kernel": row["Kernel Name"][:70], **{short: row[name] for name, short in COLUMNS.items() if row.get(name)}}
        for row in rows
    ]


if __name__ == "__main__":
    main()
