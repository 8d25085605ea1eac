"""The table of planned chains: which kernel the named cases of the benchmarks run on which card, and its occupancy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from cubins import ARCHITECTURES
from occupancy import build, occupancy
from sass import FAMILIES, Kernel
from toolkit import INCLUDES, ROOT, run


def planned_rows(kernels: Sequence[Kernel]) -> list[list[str]]:
    """Return case, architecture, kernel, threads, blocks, shared memory, blocks of a multiprocessor and occupancy."""
    sys.path.append(str(ROOT / "benchmarks"))
    from cases import CASES

    lines = []
    for case in CASES.values():
        stages = len(case.widths) - 1
        height, width = case.image or (0, 0)
        numbers = (case.batch, height, width, case.terms, stages, *case.widths, *(case.kernels or (1,) * stages))
        lines.append(" ".join(map(str, numbers)))
    folder = INCLUDES[0] / "cuda"
    program = build(Path(__file__).with_suffix(".cpp"), sorted(folder.glob("plan/*.cpp")))
    answers = iter(run(program, input="\n".join(lines)).splitlines())
    rows = []
    for case in CASES.values():
        layered = []
        for _ in ARCHITECTURES:
            arch, resident, *plan = map(int, next(answers).split())
            if not resident:
                layered.append(f"sm_{arch}")
                continue
            family, threads, blocks, shared = plan
            tiles = f"FmaTiles<float, {FAMILIES[family]}>"  # chains are planned at full precision
            label = f"resident_chain_kernel<{tiles}, float>"
            kernel = next(k for k in kernels if k.arch == arch and k.label == label)
            (fits,) = occupancy([(kernel, threads, shared)])
            figures = (threads, blocks, shared, fits.blocks)
            rows.append([case.name, f"sm_{arch}", f"`{tiles}`", *map(str, figures), f"{fits.share:.0%}"])
        if layered:
            rows.append([case.name, " ".join(layered), "layer by layer", *[""] * 5])
    return rows
