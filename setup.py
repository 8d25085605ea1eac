"""Build the compiled kernels; everything else is in pyproject.toml.

One ninja object per source, each with its own flags: so the kernels are compiled once per instruction set.

| Variable                      | Meaning (default)                                                                   |
|-------------------------------|-------------------------------------------------------------------------------------|
| CXX                           | C++20 compiler (g++, c++ or clang++, the first found)                               |
| MAX_JOBS                      | parallel compile jobs (number of cores); at most one per GiB of memory              |
| DEBUG=1                       | -O0 -g, assertions, warnings are errors                                             |
| FORCE_CUDA=1                  | make missing CUDA kernels an error (this version has none)                          |
| IRESNET_FAST_SKIP_EXTENSION=1 | install without compiled kernels: the plain-torch reference serves every op, slower |
"""

import importlib.util
import os
import platform
import shlex
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
from iresnet_fast_build import Torch, find_compiler, find_torch, skip_extension  # noqa: E402

DEBUG = os.environ.get("DEBUG", "0") not in ("", "0")
IS_X86_64 = platform.machine().lower() in ("x86_64", "amd64")

COMMON_FLAGS = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-Icsrc/include", "-Icsrc", "-Wall", "-Wextra"]
RELEASE_FLAGS = ["-O3", "-DNDEBUG"]
DEBUG_FLAGS = ["-O0", "-g", "-Werror"]
SANITIZE_FLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# The stable ABI of torch 2.11: the same object serves every later torch.
TORCH_FLAGS = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DTORCH_STABLE_ONLY"]
# Kernels test no errno and unmask no floating-point exception; everything else stays IEEE.
KERNEL_FLAGS = ["-fno-math-errno", "-fno-trapping-math"]
# csrc/cpu/kernels_<isa>.cpp; the rest of csrc/cpu must run on any CPU of the architecture.
ISA_FLAGS = {
    "scalar": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"],
}


def built_isas() -> list[str]:
    """Return the instruction sets for which kernels are compiled."""
    return list(ISA_FLAGS) if IS_X86_64 else ["scalar"]


def kernel_sources() -> dict[str, list[str]]:
    """Return the torch-free CPU sources with the flags of each."""
    flags = KERNEL_FLAGS if IS_X86_64 else [*KERNEL_FLAGS, "-DIRF_NO_X86"]
    sources = {}
    for path in sorted(Path("csrc/cpu").glob("*.cpp")):
        isa = path.stem.removeprefix("kernels_") if path.stem.startswith("kernels_") else "scalar"
        if isa in built_isas():
            sources[str(path)] = [*flags, *ISA_FLAGS[isa]]
    return sources


def torch_sources() -> list[str]:
    """Return the sources that include torch headers."""
    return ["csrc/library.cpp", *sorted(str(path) for path in Path("csrc/torch").glob("*.cpp"))]


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


def check_cuda() -> str:
    """Return the log line about CUDA kernels; this is the place where their sources will be added."""
    if os.environ.get("FORCE_CUDA", "0") not in ("", "0"):
        raise SystemExit(
            "FORCE_CUDA=1 was set, and CUDA kernels are not part of this version yet: unset it to build for CPU."
        )
    return "CUDA kernels: skipped (not part of this version)"


def max_jobs() -> int:
    """Return the number of parallel jobs: MAX_JOBS or the number of cores, at most one per GiB of memory."""
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    wanted = int(os.environ.get("MAX_JOBS") or len(os.sched_getaffinity(0)))
    return max(1, min(wanted, memory_gib))


