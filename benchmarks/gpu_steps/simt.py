"""The tests of tests/simt on the GPU: every family of tiles and every way of running, forced, with the same limits."""

from __future__ import annotations

import subprocess
import sys

from pytest_run import run_pytest
from step import ROOT, Run

TESTS = ["tests/simt", "--emulator", "gpu"]


def main() -> None:
    """Run the tests; in a dry run they are only collected, as no CPU runs what nvcc compiles."""
    run = Run("simt")
    if not run.dry:
        sys.exit(run_pytest(run, TESTS, run.out / "simt.xml"))
    command = [sys.executable, "-m", "pytest", *TESTS, "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (run.out / "simt.xml").write_text("<testsuites/>\n")
    run.record("counts", collected=done.stdout.count("::"))
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
