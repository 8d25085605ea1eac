"""Calls the CUDA kernels on the CPU: built two ways, fast, and with every access to memory checked.

    emulator = Emulator("check")
    with emulator.schedule("random", seed=3):
        emulator.call("scale_float", x, y, buffers=[Buffer("x", x), Buffer("y", y, written=True)])

The buffers are all the device memory there is; what goes wrong is raised as SimtError.
"""

import ctypes
import functools
import re
import subprocess
from contextlib import contextmanager
from typing import NamedTuple

import torch

from .builder import SHIM, build, original

ORDERS = ("forward", "reverse", "random")
# An access in these files is counted for the line that calls them.
WRAPPERS = {f"{SHIM}/simt.h", *(f"csrc/cuda/device/{name}.cuh" for name in ("device", "group", "mma", "operand"))}


class SimtError(RuntimeError):
    """The checker, the launch rules or an op itself refused."""


class Buffer(NamedTuple):
    """A tensor that kernels may use as device memory. Written: poisoned before the call, and wholly written by it."""

    name: str
    tensor: torch.Tensor
    written: bool = False


class Launch(NamedTuple):
    """One recorded kernel launch."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int


class Traffic(NamedTuple):
    """Memory requests of one line, kind and space.

    Sectors are 32 bytes of global memory, wavefronts are passes over the banks of shared memory.
    """

    requests: int = 0
    bytes: int = 0
    sectors: int = 0
    wavefronts: int = 0

    def __add__(self, other):
        return Traffic(*(a + b for a, b in zip(self, other, strict=True)))


class Counters:
    """What kernels did while counting."""

    def __init__(self):
        self.barriers = 0
        self.lines = {}  # (file:line, "read" | "write" | "atomic", "global" | "shared") -> Traffic

    def total(self, kind=None, space=None, line=""):
        """Return the sum over the lines whose name contains `line`."""
        chosen = (
            traffic
            for (name, k, s), traffic in self.lines.items()
            if kind in (None, k) and space in (None, s) and line in name
        )
        return sum(chosen, Traffic())


class Emulator:
    """One library of emulated kernels: kind "fast" or "check", `sources` None for those of the project."""

    def __init__(self, kind, sources=None, name="kernels"):
        self.kind = kind
        self.path = build(kind, sources, name)
        self.calls = []  # of the last call: Launch, or the text of another recorded call
        self._library = ctypes.CDLL(str(self.path))
        self._schedule = (0, 0)
        self._counting = False
        self._capturing = False
        self.shared_limit = 232448

    @contextmanager
    def schedule(self, order, seed=0):
        """Run threads and blocks in this order: "forward", "reverse" or "random"."""
        before, self._schedule = self._schedule, (ORDERS.index(order), seed)
        try:
            yield self
        finally:
            self._schedule = before

    @contextmanager
    def counting(self):
        """Count memory requests (checker build) into the Counters that this gives, complete at the end."""
        assert self.kind == "check", "only the checker build sees accesses"
        counters, self._counting = Counters(), True
        self._text("simt_take_counters")
        try:
            yield counters
        finally:
            self._counting = False
            self._fill(counters, self._text("simt_take_counters"))

    @contextmanager
    def capturing(self):
        """Let the stream of every call be one that is captured into a graph: kernels run, but to wait is an error."""
        self._capturing = True
        try:
            yield self
        finally:
            self._capturing = False

    def call(self, function, *arguments, buffers=()):
        """Call an exported function with `buffers` as the only device memory; raise SimtError if it fails.

        Tensors among the arguments are passed as pointers, numbers as int64 or double.
        """
        for buffer in buffers:
            assert buffer.tensor.is_contiguous(), buffer.name
            if buffer.written:
                _bytes(buffer.tensor).fill_(0xFF)  # NaN, or -1
        self._library.simt_configure(
            *self._schedule[:1],
            ctypes.c_uint64(self._schedule[1]),
            ctypes.c_size_t(self.shared_limit),
            self._counting,
            self._capturing,
        )
        for name, tensor, written in buffers:
            pointer, size = ctypes.c_void_p(tensor.data_ptr()), ctypes.c_size_t(_bytes(tensor).numel())
            self._library.simt_add_buffer(pointer, size, name.encode(), written, not written)
        try:
            message = self._text(function, *map(_argument, arguments))
            unwritten = self._text("simt_unwritten")
        finally:
            for buffer in buffers:
                self._library.simt_remove_buffer(ctypes.c_void_p(buffer.tensor.data_ptr()))
            self.calls = [_recorded(line) for line in self._text("simt_calls").splitlines()]
        if message is not None:
            raise SimtError(f"{function}: {self._with_lines(message)}")
        if unwritten and self.kind == "check":
            raise SimtError(f"{function}: never written: {unwritten}")
        for buffer in buffers:
            _check_written(function, buffer)

    @property
    def launches(self):
        """The kernel launches of the last call."""
        return [call for call in self.calls if isinstance(call, Launch)]

    def _text(self, function, *arguments):
        callee = self._library[function]
        callee.restype = ctypes.c_char_p
        text = callee(*arguments)
        return None if text is None else text.decode()

    def _with_lines(self, message):
        return re.sub(r"<0x(\w+)>", lambda match: self._places([int(match[1], 16)])[0], message)

    def _places(self, addresses):
        """Return file:line of code addresses: the innermost inlined line that is no wrapper."""
        command = ["addr2line", "-a", "-i", "-e", str(self.path), *map(hex, addresses)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n0x")
        places = []
        for block in lines:
            frames = [_original(frame) for frame in block.split("\n")[1:] if frame]
            places.append(next((f for f in frames if f.rsplit(":", 1)[0] not in WRAPPERS), frames[0]))
        return places

    def _fill(self, counters, text):
        barriers, *rows = text.splitlines()
        counters.barriers = int(barriers)
        rows = [[int(v) for v in row.split()] for row in rows]
        places = self._places([row[0] for row in rows]) if rows else []
        for place, (_, kind, shared, *numbers) in zip(places, rows, strict=True):
            key = (place, ("read", "write", "atomic")[kind], ("global", "shared")[shared])
            counters.lines[key] = counters.lines.get(key, Traffic()) + Traffic(*numbers)


@functools.cache
def project_emulator(kind):
    """Return the emulator of the project's kernels, built once per process."""
    return Emulator(kind)


def _original(frame):
    """Return file:line as in the repository, from a line of addr2line."""
    file, line = frame.split(" (discriminator")[0].rsplit(":", 1)
    return f"{original(file)}:{line}"


def _bytes(tensor):
    return tensor.detach().reshape(-1).view(torch.uint8)


def _argument(value):
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, bool | int):
        return ctypes.c_int64(value)
    if isinstance(value, float):
        return ctypes.c_double(value)
    return value


def _recorded(line):
    if not line.startswith("launch|"):
        return line
    _, kernel, grid, block, shared = line.split("|")
    sizes = [tuple(int(n) for n in text.strip("()").split(",")) for text in (grid, block)]
    return Launch(kernel, *sizes, int(shared))


def _check_written(function, buffer):
    if not buffer.written or buffer.tensor.numel() == 0:
        return
    elements = _bytes(buffer.tensor).view(-1, buffer.tensor.element_size())
    untouched = (elements == 0xFF).all(1).nonzero()
    if len(untouched):
        first, more = untouched[0].item(), len(untouched) - 1
        raise SimtError(f"{function}: never written: {buffer.name}[{first}] and {more} more")
