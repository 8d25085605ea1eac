"""Occupancy of kernels, from occupancy.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sass import Kernel
from toolkit import BUILD, INCLUDES, nvcc, run


@dataclass(frozen=True)
class Occupancy:
    """What fits one multiprocessor."""

    blocks: int
    warps: int
    most_warps: int
    limit: str  # "shared", "registers", "warps" or "blocks"

    @property
    def share(self) -> float:
        """Resident warps over the most the hardware holds."""
        return self.warps / self.most_warps


def occupancy(kernels: Sequence[tuple[Kernel, int, int]]) -> list[Occupancy]:
    """Return the occupancy of (kernel, threads of a block, bytes of dynamic shared memory)."""
    lines = (f"{k.arch} {k.registers} {threads} {k.static_shared} {dynamic}" for k, threads, dynamic in kernels)
    answers = run(build(Path(__file__).with_suffix(".cpp")), input="\n".join(lines)).splitlines()
    return [Occupancy(*map(int, line.split()[:3]), line.split()[3]) for line in answers]


def build(source: Path, others: Sequence[Path] = ()) -> Path:
    """Compile a host program of this folder, if anything it includes may be newer, and return its path."""
    program = BUILD / source.stem
    inputs = [source, *others, *INCLUDES[0].glob("cuda/**/*.h")]
    if not program.exists() or program.stat().st_mtime < max(file.stat().st_mtime for file in inputs):
        program.parent.mkdir(parents=True, exist_ok=True)
        # nvcc passes host code on to g++, and knows where its toolkit's headers are.
        includes = [f"-I{folder}" for folder in INCLUDES]
        run(nvcc(), "-std=c++17", "-O1", "-cudart=none", *includes, source, *others, "-o", program)
    return program
