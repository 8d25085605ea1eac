"""Reads kernels out of cubins: registers and spills from ptxas, instructions and loops from the machine code."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from toolkit import reader, run

_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)((?:\.[A-Za-z0-9_]+)*)\s*([^;]*);")
_RESOURCES = re.compile(
    r"Function properties for (\S+)\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
    r".*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?"
)
_BOUNDS = re.compile(r"EIATTR_MAX_THREADS\s+Format:\s+EIFMT_SVAL\s+Value:\s+0x([0-9a-f]+)")
_MEMORY = ("LDG", "STG", "LDS", "STS", "LDL", "STL", "LDGSTS")
# In the order of Family in plan/tiles.h.
FAMILIES = ("dense 4", "dense 8", "dense 16", "dense 32", "image 7", "image 8", "tensor dense", "tensor image")
_SHORT = (
    (r"\(anonymous namespace\)::|\birf::cuda::|\birf::|^void ", ""),
    (r"\(Precision\)0", "full"),
    (r"\(Precision\)1", "tf32"),
    (r"\(Precision\)2", "bf16"),
    *((rf"\(Family\){i}", name) for i, name in enumerate(FAMILIES)),
    (r"\(\w+\)(?=\d)", ""),  # other enumerators keep their number
    (r"\s+(?=>)", ""),
)


@dataclass(frozen=True)
class Instruction:
    """One line of machine code, such as LDG.E.128."""

    address: int
    opcode: str
    modifiers: str
    operands: str

    @property
    def label(self) -> str:
        """The opcode, with the width of an access to memory where it is not 32 bits."""
        width = re.search(r"\.(64|128)\b", self.modifiers) if self.opcode in _MEMORY else None
        return self.opcode + (width[0] if width else "")

    @property
    def is_double(self) -> bool:
        """Whether it computes in, or converts from or to, double precision."""
        return self.opcode in ("DFMA", "DADD", "DMUL", "DSETP", "DMNMX", "DMMA") or ".F64" in self.modifiers


@dataclass(frozen=True)
class Loop:
    """An innermost loop: what one turn issues."""

    mix: Counter[str]

    @property
    def slots(self) -> int:
        """Instructions of one turn."""
        return self.mix.total()

    @property
    def products(self) -> int:
        """Multiply-adds, on the tensor cores or not."""
        return self.mix["FFMA"] + self.mix["HMMA"]

    @property
    def share(self) -> float:
        """Share of the issue slots that do products."""
        return self.products / self.slots


@dataclass
class Kernel:
    """One kernel for one architecture."""

    source: str
    label: str
    arch: int
    registers: int = 0
    stack: int = 0
    spilled: int = 0
    static_shared: int = 0
    max_threads: int | None = None  # of __launch_bounds__
    code: list[Instruction] = field(default_factory=list, repr=False)

    @property
    def mix(self) -> Counter[str]:
        """How often each instruction occurs."""
        return Counter(instruction.label for instruction in self.code if instruction.opcode != "NOP")

    @property
    def is_double(self) -> bool:
        """Whether the kernel is meant to compute in double precision."""
        return bool(re.search(r"\bdouble\b", self.label))

    def loops(self, least: int = 32) -> list[Loop]:
        """Return the innermost loops of products: at least `least` FFMA, or HMMA, fed from shared memory.

        Loops that evaluate activations (MUFU) are none of them, however many FFMA their polynomials have.
        """
        spans = []
        for instruction in self.code:
            target = re.search(r"0x([0-9a-f]+)", instruction.operands) if instruction.opcode == "BRA" else None
            if target and int(target[1], 16) < instruction.address:
                spans.append((int(target[1], 16), instruction.address))
        innermost = [s for s in set(spans) if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
        loops = [
            Loop(Counter(i.label for i in self.code if first <= i.address <= last)) for first, last in sorted(innermost)
        ]
        products = [loop for loop in loops if loop.mix["FFMA"] >= least or loop.mix["HMMA"]]
        return [loop for loop in products if not loop.mix["MUFU"] and any(op.startswith("LDS") for op in loop.mix)]


def shorten(name: str) -> str:
    """Return a demangled name without namespaces, arguments and result."""
    name = name.replace("(anonymous namespace)", "{anonymous}")
    depth = 0
    for i, c in enumerate(name):
        depth += {"<": 1, ">": -1}.get(c, 0)
        if c == "(" and depth == 0:
            name = name[:i]
            break
    name = name.replace("{anonymous}", "(anonymous namespace)")
    for pattern, text in _SHORT:
        name = re.sub(pattern, text, name)
    return name


def read(cubin: Path, log: str, source: str, arch: int) -> list[Kernel]:
    """Return the kernels of a cubin, in the order of their labels."""
    code = parse_sass(run(reader("cuobjdump"), "-sass", cubin))
    labels = _demangle(list(code))
    resources, threads = parse_log(log), parse_bounds(run(reader("cuobjdump"), "-elf", cubin))
    kernels = []
    for name, instructions in code.items():
        kernels.append(
            Kernel(source, labels[name], arch, **resources[name], max_threads=threads.get(name), code=instructions)
        )
    return sorted(kernels, key=lambda kernel: kernel.label)


def parse_sass(text: str) -> dict[str, list[Instruction]]:
    """Return the instructions of every function in the output of `cuobjdump -sass`."""
    functions = {}
    for part in text.split("Function : ")[1:]:
        name, _, body = part.partition("\n")
        functions[name.strip()] = [Instruction(int(m[1], 16), *m.groups()[1:]) for m in _INSTRUCTION.finditer(body)]
    return functions


def parse_log(log: str) -> dict[str, dict[str, int]]:
    """Return registers, stack, spilled bytes and static shared memory of every function ptxas reports on."""
    return {
        m[1]: {
            "registers": int(m[5]),
            "stack": int(m[2]),
            "spilled": int(m[3]) + int(m[4]),
            "static_shared": int(m[6] or 0),
        }
        for m in _RESOURCES.finditer(log)
    }


def parse_bounds(text: str) -> dict[str, int]:
    """Return the __launch_bounds__ of the functions that have them, from the output of `cuobjdump -elf`."""
    bounds = {}
    for part in re.split(r"^\.nv\.info\.", text, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        if m := _BOUNDS.search(body.partition("\n.")[0]):
            bounds[name.strip()] = int(m[1], 16)
    return bounds


def _demangle(names: list[str]) -> dict[str, str]:
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return {name: shorten(plain) for name, plain in zip(names, done.stdout.splitlines(), strict=True)}