def run_ninja(
    folder: Path, target: str, compiler: list[str], sources: dict[str, list[str]], link_flags: list[str]
) -> Path:
    """Compile every source with its own flags, link them to folder/target, and return that path.

    Objects, dependency files and ninja's log stay in `folder`: the next call compiles what changed, headers included.
    """
    import ninja  # here and not above: an sdist needs neither ninja nor pybind11

    def shell(words: list[str]) -> str:
        return shlex.join(words).replace("$", "$$")

    lines = [
        f"builddir = {folder}",
        f"cxx = {shell(compiler)}",
        "rule compile\n  command = $cxx $flags -MD -MF $out.d -c $in -o $out\n  description = compile $in",
        "  depfile = $out.d\n  deps = gcc",
        "rule link\n  command = $cxx -o $out $in $flags\n  description = link $out",
    ]
    objects = []
    for source, flags in sources.items():
        objects.append(f"{folder / source}.o")
        lines.append(f"build {objects[-1]}: compile {source}\n  flags = {shell(flags)}")
    lines.append(f"build {folder / target}: link {' '.join(objects)}\n  flags = {shell(link_flags)}\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text("\n".join(lines))
    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-f", str(folder / "build.ninja"), "-j", str(max_jobs())]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(
            "iresnet_fast did not compile: the compiler's first message above names the file and the reason."
        )
    return folder / target


class BuildExtension(build_ext):
    """build_ext with ninja instead of one compiler call after the other."""

    def run(self) -> None:
        """Check the tools, say what is built, then build."""
        if not self.extensions:
            return
        self.cxx = find_compiler()  # first of all: the most likely thing to be missing on a new machine
        self.torch = supported_torch()
        check_build_tools()
        cuda = check_cuda()
        version = subprocess.run([*self.cxx, "--version"], capture_output=True, text=True, check=True).stdout
        self.compiler_version = version.splitlines()[0]
        print(f"iresnet_fast {self.distribution.get_version()}: for Python {platform.python_version()}, torch >= 2.11")
        print(f"built with the headers of torch {self.torch.version} and {self.compiler_version}")
        print(f"CPU kernels: {', '.join(built_isas())}" + ("" if IS_X86_64 else f" (no AVX on {platform.machine()})"))
        print(cuda, flush=True)
        super().run()

    def build_extension(self, ext: Extension) -> None:
        """Compile and link the extension, then copy it to where setuptools expects it."""
        import pybind11

        common = COMMON_FLAGS + (DEBUG_FLAGS if DEBUG else RELEASE_FLAGS)
        # -isystem: no warnings from headers that are not ours.
        torch_flags = [*common, *TORCH_FLAGS, f"-isystem{self.torch.folder / 'include'}"]
        module_flags = [
            *common,
            f"-isystem{pybind11.get_include()}",
            f"-isystem{sysconfig.get_path('include')}",
            *self.metadata(),
        ]
        sources = dict.fromkeys(torch_sources(), torch_flags)
        sources["csrc/module.cpp"] = module_flags
        sources |= {source: common + flags for source, flags in kernel_sources().items()}
        # No rpath: the package imports torch before its extension, so that the loaded library satisfies the need.
        link_flags = ["-shared", "-Wl,--no-as-needed", f"-L{self.torch.folder / 'lib'}", "-ltorch_cpu"]
        # Not setuptools' temporary folder: editable installs give a new one each time, and would start from nothing.
        folder = Path("build") / f"ninja-{sys.implementation.cache_tag}{'-debug' if DEBUG else ''}"
        built = run_ninja(folder, Path(self.get_ext_filename(ext.name)).name, self.cxx, sources, link_flags)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(built, target)

    def metadata(self) -> list[str]:
        """Return what _C.build_info() reports, as macros."""
        values = {
            "VERSION": self.distribution.get_version(),
            "TORCH": self.torch.version,
            "COMPILER": self.compiler_version,
            "ISAS": ",".join(built_isas()),
            "CUDA_ARCHS": "",
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
        sources = {source: common + flags for source, flags in kernel_sources().items()}
        sources |= {str(path): common for path in sorted(Path("tests/sanitize").glob("*.cpp"))}
        run_ninja(Path("build/sanitize"), "run", find_compiler(), sources, [*SANITIZE_FLAGS, "-pthread"])


if int(setuptools.__version__.split(".")[0]) < 77:
    raise SystemExit(
        f"iresnet_fast needs setuptools >= 77 to build, found {setuptools.__version__}: `pip install -U setuptools`, "
        "or leave out --no-build-isolation so that pip fetches what the build needs."
    )
extensions = [] if skip_extension() else [Extension("iresnet_fast._C", sources=[])]
setup(ext_modules=extensions, cmdclass={"build_ext": BuildExtension, "sanitize": Sanitize})
