"""The entries on a real GPU: the twin of Emulator, for the same tests (`pytest tests/simt --emulator gpu`).

The kernels and the entries are compiled by nvcc into build/gpu/libgpu_entries.so, which knows no torch. Tensors of the
tests stay in host memory: its pages are registered with the GPU for the length of a call. The workspace lies between
guard zones. `Gpu.timed` measures a call instead, on tensors from `Gpu.managed`.
"""

import argparse
import ctypes
import functools
import mmap
import os
import sys
from contextlib import contextmanager

import torch

from .builder import HERE, KERNELS, ROOT, _files, _locked
from .emulator import SimtError, _argument, _bytes, _check_written

sys.path.insert(0, str(ROOT / "build_backend"))
from iresnet_fast_cuda import Unavailable, find_nvcc
from iresnet_fast_ninja import run_ninja

LIBRARY, DRIVER = "libgpu_entries.so", "gpu_driver"
FOLDER = ROOT / "build/gpu"
COPIES, REPLAYS = 10, 5  # of a timed call: at 20 us a call, a millisecond


class OnlyEmulated(RuntimeError):
    """A test asks for what a GPU does not tell, or for more of it than this one has."""


class NoGpu(RuntimeError):
    """The entries cannot run on this machine; the message says why."""


def build(architecture="native", target=LIBRARY):
    """Compile the entries (or the driver) for "native", the GPU of this machine, or for "sm_90" and return the path."""
    try:
        nvcc = str(find_nvcc())
    except Unavailable as reason:
        raise NoGpu(f"--emulator gpu compiles the kernels: {reason}") from None
    own = HERE / "on_gpu"
    host = ["-std=c++20", "-O2"]
    common = [f"-I{own}", "-Icsrc", "-Icsrc/include", "-lineinfo", "-Xcompiler=-fPIC,-fvisibility=hidden"]
    mine, kernels = [own / "driver.cpp"], _files(KERNELS, "**/*.cu")
    if target == LIBRARY:
        mine = [own / "python_api.cpp", *_files(HERE / "entries", "*.cpp")]
        kernels += _files(HERE / "entries", "*.cu")
    flags = {str(source): [*host, *common] for source in (*mine, *_files(KERNELS, "**/*.cpp"))}
    flags |= {str(source): ["-std=c++17", "-O3", "-DNDEBUG", f"-arch={architecture}", *common]
              for source in kernels}  # fmt: skip
    link = [f"-arch={architecture}", "-cudart=static", *([] if target == DRIVER else ["-shared"])]
    before = os.getcwd()
    os.chdir(ROOT)
    try:
        with _locked(FOLDER):
            return ROOT / run_ninja(FOLDER.relative_to(ROOT), target, [nvcc], dict(sorted(flags.items())), link, [nvcc])
    finally:
        os.chdir(before)


