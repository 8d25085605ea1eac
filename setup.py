"""Build the compiled kernels; everything else is in pyproject.toml.

One ninja object per source, each with its own flags: so the kernels are compiled once per instruction set.

| Variable                      | Meaning (default)                                                                   |
|-------------------------------|-------------------------------------------------------------------------------------|
| CXX                           | C++20 compiler (g++, c++ or clang++, the first found)                               |
| MAX_JOBS                      | parallel compile jobs (number of cores, at most one per GiB of memory)              |
| DEBUG=1                       | -O0 -g, assertions, warnings are errors                                             |
| FORCE_CUDA                    | 1: CUDA kernels for all GPUs, 7.5 to 12.0+PTX, for a wheel or another machine, and  |
|                               | an error if they cannot be built; 0: none are built (built for the GPUs of this     |
|                               | machine, if it has any, nvcc, and a torch for the same major CUDA)                  |
| TORCH_CUDA_ARCH_LIST          | compute capabilities to build for, as 8.0;9.0+PTX, whatever GPUs are here           |
| CUDA_HOME                     | folder of the CUDA toolkit (that of the nvcc on PATH, else /usr/local/cuda)         |
| IRESNET_FAST_SKIP_EXTENSION=1 | install without compiled kernels: the plain-torch reference serves every op, slower |
"""

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import ClassVar

import setuptools
from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)  # every path below is relative, so that no object names the folder it was built in
sys.path.insert(0, str(ROOT / "build_backend"))
from iresnet_fast_announce import announcement  # noqa: E402
from iresnet_fast_build import Torch, find_compiler, find_torch, skip_extension  # noqa: E402
from iresnet_fast_cuda import LIBRARY, Toolkit, Unavailable, choose, forced, host_compiler  # noqa: E402
from iresnet_fast_flags import (  # noqa: E402
    COMMON_FLAGS,
    DEBUG_FLAGS,
    RELEASE_FLAGS,
    SANITIZE_FLAGS,
    TORCH_FLAGS,
    architecture,
    isa_flags,
    kernel_sources,
    link_flags,
    system_flags,
)
from iresnet_fast_ninja import max_jobs, run_ninja  # noqa: E402

DEBUG = os.environ.get("DEBUG", "0") not in ("", "0")
NVCC_FLAGS = ["-std=c++17", "-Xcompiler=-fPIC,-fvisibility=hidden", "-Icsrc/include", "-Icsrc"]
DEBUG_NVCC_FLAGS = ["-O0", "-g", "-Werror=all-warnings"]


def torch_sources(device: str) -> list[str]:
    """Return the sources that include torch headers: those of every op, and those of "cpu" or "cuda"."""
    return sources("csrc/torch/*.cpp") + sources(f"csrc/torch/{device}/*.cpp")


def sources(pattern: str) -> list[str]:
    """Return the files of a pattern, sorted."""
    return sorted(str(path) for path in Path().glob(pattern))


def assign(files: list[str], flags: list[str]) -> dict[str, list[str]]:
    """Return file -> flags, the same flags for all."""
    return {file: flags for file in files}


def place(built: Path | None, target: Path) -> None:
    """Copy a library to where it is loaded from; None: there is none, and none of an earlier build may stay."""
    target.unlink(missing_ok=True)  # a process that has it open keeps its own
    if built is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(built, target)


def supported_torch() -> Torch:
    """Return the torch to build against; exit with one sentence if there is none or it is too old."""
    torch = find_torch()
    if torch is None:
        raise SystemExit(
            "iresnet_fast builds against the headers of torch >= 2.11 and found no torch: install torch first, or "
            "leave out --no-build-isolation so that pip fetches one for the build."
        )
    if not torch.is_supported:
        raise SystemExit(
            f"iresnet_fast builds against the headers of torch >= 2.11 and found torch {torch.version}: upgrade it "
            "with `pip install -U torch`."
        )
    return torch


