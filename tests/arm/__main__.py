"""The CPU kernels for AArch64, NEON and scalar, compiled here and run under qemu: `make neon`.

Every op on the ragged shapes of tests/sanitize/cases.h, in float32 and float64, on 1 and 3 threads: NEON compared with
the scalar kernels of the same program, and float32 of both with float64.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from toolchain import ROOT, compiler, emulator

sys.path.insert(0, str(ROOT / "build_backend"))
from iresnet_fast_flags import COMMON_FLAGS, RELEASE_FLAGS, kernel_sources
from iresnet_fast_ninja import run_ninja


def build() -> Path:
    """Compile and link the driver and return it; only what changed is compiled."""
    os.chdir(ROOT)
    optimised = [*COMMON_FLAGS, *RELEASE_FLAGS, "-Werror"]
    flags = {source: optimised + own for source, own in kernel_sources("aarch64").items()}
    # It takes longer to optimise than it runs.
    flags |= {str(path): [*COMMON_FLAGS, "-O1", "-Werror"] for path in sorted(Path("tests/sanitize").glob("*.cpp"))}
    # Static: it needs no AArch64 library to be where a loader looks for it.
    return run_ninja(Path("build/arm/driver"), "run", [compiler()], flags, ["-static", "-pthread"])


def main() -> None:
    """Build and run."""
    program = build()
    sys.exit(subprocess.run([emulator(), str(program)], check=False).returncode)


if __name__ == "__main__":
    main()