class Gpu:
    """The library of entries on the GPU of this machine; NoGpu if there is none."""

    kind = "gpu"

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))
        name, numbers = ctypes.create_string_buffer(256), (ctypes.c_int(), ctypes.c_int())
        error = self._text("gpu_open", name, *map(ctypes.byref, numbers))
        if error is not None:
            raise NoGpu(error)
        self.name = name.value.decode()
        self.architecture, self.multiprocessors = (number.value for number in numbers)
        self._managed = {}  # address -> bytes
        self._library.gpu_microseconds.restype = ctypes.c_double
        self._library.gpu_lost.restype = ctypes.c_bool

    @contextmanager
    def schedule(self, order, seed=0):
        """A GPU orders its threads by itself."""
        yield self

    @property
    def launches(self):
        raise OnlyEmulated("launches are recorded by the emulator only")

    calls = launches

    def capturing(self):
        """Refuse: a captured call computes nothing before its graph is replayed, which only `timed` does."""
        raise OnlyEmulated("calls inside a capture are compared by the emulator only")

    def counting(self):
        """Refuse: a GPU runs kernels and does not tell what they read."""
        raise OnlyEmulated("memory requests are counted by the emulator only")

    def call(self, function, *arguments, buffers=()):
        """Call an exported function as Emulator.call does; raise SimtError if it fails."""
        for buffer in buffers:
            assert buffer.tensor.is_contiguous(), buffer.name
            if buffer.written:
                _bytes(buffer.tensor).fill_(0xFF)  # NaN, or -1
        with self._registered(buffers):
            message = self._text(function, *map(_argument, arguments))
        if message is not None:
            if message.startswith("not on this GPU"):
                raise OnlyEmulated(message)
            self._end_if_lost(f"{function}: {message}")
            raise SimtError(f"{function}: {message}")
        for buffer in buffers:
            _check_written(function, buffer)

    @contextmanager
    def timed(self, copies=COPIES, replays=REPLAYS):
        """Measure the calls inside: each is captured in a graph and replayed. `microseconds` is that of the last."""
        self._library.gpu_time_calls(copies, replays)
        try:
            yield self
        finally:
            self._library.gpu_time_calls(0, 0)

    @property
    def microseconds(self):
        """GPU time of the last call inside `timed`."""
        return self._library.gpu_microseconds()

    def managed(self, tensor):
        """Return a copy of a tensor in memory that kernels use at full speed; it lives as long as this object."""
        size, memory = max(1, _bytes(tensor).numel()), ctypes.c_void_p()
        error = self._text("gpu_managed", ctypes.c_size_t(size), ctypes.byref(memory))
        if error is not None:
            raise SimtError(error)
        self._managed[memory.value] = size
        block = (ctypes.c_char * size).from_address(memory.value)
        return torch.frombuffer(block, dtype=tensor.dtype, count=tensor.numel()).view(tensor.shape).copy_(tensor)

    def release(self):
        """Free what `managed` gave; its tensors are invalid from now on."""
        for address in self._managed:
            self._library.gpu_free(ctypes.c_void_p(address))
        self._managed.clear()

    def _text(self, function, *arguments):
        callee = self._library[function]
        callee.restype = ctypes.c_char_p
        text = callee(*arguments)
        return None if text is None else text.decode()

    @contextmanager
    def _registered(self, buffers):
        """Let the GPU use the pages of the buffers."""
        registered = []
        try:
            for start, end in page_ranges((b.tensor.data_ptr(), _bytes(b.tensor).numel()) for b in buffers
                                          if b.tensor.data_ptr() not in self._managed):  # fmt: skip
                error = self._text("gpu_register", ctypes.c_void_p(start), ctypes.c_size_t(end - start))
                if error is not None:
                    raise SimtError(error)
                registered.append(start)
            yield
        finally:
            for start in registered:
                self._text("gpu_unregister", ctypes.c_void_p(start))

    def _end_if_lost(self, message):
        """After an illegal access nothing works in this process: let pytest-xdist start another one."""
        if self._library.gpu_lost() and os.environ.get("PYTEST_XDIST_WORKER"):
            print(f"the GPU is lost for this process: {message}", file=sys.stderr, flush=True)
            os._exit(1)


def page_ranges(pieces):
    """Return the whole pages of (address, bytes) pieces as disjoint (start, end), adjacent ones merged."""
    page, merged = mmap.PAGESIZE, []
    for start, end in sorted((a // page * page, -(-(a + n) // page) * page) for a, n in pieces if n):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


@functools.cache
def this_gpu():
    """Return the GPU of this machine, its library built once per process."""
    try:
        code = ctypes.CDLL("libcuda.so.1").cuInit(0)
    except OSError:
        raise NoGpu("there is no NVIDIA driver (libcuda.so.1); --emulator cpu needs none") from None
    if code:
        raise NoGpu(f"the driver finds no usable GPU (error {code}); --emulator cpu needs none")
    return Gpu(build())


def main():
    """Build: `python -m simt.gpu [--architecture sm_90]`, in tests/."""
    parser = argparse.ArgumentParser(description="Build the kernels and their entries for a GPU, without torch.")
    parser.add_argument("--architecture", default="native", help="sm_90, or native: the GPU of this machine (native)")
    options = parser.parse_args()
    for target in (LIBRARY, DRIVER):
        print(build(options.architecture, target), flush=True)


if __name__ == "__main__":
    main()