def check_build_tools() -> None:
    """Exit with one sentence if something pip would have brought, or the Python headers, are missing."""
    missing = [name for name in ("ninja", "pybind11") if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"iresnet_fast needs {' and '.join(missing)} to build: `pip install {' '.join(missing)}`, or leave out "
            "--no-build-isolation so that pip fetches what the build needs."
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise SystemExit(
            "iresnet_fast needs the header Python.h and did not find it: install the development package of your "
            "Python (Debian, Ubuntu: apt install python3-dev)."
        )


class BuildExtension(build_ext):
    """build_ext with ninja instead of one compiler call after the other."""

    def run(self) -> None:
        """Check the tools, say what is built, then build."""
        if not self.extensions:
            return
        self.cxx = find_compiler()  # first of all: the most likely thing to be missing on a new machine
        self.torch = supported_torch()
        check_build_tools()
        self.cuda, self.cuda_note = self.find_cuda()
        version = subprocess.run([*self.cxx, "--version"], capture_output=True, text=True, check=True).stdout
        self.compiler_version = version.splitlines()[0]
        built = (self.torch, self.compiler_version, self.isas(), self.cuda, self.cuda_note)
        print(announcement(self.distribution.get_version(), *built, max_jobs()), flush=True)
        super().run()

    def find_cuda(self) -> tuple[Toolkit | None, str]:
        """Return what to build the CUDA kernels with and its name, or None and why there is nothing."""
        try:
            cuda = choose(self.torch, self.cxx)
        except Unavailable as reason:
            if forced():
                raise SystemExit(f"FORCE_CUDA=1 was set, and CUDA kernels cannot be built: {reason}.") from None
            return None, str(reason)
        return cuda, f"nvcc {cuda.version}"

    def build_extension(self, ext: Extension) -> None:
        """Compile and link the extension, then copy it to where setuptools expects it."""
        # Not setuptools' temporary folder: editable installs give a new one each time, and would start from nothing.
        folder = Path("build") / f"ninja-{sys.implementation.cache_tag}{'-debug' if DEBUG else ''}"
        target = Path(self.get_ext_fullpath(ext.name))
        name = Path(self.get_ext_filename(ext.name)).name
        built = run_ninja(folder, name, self.cxx, self.extension_flags(), self.link_flags("cpu"))
        cuda = None if self.cuda is None else self.build_cuda(self.cuda, Path(f"{folder}-cuda"))
        place(built, target)
        place(cuda, target.parent / LIBRARY)

    def extension_flags(self) -> dict[str, list[str]]:
        """Return the sources of the extension with the flags of each."""
        import pybind11

        module_flags = [f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_path('include')}"]
        flags = assign(["csrc/library.cpp", *torch_sources("cpu")], self.torch_flags("cpu"))
        flags["csrc/module.cpp"] = [*self.common_flags(), *module_flags, *self.metadata()]
        flags |= self.digest_of_sources()
        flags |= assign(sources("csrc/cuda/**/*.cpp"), self.common_flags())  # plans need no GPU
        return flags | {source: self.common_flags() + own for source, own in kernel_sources(architecture()).items()}

    def copy_extensions_to_source(self) -> None:
        """Copy what was built beside the Python files, for an editable install."""
        super().copy_extensions_to_source()
        for ext in self.extensions:
            built = Path(self.build_lib, *ext.name.split(".")[:-1], LIBRARY)
            place(built if built.is_file() else None, Path(self.get_ext_fullpath(ext.name)).parent / LIBRARY)

    def build_cuda(self, cuda: Toolkit, folder: Path) -> Path:
        """Compile the CUDA kernels and their binding and return the library."""
        host, kernels = torch_sources("cuda"), sources("csrc/cuda/**/*.cu")
        flags = assign(host, [*self.torch_flags("cuda"), "-DUSE_CUDA", *cuda.includes])
        flags |= self.digest_of_sources()
        flags |= assign(sources("csrc/cuda/**/*.cpp"), self.common_flags())
        threads = max(1, max_jobs() // max(1, len(kernels)))  # more cores than files: architectures in parallel
        device_flags = DEBUG_NVCC_FLAGS if DEBUG else RELEASE_FLAGS
        flags |= assign(kernels, [*NVCC_FLAGS, *device_flags, *cuda.gencode, f"--threads={threads}"])
        # The runtime is linked in: the library loads without a GPU, its driver or a toolkit.
        runtime = [*cuda.libraries, "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        nvcc = [str(cuda.nvcc), "-ccbin", host_compiler(self.cxx)]
        return run_ninja(folder, LIBRARY, self.cxx, flags, [*self.link_flags("cuda"), *runtime], nvcc)

    def digest_of_sources(self) -> dict[str, list[str]]:
        """Return the source, with its flags, that makes a library say which csrc it was built from."""
        digest = runpy.run_path("iresnet_fast/_sources.py")["digest"](Path("csrc"))
        return {"csrc/sources.cpp": [*self.common_flags(), f'-DIRF_BUILD_SOURCES="{digest}"']}

    def common_flags(self) -> list[str]:
        """Return the flags of every C++ file."""
        return COMMON_FLAGS + (DEBUG_FLAGS if DEBUG else RELEASE_FLAGS) + system_flags()

    def torch_flags(self, device: str) -> list[str]:
        """Return the flags of the files that include torch headers; device.h is that of "cpu" or "cuda"."""
        # -isystem: no warnings from headers that are not ours.
        headers = [f"-Icsrc/torch/{device}", f"-isystem{self.torch.folder / 'include'}"]
        return [*self.common_flags(), *TORCH_FLAGS, *headers]

    def link_flags(self, device: str) -> list[str]:
        """Return the flags that link a library to torch's."""
        flags = link_flags(self.torch.folder / "lib")
        return flags if device == "cpu" else [*flags, "-ltorch_cuda", "-Wl,--exclude-libs,ALL"]

    def isas(self) -> list[str]:
        """Return the instruction sets of the CPU kernels."""
        return list(isa_flags(architecture()))

    def metadata(self) -> list[str]:
        """Return what _C.build_info() reports, as macros."""
        values = {
            "VERSION": self.distribution.get_version(),
            "TORCH": self.torch.version,
            "COMPILER": self.compiler_version,
            "ISAS": ",".join(self.isas()),
            "CUDA_ARCHS": ",".join(self.cuda.architectures) if self.cuda else "",
            "CUDA": self.cuda_note.replace('"', "'"),  # may quote a compiler
        }
        return [f'-DIRF_BUILD_{name}="{value}"' for name, value in values.items()]


class Sanitize(Command):
    """Build the torch-free kernels and tests/sanitize/*.cpp under the address and undefined-behaviour sanitizers."""

    user_options: ClassVar[list] = []

    def initialize_options(self) -> None:
        """No options."""

    def finalize_options(self) -> None:
        """No options."""

    def run(self) -> None:
        """Build build/sanitize/run; `make sanitize` then executes it."""
        common = COMMON_FLAGS + SANITIZE_FLAGS
        flags = {source: common + own for source, own in kernel_sources(architecture()).items()}
        flags |= assign(sources("tests/sanitize/*.cpp"), common)
        run_ninja(Path("build/sanitize"), "run", find_compiler(), flags, [*SANITIZE_FLAGS, "-pthread"])


class SanitizeExtension(BuildExtension):
    """Build the extension for the CPU under the same sanitizers, as build/fuzz/_C.so; `make fuzz` calls it."""

    def run(self) -> None:
        """Build it; nothing is installed."""
        self.cxx, self.torch = find_compiler(), supported_torch()
        self.cuda, self.cuda_note = None, "under the sanitizers"
        self.compiler_version = "one of the sanitizers"
        flags = [*self.link_flags("cpu"), *SANITIZE_FLAGS]
        run_ninja(Path("build/fuzz"), "_C.so", self.cxx, self.extension_flags(), flags)

    def common_flags(self) -> list[str]:
        """Return the flags of every C++ file."""
        return COMMON_FLAGS + SANITIZE_FLAGS


if int(setuptools.__version__.split(".")[0]) < 77:
    raise SystemExit(
        f"iresnet_fast needs setuptools >= 77 to build, found {setuptools.__version__}: `pip install -U setuptools`, "
        "or leave out --no-build-isolation so that pip fetches what the build needs."
    )
extensions = [] if skip_extension() else [Extension("iresnet_fast._C", sources=[])]
setup(ext_modules=extensions, cmdclass={"build_ext": BuildExtension, "sanitize": Sanitize, "fuzz": SanitizeExtension})
