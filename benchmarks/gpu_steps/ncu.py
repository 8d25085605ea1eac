"""Nsight Compute on the kernels that take the time: how far from the limits, and what warps wait for."""

from __future__ import annotations

import csv

from driver import find_tool, keep, output_of
from step import Run

KERNELS = "regex:resident_chain|stage_product|weight_gradient|power_iteration"
CALLS = ["dense-float32", "image-float32", "layered-float32", "layered-tf32", "norms"]
SECTIONS = ("SpeedOfLight", "WarpStateStats", "MemoryWorkloadAnalysis", "Occupancy", "InstructionStats")
COLUMNS = {
    "gpu__time_duration.sum": "ns",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "compute %",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": "memory %",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy %",
}
LAUNCHES = 24
SAMPLE = '"ID","Kernel Name","gpu__time_duration.sum"\n"","","ns"\n"0","resident_chain","41000"\n'


def main() -> None:
    """Profile; in a dry run only read a sample of what the tool prints."""
    run = Run("ncu")
    file = run.out / "ncu.csv"
    file.unlink(missing_ok=True)
    if run.dry:
        text = SAMPLE
    else:
        sections = [word for section in SECTIONS for word in ("--section", section)]
        command = [find_tool("ncu"), "--clock-control", "none", "-k", KERNELS, "--launch-count", str(LAUNCHES)]
        text = output_of(run, [*command, *sections, "--csv", "--page", "raw"], CALLS, run.left())
    keep(file, "ncu", text)
    rows = kernels(text)
    for row in rows:
        run.record("a sample, no result" if run.dry else "kernels", **row)
    if not rows:
        raise SystemExit(f"ncu: {text.strip().splitlines()[-1] if text.strip() else 'nothing was printed'}")


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
