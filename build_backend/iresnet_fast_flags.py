"""What every file is compiled with, for which instruction sets, and how the libraries are linked; by architecture."""

import os
import platform
import sys
import sysconfig
from pathlib import Path

COMMON_FLAGS = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-Icsrc/include", "-Icsrc", "-Wall", "-Wextra"]
RELEASE_FLAGS = ["-O3", "-DNDEBUG"]
DEBUG_FLAGS = ["-O0", "-g", "-Werror"]
SANITIZE_FLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# The stable ABI of torch 2.11: the same object serves every later torch.
TORCH_FLAGS = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DTORCH_STABLE_ONLY"]
# Kernels test no errno and unmask no floating-point exception; everything else stays IEEE.
KERNEL_FLAGS = ["-fno-math-errno", "-fno-trapping-math"]
# csrc/cpu/kernels_<isa>.cpp, the last one preferred; the rest of csrc/cpu must run on any CPU of the architecture.
# Products and sums of "scalar" stay apart on AArch64 too, where they could be fused: it rounds as on any other CPU.
ISA_FLAGS = {
    "x86_64": {
        "scalar": [],
        "avx2": ["-mavx2", "-mfma"],
        "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"],
    },
    "aarch64": {"scalar": ["-ffp-contract=off"], "neon": []},
}
FIRST_MACOS = 11.0  # the first that runs on Apple's own processors


def architecture() -> str:
    """Return the architecture of this machine by its usual name: "x86_64", "aarch64", or what the system calls it."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def isa_flags(target: str) -> dict[str, list[str]]:
    """Return the instruction sets for which kernels are compiled on an architecture, with the flags of each."""
    return ISA_FLAGS.get(target, {"scalar": []})


def kernel_sources(target: str) -> dict[str, list[str]]:
    """Return the torch-free CPU sources for an architecture with the flags of each."""
    isas = isa_flags(target)
    sources = {}
    for path in sorted(Path("csrc/cpu").glob("*.cpp")):
        isa = path.stem.removeprefix("kernels_") if path.stem.startswith("kernels_") else "scalar"
        if isa in isas:
            sources[str(path)] = [*KERNEL_FLAGS, *isas[isa]]
    return sources


def system_flags(system: str = sys.platform) -> list[str]:
    """Return the flags of every compilation and link on a system, "linux" or "darwin"."""
    if system != "darwin" or os.environ.get("MACOSX_DEPLOYMENT_TARGET"):  # the compiler reads the variable itself
        return []
    # As old as the Python that will import the library; else it would need the system it was built on.
    python = float(sysconfig.get_config_var("MACOSX_DEPLOYMENT_TARGET") or 0)
    return [f"-mmacosx-version-min={max(python, FIRST_MACOS)}"]


def link_flags(torch_libraries: Path, system: str = sys.platform) -> list[str]:
    """Return the flags that link a library to torch's for a system, "linux" or "darwin"."""
    # No rpath: the package imports torch before its extension, so that the loaded library satisfies the need.
    torch = [f"-L{torch_libraries}", "-ltorch_cpu"]
    if system == "darwin":  # Python's own symbols are those of the program that imports the bundle
        return [*system_flags(system), "-bundle", "-undefined", "dynamic_lookup", *torch]
    return ["-shared", "-Wl,--no-as-needed", *torch]
