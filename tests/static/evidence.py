"""Writes docs/cuda-evidence.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from cubins import ARCHITECTURES, FLAGS
from occupancy import occupancy
from rules import EXPECTED, INSPECTED, LOOPS
from sass import Kernel
from toolkit import nvcc_version

SHOWN = (
    "FFMA", "DFMA", "HMMA", "LDG", "LDG.64", "LDG.128", "LDGSTS", "LDGSTS.64", "LDGSTS.128", "STG", "STG.64", "STG.128",
    "LDS", "LDS.64", "LDS.128", "STS", "STS.64", "STS.128", "SHFL", "BAR", "MUFU", "LDL", "STL",
)  # fmt: skip

HEAD = """\
# Evidence for the CUDA kernels

Written by `make cuda-static`; do not edit. `make cuda-static ARGS=--check` fails if it is out of date.
Compiled with nvcc {nvcc} (`{flags}`); another version gives other figures.

| word | means |
|---|---|
| static | read off the machine code that nvcc makes for a card; nothing was run. All of this document |
| emulated | run on a CPU by the emulator of `tests/simt`, every access checked and counted: `make simt` |
| modelled | bytes and operations, counted in the emulator, over a data sheet's rates: `benchmarks/bench_floor.py` |
| measured | timed on a GPU. No figure in this repository is; `benchmarks/bench_logdet.py --device cuda` measures |

Asserted for every kernel and architecture ({architectures}):
no register is spilled; float32 kernels keep no array in local memory and compute nothing in double precision;
`__launch_bounds__` are given; a file compiles in under a minute. Read for {inspected}, the innermost
loops of register tiles of FFMA are products for at least so much of their issue slots: {loops}.

Registers, occupancy: one figure if all architectures agree, else one each, in the order above. Occupancy is resident
warps over the most a multiprocessor holds, for blocks as large as `__launch_bounds__` allows and the static shared
memory only (for kernels that ask for dynamic shared memory see the last table). Instructions: how often each occurs in
the code; a figure that differs between architectures is given as least-most.
"""


PLANNED = """\
## Shared memory and occupancy of planned chains

What `plan.h` chooses for the log-determinant of the named cases of `benchmarks/cases.py` (float32, without TF32) on
the known cards, and the occupancy of that kernel with the dynamic shared memory it then asks for. Layer by layer the
chain is `stage_product_kernel`, whose shared memory is static. `python -m iresnet_fast plan` prints a plan in full.

"""


def document(kernels: Iterable[Kernel], planned: Sequence[Sequence[str]] = ()) -> str:
    """Return the whole document; `planned` are rows of plans.planned_rows."""
    parts = [
        HEAD.format(
            nvcc=nvcc_version(),
            flags=" ".join(FLAGS),
            architectures=" ".join(f"sm_{arch}" for arch in ARCHITECTURES),
            loops=", ".join(f"{share:.0%} (`{pattern}`)" for pattern, share in LOOPS),
            inspected=" and ".join(f"sm_{arch}" for arch in INSPECTED),
        ),
        _expectations(),
    ]
    files = groupby(sorted(kernels, key=lambda k: (k.source, k.label, k.arch)), key=lambda k: k.source)
    parts += [_file(source, list(group)) for source, group in files]
    if planned:
        header = ["case", "arch", "chain kernel", "threads", "blocks", "shared bytes", "blocks an SM", "occupancy"]
        parts.append(PLANNED + table(header, planned))
    return "\n".join(parts)


def _expectations() -> str:
    rows = [[f"`{pattern}`", ", ".join(opcodes), f"sm_{since}"] for pattern, opcodes, since in EXPECTED]
    return "## Instructions that must be there\n\n" + table(["kernels", "instructions", "from"], rows)


def _file(source: str, kernels: Sequence[Kernel]) -> str:
    by_label = {label: list(group) for label, group in groupby(kernels, key=lambda k: k.label)}
    parts = [f"## {source}", "", _kernels(by_label)]
    loops = [
        [f"`{label}`", *(_loops(k) for k in variants if k.arch in INSPECTED)] for label, variants in by_label.items()
    ]
    if any(any(row[1:]) for row in loops):
        header = ["innermost loops of products", *(f"sm_{arch}" for arch in INSPECTED)]
        parts.append(table(header, [row for row in loops if any(row[1:])]))
    return "\n".join(parts)


def _kernels(by_label: dict[str, list[Kernel]]) -> str:
    rows = []
    for label, variants in by_label.items():
        threads, mixes = [k.max_threads or 1 for k in variants], [kernel.mix for kernel in variants]
        resident = occupancy([(k, n, 0) for k, n in zip(variants, threads, strict=True)])
        counts = [f"{op} {_range([mix[op] for mix in mixes])}" for op in SHOWN if any(mix[op] for mix in mixes)]
        rows.append(
            [
                f"`{label}`",
                _each(threads),
                _each(k.registers for k in variants),
                _each(k.stack for k in variants),
                _each(k.static_shared for k in variants),
                _each(f"{o.share:.0%}" for o in resident),
                f"{', '.join(counts)} of {_range([mix.total() for mix in mixes])}",
            ]
        )
    return table(["kernel", "threads", "registers", "stack", "static shared", "occupancy", "instructions"], rows)


def _loops(kernel: Kernel) -> str:
    texts = []
    for loop in kernel.loops():
        shown = [(op, loop.mix[op]) for op in ("FFMA", "HMMA", "LDS.128", "LDS.64", "LDS") if loop.mix[op]]
        other = loop.slots - sum(n for _, n in shown)
        texts.append(" + ".join([*(f"{n} {op}" for op, n in shown), f"{other} other"]) + f": {loop.share:.1%}")
    return "; ".join(dict.fromkeys(texts))


def _each(values: Iterable[object]) -> str:
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " ".join(texts)


def _range(values: Sequence[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else f"{min(values)}-{max(values)}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *([re.sub(r"\|", r"\\|", cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
