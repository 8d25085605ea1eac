"""The tests of tests/simt on the GPU: every family of tiles and every way of running, forced, with the same limits."""

from __future__ import annotations

import sys

from pytest_run import run_pytest
from step import Run


def main() -> None:
    """Run the tests; in a dry run they are only collected, as no CPU runs what nvcc compiles."""
    run = Run("simt")
    collect = ["--collect-only", "-qq"] if run.dry else []
    sys.exit(run_pytest(run, ["tests/simt", "--emulator", "gpu", *collect], run.out / "simt.xml"))


if __name__ == "__main__":
    main()
