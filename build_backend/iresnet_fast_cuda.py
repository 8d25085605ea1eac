"""Whether CUDA kernels are built, with which nvcc and for which GPUs.

Built they are if nvcc and the torch that is there can, and somebody could run them: for the GPUs that
TORCH_CUDA_ARCH_LIST names, with FORCE_CUDA=1 for all, else for those of this machine. A wheel for others is built with
one of the two variables: pip builds a wheel for every install, so the build cannot tell the two apart.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from iresnet_fast_build import Torch
from iresnet_fast_gpus import find_capabilities

# Turing, A100, RTX 30, RTX 40, H100, B200, RTX 50, and PTX for what comes after them.
DEFAULT_ARCHITECTURES = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
LIBRARY = "libiresnet_fast_cuda.so"  # beside the extension, and no Python module


class Unavailable(Exception):
    """CUDA kernels cannot be built; the message says why, in a few words."""


class Toolkit(NamedTuple):
    """An nvcc that works, and what to build with it."""

    nvcc: Path
    version: str
    includes: list[str]  # -I flags of the CUDA runtime
    libraries: list[str]  # -L flags of the CUDA runtime
    architectures: list[str]  # "8.0", "12.0+PTX"
    chosen_by: str  # why these architectures, in a few words

    @property
    def gencode(self) -> list[str]:
        """Return the flags that name the architectures."""
        flags = []
        for architecture in self.architectures:
            number = architecture.removesuffix("+PTX").replace(".", "")
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
            if architecture.endswith("+PTX"):
                flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
        return flags


def choose(torch: Torch, cxx: list[str]) -> Toolkit:
    """Return what to build the CUDA kernels with; Unavailable if that cannot or shall not be."""
    if os.environ.get("FORCE_CUDA") == "0":
        raise Unavailable("FORCE_CUDA=0")
    if torch.cuda is None:
        raise Unavailable(f"torch {torch.version} is not built for CUDA")
    nvcc = find_nvcc()
    version = _nvcc_version(nvcc)
    if version.split(".")[0] != torch.cuda.split(".")[0]:
        raise Unavailable(
            f"nvcc is of CUDA {version} and torch {torch.version} is built for CUDA {torch.cuda}: set CUDA_HOME to a "
            f"toolkit of CUDA {torch.cuda.split('.')[0]}"
        )
    settings = _dry_run(nvcc, cxx)
    libraries = _flags(settings.get("LIBRARIES", ""), "-L")
    folders = [flag.removeprefix("-L") for flag in libraries] + ["/usr/lib/x86_64-linux-gnu"]
    if not any(Path(folder, "libcudart_static.a").is_file() for folder in folders):
        raise Unavailable(f"libcudart_static.a is missing beside {nvcc}")
    includes = _flags(settings.get("INCLUDES", ""), "-I")
    return Toolkit(nvcc, version, includes, libraries, *_architectures(_known(nvcc)))


def forced() -> bool:
    """Whether missing CUDA kernels are an error."""
    return os.environ.get("FORCE_CUDA", "0") not in ("", "0")


def host_compiler(cxx: list[str]) -> str:
    """Return the program that nvcc is to use for the host side: a compiler without its launcher or its options."""
    return next(word for word in cxx if Path(word).name not in ("ccache", "sccache"))


def find_nvcc() -> Path:
    """Return nvcc: that of CUDA_HOME, else the one on PATH, else a usual place."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        nvcc = Path(home, "bin", "nvcc")
        if not nvcc.is_file():
            raise Unavailable(f"CUDA_HOME={home} holds no bin/nvcc")
        return nvcc
    for candidate in (shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc"):
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise Unavailable("nvcc was not found: put it on PATH or set CUDA_HOME")


def _run(nvcc: Path, *arguments: str) -> str:
    result = subprocess.run([str(nvcc), *arguments], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        said = (result.stderr or result.stdout).strip().splitlines()
        reason = next((line for line in said if "error" in line), said[-1] if said else "no message")
        raise Unavailable(f"{nvcc} does not work: {reason.strip()}")
    return result.stdout + result.stderr


def _nvcc_version(nvcc: Path) -> str:
    release = re.search(r"release (\d+\.\d+)", _run(nvcc, "--version"))
    if release is None:
        raise Unavailable(f"{nvcc} does not tell its version")
    return release[1]


def _dry_run(nvcc: Path, cxx: list[str]) -> dict[str, str]:
    """Return what nvcc is set to: it knows where its headers are, and the one on PATH may be a script elsewhere."""
    empty = ["-ccbin", host_compiler(cxx), "-x", "cu", os.devnull, "-o", os.devnull]
    _run(nvcc, "-E", *empty)  # stops at a host compiler that this nvcc does not support
    lines = re.findall(r"^#\$ (\w+)=(.*)$", _run(nvcc, "--dryrun", "-c", *empty), re.MULTILINE)
    return dict(lines)


def _flags(words: str, prefix: str) -> list[str]:
    flags = [word.removeprefix(prefix) for word in shlex.split(words) if word.startswith(prefix)]
    return [prefix + os.path.normpath(flag) for flag in flags]


def _known(nvcc: Path) -> set[str]:
    """Return the architectures that nvcc compiles for, as "8.0"."""
    numbers = re.findall(r"compute_(\d+)\b", _run(nvcc, "--list-gpu-arch"))
    return {f"{number[:-1]}.{number[-1]}" for number in numbers}


def _architectures(known: set[str]) -> tuple[list[str], str]:
    """Return what to build for and why: those listed, all, or those of the GPUs that are here."""
    if listed := _listed(known):
        return listed, "TORCH_CUDA_ARCH_LIST"
    default = DEFAULT_ARCHITECTURES.removesuffix("+PTX").split(";")
    usable = [name for name in default if name in known]
    if not usable:
        raise Unavailable(f"nvcc compiles for none of {', '.join(default)}")
    if forced():
        return [*usable[:-1], f"{usable[-1]}+PTX"], "all, as FORCE_CUDA=1 asks"
    return _of_this_machine(find_capabilities(), known), "the GPUs of this machine"


def architectures_here() -> list[str]:
    """Return what to build for the GPUs of this machine; Unavailable if there are none or nvcc cannot."""
    return _of_this_machine(find_capabilities(), _known(find_nvcc()))


def _of_this_machine(gpus: list[str], known: set[str]) -> list[str]:
    """Return the architectures of these GPUs; one that nvcc does not know runs the PTX of the newest before it."""
    if not gpus:
        raise Unavailable(
            "there is no GPU in this machine: FORCE_CUDA=1 builds for all GPUs, TORCH_CUDA_ARCH_LIST for those it names"
        )
    oldest = float(DEFAULT_ARCHITECTURES.split(";")[0])
    names = set()
    for gpu in gpus:
        before = [name for name in known if oldest <= float(name) <= float(gpu)]
        if gpu in before:
            names.add(gpu)
        elif before:
            names.add(f"{max(before, key=float)}+PTX")
    if not names:
        raise Unavailable(f"the kernels need a GPU of compute capability {oldest} or later, here is {', '.join(gpus)}")
    # 9.0+PTX runs wherever 9.0 does.
    return sorted(
        (name for name in names if f"{name}+PTX" not in names), key=lambda name: float(name.removesuffix("+PTX"))
    )


def _listed(known: set[str]) -> list[str]:
    """Return TORCH_CUDA_ARCH_LIST, checked; [] if it is not set."""
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    names = re.split(r"[;,\s]+", wanted.strip()) if wanted.strip() else []
    for name in names:
        number = re.fullmatch(r"(\d+\.\d)[af]?(?:\+PTX)?", name)
        if number is None:
            raise SystemExit(
                f"TORCH_CUDA_ARCH_LIST must list compute capabilities such as 8.0;9.0+PTX, got {name!r} in {wanted!r}."
            )
        if number[1] not in known:
            raise SystemExit(
                f"TORCH_CUDA_ARCH_LIST names {name}, which this nvcc does not compile for; it knows "
                f"{', '.join(sorted(known, key=float))}."
            )
    return names
