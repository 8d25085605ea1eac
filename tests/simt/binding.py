"""The CUDA binding of csrc/torch on emulated kernels: `pytest -m cuda --device emulated` runs the tests for GPUs on it.

Torch's dispatcher takes the kernels registered for CUDA and is told to give them CPU tensors.
"""

import importlib
import os
import sys
from pathlib import Path

import torch

from .builder import BUILD, HERE, ROOT, SHIM, _files, _project_sources, _translated, build

sys.path.insert(0, str(ROOT / "build_backend"))
from iresnet_fast_ninja import run_ninja

_LIBRARY = []  # kept: a registration ends with its object


def install():
    """Build the binding, let the raw ops of the package run it for CPU tensors from now on, and return its path."""
    path = _build()
    torch.ops.load_library(path)
    registration = torch.library.Library("iresnet_fast", "IMPL")
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    importlib.import_module("iresnet_fast.ops.residual_logdet_exact")._LARGEST_NATIVE = {}  # that is of the CPU only
    importlib.import_module("iresnet_fast._traces")._MAKING = ()  # likewise
    for name in _op_names():
        op = getattr(torch.ops.iresnet_fast, name).default
        registration.impl(name, lambda *arguments, op=op: op.redispatch(cuda, *arguments), "CPU", allow_override=True)
    _LIBRARY.append(registration)
    return path


def _op_names():
    schemas = torch._C._jit_get_all_schemas()
    return [s.name.removeprefix("iresnet_fast::") for s in schemas if s.name.startswith("iresnet_fast::")]


def _build():
    build("fast")  # the objects of the kernels
    folder, torch_folder = BUILD / "fast", Path(torch.__file__).parent
    kernels = [
        f"{folder}/kernels/{_translated(source) if source.suffix == '.cu' else source}.o"
        for source in _project_sources(None)
        if source.parts[0] == "csrc"
    ]
    flags = ["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-Icsrc/torch/cuda", "-Icsrc", "-Icsrc/include"]
    flags += [f"-I{SHIM}", f"-include{SHIM}/cuda_api.h", "-DSIMT_EMULATED", "-DSIMT_CHECKED=0"]
    flags += [f"-isystem{torch_folder}/include", "-DTORCH_TARGET_VERSION=0x020b000000000000", "-DTORCH_STABLE_ONLY"]
    own = [Path("csrc/torch/cuda/library.cpp"), Path("csrc/torch/cuda/trace_maps.cpp"), HERE / "binding/device.cpp"]
    sources = [*_files("csrc/torch", "*.cpp"), *own]
    link = [f"{folder}/runtime/simt.o", *kernels, "-shared", "-Wl,-z,defs", "-Wl,-Bsymbolic"]
    link += ["-Wl,--no-as-needed", f"-L{torch_folder}/lib", "-ltorch_cpu", "-lc10"]
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        (folder / "binding/libbinding.so").unlink(missing_ok=True)  # ninja does not know of the kernels in it
        flags_of = {str(source): flags for source in sources}
        return ROOT / run_ninja(folder / "binding", "libbinding.so", ["g++"], flags_of, link)
    finally:
        os.chdir(before)
