"""What the machine code of the kernels must look like. Every table says why; a pattern without a kernel is an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from cubins import Cubin, label
from sass import Kernel

COMPILE_SECONDS = 60.0
INSPECTED = (80, 90)  # architectures whose inner loops are held to a share of products

# Kernels made of register tiles, and the least share of FFMA or HMMA in their innermost loops. Kernel size makes no
# difference: a 1 x 1 stage runs the same loop as a tap of a larger one. An HMMA does the work of 32 or 64 FFMA.
LOOPS = (
    (r"(Simt|Outer)Tile<float|FmaTiles<float", 0.80),
    (r"stage_product_kernel<.*FragmentTile<\w+, 2, 8>", 0.50),
    (r"stage_product_kernel<.*FragmentTile<\w+, 2, 2>", 0.25),
    (r"weight_gradient_kernel<.*FragmentOuterTile<tf32, 2, 8>, 2, 2>", 0.34),
)
CONVERSIONS = ("F2F", "F2FP", "FSETP")  # have no place in such loops: operands are rounded when they are stored

# Pattern of "file: label", what its code must contain, from which architecture on.
# LDGSTS: copies to shared memory that bypass registers; HMMA: tensor cores.
EXPECTED = (
    (r"stage_product_kernel<(?!.*TraceStep)", ("LDGSTS.128", "LDS.128", "STG.128"), 80),
    (r"stage_product_kernel<.*TraceStep", ("LDGSTS.128", "LDS.128", "LDG.128"), 80),
    (r"stage_product_kernel<.*FragmentTile", ("HMMA", "LDSM"), 80),
    (r"weight_gradient_kernel<", ("LDGSTS.128",), 80),
    (r"weight_gradient_kernel<.*<OuterTile", ("LDS.128",), 75),
    (r"weight_gradient_kernel<.*FragmentOuterTile", ("HMMA",), 80),
    (r"weight_gradient_kernel<.*FragmentOuterTile<bf16", ("LDSM",), 80),
    (r"resident_(chain|forward)_kernel<", ("LDGSTS.128", "LDS.128", "STS.128"), 80),
    (r"resident_(chain|forward)_kernel<TensorTiles", ("HMMA",), 80),
    (r"to_rows_kernel<(?!.*TraceStep)", ("STG.128",), 75),
    (r"to_rows_kernel<.*TraceStep", ("LDG.128",), 75),  # of which only sums remain
    (r"from_rows_kernel<", ("LDG.128",), 75),
    (r"advance_kernel<", ("LDG.128", "STG.128"), 75),
    (r"(power|lanczos)_iteration<", ("LDGSTS.128", "LDS.128"), 80),
    (r"spectral_normalize\.cu: (scale|gradient)<", ("LDG.128", "STG.128"), 75),
    (r"spectral_normalize\.cu: sum_products<", ("LDG.128",), 75),
    (r"actnorm\.cu: (actnorm_kernel<.*true>|add_up_images_kernel<.*true>)", ("LDG.128", "STG.128"), 75),
)

# Opcodes that kernels must not have: pattern, opcodes, reason.
ABSENT = ((r"weight_gradient_kernel<.*Fragment", CONVERSIONS[:2], "operands are rounded when they are stored"),)

# float32 kernels that may use a local array or double precision: pattern, opcodes, reason.
ALLOWED: tuple[tuple[str, tuple[str, ...], str], ...] = ()


def violations(cubins: Iterable[Cubin], kernels: Iterable[Kernel]) -> Iterator[str]:
    """Yield a sentence for everything that is not as it should be."""
    for cubin in cubins:
        if cubin.seconds > COMPILE_SECONDS:
            where = f"{label(cubin.source)} sm_{cubin.arch}"
            yield f"{where}: compiles for {cubin.seconds:.0f} s, more than {COMPILE_SECONDS:.0f}"
    kernels = list(kernels)
    for kernel in kernels:
        for complaint in _of_kernel(kernel):
            yield f"{name(kernel)} sm_{kernel.arch}: {complaint}"
    names = {name(kernel) for kernel in kernels}
    for pattern, *_ in (*EXPECTED, *ABSENT, *ALLOWED, *LOOPS):
        if not any(re.search(pattern, text) for text in names):
            yield f"rules.py: no kernel matches {pattern!r}"


def name(kernel: Kernel) -> str:
    """Return what the patterns are matched against."""
    return f"{kernel.source}: {kernel.label}"


def _of_kernel(kernel: Kernel) -> Iterator[str]:
    mix = kernel.mix
    if kernel.spilled:
        yield f"spills {kernel.spilled} bytes of registers"
    if kernel.max_threads is None:
        yield "has no __launch_bounds__, so its registers are not bound to the block it is launched with"
    if not kernel.is_double:
        allowed = {op for pattern, ops, _ in ALLOWED if re.search(pattern, name(kernel)) for op in ops}
        local = {i.opcode for i in kernel.code if i.opcode in ("LDL", "STL")} - allowed
        if local:
            yield f"keeps an array in local memory ({', '.join(sorted(local))})"
        double = {i.opcode for i in kernel.code if i.is_double} - allowed
        if double:
            yield f"computes in double precision ({', '.join(sorted(double))})"
    for pattern, opcodes, since in EXPECTED:
        if kernel.arch >= since and re.search(pattern, name(kernel)):
            yield from (f"has no {op}" for op in opcodes if not mix[op])
    for pattern, opcodes, reason in ABSENT:
        if re.search(pattern, name(kernel)):
            yield from (f"has {op}: {reason}" for op in opcodes if mix[op])
    least = next((share for pattern, share in LOOPS if re.search(pattern, name(kernel))), None)
    if least is not None and kernel.arch in INSPECTED:
        if not kernel.loops():
            yield "has no inner loop of products"
        for loop in kernel.loops():
            if loop.share < least:
                yield f"an inner loop of {loop.slots} instructions is only {loop.share:.1%} products, not {least:.0%}"
            yield from (f"an inner loop has {op}" for op in CONVERSIONS if loop.mix[op])
