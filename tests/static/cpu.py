"""Machine code of the inner loops of the CPU kernels, disassembled and judged: `python tests/static/cpu.py` prints it.

The loops of product.h and contract.h are compiled by themselves with the flags of the build, which takes seconds.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "build_backend"), str(ROOT / "tests" / "arm")]
import toolchain  # noqa: E402
from iresnet_fast_build import find_compiler  # noqa: E402
from iresnet_fast_flags import COMMON_FLAGS, ISA_FLAGS, KERNEL_FLAGS, RELEASE_FLAGS, architecture  # noqa: E402
from iresnet_fast_ninja import run_ninja  # noqa: E402

BUILD = Path("build/static-cpu")
ARCHITECTURES = {"neon": "aarch64", "avx2": "x86_64", "avx512": "x86_64"}

# Least share of multiply-adds in the loops with the most of them. Beside them a turn loads the columns and the factors
# of a tile and moves on: 24 of 32 instructions are multiply-adds on NEON, where a load brings two or four factors,
# 24 of 38 with AVX-512, 12 of 23 with AVX2. The factors of a contraction come from rows apart, each at an address of
# its own. A tenth is left to compilers.
LEAST_SHARE = {
    ("product_tile", "neon"): 0.66,
    ("product_tile", "avx512"): 0.56,
    ("product_tile", "avx2"): 0.44,
    ("contract_tile", "neon"): 0.55,
    ("contract_tile", "avx512"): 0.50,
    ("contract_tile", "avx2"): 0.44,
}
LEAST_FMAS = 4  # loops with fewer do something else

_FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$", re.MULTILINE)
_LABEL = re.compile(r"(product_tile|contract_tile)<(float|double), (\d+), (\d+)>")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(\S+)[ \t]*(.*?)\s*$", re.MULTILINE)
_VECTOR_FMA = re.compile(r"vf(?:n?m(?:add|sub))\d+p[sd]\b|fml[as] +v\d+\.(?:4s|2d)")
_SCALAR_FMA = re.compile(r"vf(?:n?m(?:add|sub))\d+s[sd]\b|fn?m(?:add|sub) |fml[as] +[sd]\d+")
_BRANCH = re.compile(r"^(?:j\w+|b(?:\.\w+)?|cbn?z|tbn?z) ")
_VECTOR_REGISTER = re.compile(r"%[xyz]mm\d+|\b[qdvs]\d+\b")


@dataclass(frozen=True)
class Loop:
    """An innermost loop that multiplies: one turn."""

    function: str  # "product_tile" or "contract_tile"
    type: str  # "float" or "double"
    tile: str  # "8x3"
    code: tuple[str, ...]
    frame_pointer: bool  # rbp points into the stack

    @property
    def fmas(self) -> int:
        """Multiply-adds of whole vectors."""
        return sum(bool(_VECTOR_FMA.match(text)) for text in self.code)

    @property
    def share(self) -> float:
        """Share of its instructions that are such."""
        return self.fmas / len(self.code)

    @property
    def scalar_fmas(self) -> list[str]:
        """Multiply-adds of single numbers."""
        return [text for text in self.code if _SCALAR_FMA.match(text)]

    @property
    def spills(self) -> list[str]:
        """Accesses to the stack with a vector register."""
        stack = r"\(%rsp|\[sp\b" + (r"|\(%rbp" if self.frame_pointer else "")
        return [text for text in self.code if re.search(stack, text) and _VECTOR_REGISTER.search(text)]

    def __str__(self) -> str:
        """Return what a complaint calls it."""
        return f"{self.function}<{self.type}> {self.tile}"


def parse(text: str) -> list[Loop]:
    """Return the loops of products in the output of `objdump -d -C --no-show-raw-insn`."""
    parts = _FUNCTION.split(text)[1:]
    loops = []
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        # The first name is that of the function, others are of its arguments; .cold parts hold no loop of their own.
        if label := _LABEL.search(name.partition("(irf::")[0].replace("(anonymous namespace)", "")):
            code = [(int(address, 16), f"{op} {rest}") for address, op, rest in _INSTRUCTION.findall(body)]
            frame_pointer = any(re.match(r"mov +%rsp,%rbp", instruction) for _, instruction in code)
            for turn in _innermost(code):
                loop = Loop(label[1], label[2], f"{label[3]}x{label[4]}", turn, frame_pointer)
                if loop.fmas + len(loop.scalar_fmas) >= LEAST_FMAS:
                    loops.append(loop)
    return loops


def _innermost(code: list[tuple[int, str]]) -> Iterator[tuple[str, ...]]:
    spans = set()
    for address, text in code:
        if _BRANCH.match(text) and (target := re.search(r"\b([0-9a-f]+) <", text)) and int(target[1], 16) < address:
            spans.add((int(target[1], 16), address))
    for first, last in sorted(spans):
        if not any((first, last) != (a, b) and first <= a and b <= last for a, b in spans):
            yield tuple(text for address, text in code if first <= address <= last)


def violations(isa: str, loops: list[Loop]) -> Iterator[str]:
    """Yield a sentence for everything that is not as it should be."""
    for loop in loops:
        yield from (f"{isa}: {loop} spills in its inner loop: {text}" for text in loop.spills[:1])
        yield from (f"{isa}: {loop} multiplies single numbers in its inner loop: {t}" for t in loop.scalar_fmas[:1])
    for (function, name), least in LEAST_SHARE.items():
        for type in ("float", "double") if name == isa else ():
            loop = hottest(loops, function, type)
            if loop is None:
                yield f"{isa}: {function}<{type}> has no inner loop of multiply-adds"
            elif loop.share < least:
                yield (
                    f"{isa}: the inner loop of {loop} is {loop.share:.0%} multiply-adds ({loop.fmas} of "
                    f"{len(loop.code)} instructions), not {least:.0%}"
                )


def hottest(loops: list[Loop], function: str, type: str) -> Loop | None:
    """Return the loop of a function with the most multiply-adds, the worst full tile; None if it has none."""
    own = [loop for loop in loops if (loop.function, loop.type) == (function, type)]
    return max(own, key=lambda loop: (loop.fmas, -loop.share), default=None)


def read(isa: str, flags: tuple[str, ...] = ()) -> list[Loop]:
    """Compile the loops for an instruction set, with further flags, and return them."""
    os.chdir(ROOT)
    native = ARCHITECTURES[isa] == architecture()
    if not native and ARCHITECTURES[isa] != "aarch64":
        raise SystemExit(f"{isa} is judged on a machine of its own architecture, {ARCHITECTURES[isa]}.")
    compiler = find_compiler() if native else [toolchain.compiler()]
    macros = [f"-DIRF_ISA={isa}", f"-DIRF_WITH_NEON={int(isa == 'neon')}"]
    own = [*KERNEL_FLAGS, *ISA_FLAGS[ARCHITECTURES[isa]][isa], *macros, *flags]
    own = [*COMMON_FLAGS, *RELEASE_FLAGS, "-Werror", *own]
    folder = BUILD / (f"{isa}-otherwise" if flags else isa)
    library = run_ninja(folder, "loops.so", compiler, {"tests/static/loops.cpp": own}, ["-shared"])
    objdump = "objdump" if native else toolchain.disassembler()
    command = [objdump, "-d", "-C", "--no-show-raw-insn", str(library)]
    return parse(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print a table of the full tiles, and what is wrong."""
    complaints = []
    for isa, target in ARCHITECTURES.items():
        if target in ("aarch64", architecture()):
            loops = read(isa)
            complaints += violations(isa, loops)
            for function in ("product_tile", "contract_tile"):
                for type in ("float", "double"):
                    if loop := hottest(loops, function, type):
                        print(f"{isa:6}  {loop!s:28}  {loop.fmas} of {len(loop.code)}  {loop.share:.0%}")
    sys.exit("\n".join(complaints) or 0)


if __name__ == "__main__":
    main()
