"""Nsight Compute on the kernels that take the time: how far from the limits, and what warps wait for."""

from __future__ import annotations

import csv

from driver import find_tool, keep, output_of
from step import Run

KERNELS = "regex:resident_chain|stage_product|weight_gradient|power_iteration"
# Of gpu_driver, one run of the tool each, so that what came to an end is there when the time is over.
CALLS = ("norms", "layered-tf32", "layered-float32", "layered-bf16", "dense-tf32", "dense-float32", "dense-bf16",
         "image-tf32", "image-float32", "image-bf16")  # fmt: skip
SECTIONS = ("SpeedOfLight", "WarpStateStats", "MemoryWorkloadAnalysis", "Occupancy", "InstructionStats")
COLUMNS = {
    "gpu__time_duration.sum": "ns",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "compute %",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": "memory %",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy %",
}
LAUNCHES = 6  # of each call
SAMPLE = '"ID","Kernel Name","gpu__time_duration.sum"\n"","","ns"\n"0","resident_chain","41000"\n'


def main() -> None:
    """Profile call after call while there is time; in a dry run only read a sample of what the tool prints."""
    run = Run("ncu")
    file = run.out / "ncu.csv"
    file.unlink(missing_ok=True)
    command = [] if run.dry else profiler()
    found, text = 0, ""
    for call in CALLS[:1] if run.dry else CALLS:
        if run.left() <= 0:
            run.record("left out", what=call)
            continue
        text = SAMPLE if run.dry else output_of(run, command, [call], run.left())
        keep(file, call, text)
        for row in kernels(text):
            run.record("a sample, no result" if run.dry else "kernels", call=call, **row)
            found += 1
    if not found:
        raise SystemExit(f"ncu: {text.strip().splitlines()[-1] if text.strip() else 'nothing was printed'}")


def profiler() -> list[str]:
    """Return the command of the tool, without the program."""
    sections = [word for section in SECTIONS for word in ("--section", section)]
    chosen = ["--clock-control", "none", "-k", KERNELS, "--launch-count", str(LAUNCHES)]
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
