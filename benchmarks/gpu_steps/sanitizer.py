"""compute-sanitizer: accesses out of bounds, races, reads of what nobody wrote, barriers that not all threads reach."""

from __future__ import annotations

import re

from driver import KERNELS, find_tool, keep, output_of
from step import Run

FINDING = r"(?:Invalid|Uninitialized|Error|Barrier|Program|Race|Leaked)"
TOOLS = {"memcheck": 0.3, "racecheck": 0.4, "initcheck": 0.15, "synccheck": 0.15}  # share of the time
SAMPLE = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"


def main() -> None:
    """Run every tool; in a dry run only read a sample of what they print."""
    run = Run("sanitizer")
    file, time = run.out / "sanitizer.txt", run.left()
    file.unlink(missing_ok=True)
    program = "" if run.dry else find_tool("compute-sanitizer")
    for tool, share in TOOLS.items():
        command = [program, "--tool", tool, "--kernel-regex", f"kns={KERNELS}", "--print-limit", "20"]
        text = SAMPLE if run.dry else output_of(run, command, [], share * time)
        keep(file, tool, text)
        run.record("a sample, no result" if run.dry else "sanitizer", tool=tool, **verdict(text))


def verdict(text: str) -> dict[str, object]:
    """Return the number of errors and the first of them; None if the tool did not come to an end."""
    count = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", text)
    lines = [line.removeprefix("=========").strip() for line in text.splitlines() if line.startswith("=========")]
    first = next((line for line in lines if re.match(FINDING, line)), "")
    return {"errors": int(count[1]) if count else None, "first": first or text.strip().splitlines()[-1]}


if __name__ == "__main__":
    main()
