"""Compiles the CUDA kernels for every architecture and judges the machine code: `make cuda-static`.

    python tests/static             write docs/cuda-evidence.md
    python tests/static --check     fail if it is not what would be written

No GPU is needed, only nvcc.
"""

from __future__ import annotations

import argparse
import fcntl
import sys

from cubins import compile_all, label, sources, workers
from evidence import document
from plans import planned_rows
from rules import violations
from sass import read
from toolkit import BUILD, ROOT, nvcc_version

DOCUMENT = ROOT / "docs" / "cuda-evidence.md"


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description="Judge the machine code of the CUDA kernels.")
    parser.add_argument("--check", action="store_true", help="fail if docs/cuda-evidence.md is out of date")
    check = parser.parse_args().check
    print(f"cuda-static: nvcc {nvcc_version()}", file=sys.stderr)
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run would take cubins away to compile them again
        _judge(check)


def _judge(check: bool) -> None:
    cubins = compile_all(sources())
    failed = [f"{label(c.source)} sm_{c.arch}: does not compile:\n{_errors(c.log)}" for c in cubins if c.failed]
    with workers() as pool:  # the disassembler takes a second a file
        read_all = pool.map(lambda c: read(c.path, c.log, label(c.source), c.arch), [c for c in cubins if not c.failed])
        kernels = [kernel for group in read_all for kernel in group]
    complaints = failed + list(violations(cubins, kernels))
    if not failed:
        complaints += _publish(document(kernels, planned_rows(kernels)), check)
    for complaint in complaints:
        print(complaint)
    if complaints:
        sys.exit(f"cuda-static: {len(complaints)} complaints")
    slowest = max(cubins, key=lambda c: c.seconds)
    print(
        f"cuda-static: {len(kernels)} kernels as they should be; the slowest compilation, {label(slowest.source)} for "
        f"sm_{slowest.arch}, took {slowest.seconds:.0f} s"
    )


def _publish(text: str, check: bool) -> list[str]:
    if not check:
        DOCUMENT.write_text(text)
        return []
    committed = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    if committed and f"nvcc {nvcc_version()} " not in committed:
        print(f"cuda-static: docs/{DOCUMENT.name} is of another version of nvcc and is not compared")
        return []
    return [] if committed == text else [f"docs/{DOCUMENT.name} is out of date: run `make cuda-static` and commit it"]


def _errors(log: str) -> str:
    return "\n".join(line for line in log.splitlines() if "error" in line or "warning" in line) or log


if __name__ == "__main__":
    main()
