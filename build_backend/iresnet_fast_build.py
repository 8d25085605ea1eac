"""PEP 517 backend: setuptools, plus the choice of the torch to build against.

The extension keeps to torch's stable ABI, so the headers of any torch >= 2.11 will do. A plain `requires = ["torch"]`
would download a second, multi-gigabyte torch into pip's isolated build environment. Inside that environment sysconfig
still names the folders of the environment being installed into: if torch >= 2.11 is there, its headers are used and
nothing is requested. Front ends that hide the target environment get the requirement: slower and just as right.
"""

import importlib.util
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (every hook not replaced below is setuptools' own)

MINIMUM_TORCH = (2, 11)
TORCH_REQUIREMENT = "torch>=2.11"


class Torch(NamedTuple):
    """An installed torch: its package folder (with include/ and lib/), its version, the CUDA it is built for."""

    folder: Path
    version: str
    cuda: str | None = None

    @property
    def is_supported(self) -> bool:
        """Whether its headers offer the stable ABI of torch 2.11."""
        release = re.match(r"(\d+)\.(\d+)", self.version)
        return release is not None and (int(release[1]), int(release[2])) >= MINIMUM_TORCH


def find_torch() -> Torch | None:
    """Return the importable torch, else the one of the target environment, without importing it."""
    spec = importlib.util.find_spec("torch")
    candidates = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    targets = [sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]
    if (
        sys.prefix == sys.base_prefix
    ):  # pip hides the user's site-packages from the build, the installed package sees them
        targets.insert(0, site.getusersitepackages())
    candidates += [Path(target) / "torch" for target in targets]
    for folder in candidates:
        version_file = folder / "version.py"
        if version_file.is_file():
            text = version_file.read_text()
            version, cuda = (
                re.search(rf"^{name}\b[^=\n]*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
                for name in ("__version__", "cuda")
            )
            if version is not None:
                return Torch(folder, version[1], cuda and cuda[1])
    return None


def skip_extension() -> bool:
    """Whether the user asked for the pure-Python package (plain-torch reference only)."""
    return os.environ.get("IRESNET_FAST_SKIP_EXTENSION", "0") not in ("", "0")


def find_compiler() -> list[str]:
    """Return the command of a C++20 compiler (CXX, else g++, c++, clang++); exit with one sentence if there is none."""
    wanted = os.environ.get("CXX", "")
    for command in [shlex.split(wanted)] if wanted else [["g++"], ["c++"], ["clang++"]]:
        if shutil.which(command[0]) is None:
            continue
        probe = [*command, "-std=c++20", "-x", "c++", "-fsyntax-only", os.devnull]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return command
    tried = f"CXX={wanted}" if wanted else "tried g++, c++, clang++"
    raise SystemExit(
        f"iresnet_fast needs a C++20 compiler and found none ({tried}): install one (Debian, Ubuntu: apt install g++; "
        "Fedora: dnf install gcc-c++; macOS: xcode-select --install) or set CXX to yours, or set "
        "IRESNET_FAST_SKIP_EXTENSION=1 to install without the compiled kernels, every op then running on plain torch, "
        "slower."
    )


def _torch_requirement() -> list[str]:
    torch = find_torch()
    return [] if skip_extension() or (torch is not None and torch.is_supported) else [TORCH_REQUIREMENT]


def _check_compiler() -> None:
    if not skip_extension():
        find_compiler()  # first of all: before setuptools says a word or a torch is downloaded


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """Return what setuptools asks for, and torch if the target environment has none to build against."""
    _check_compiler()
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch_requirement()


def get_requires_for_build_editable(config_settings: dict | None = None) -> list[str]:
    """Return the same for `pip install -e .`."""
    _check_compiler()
    return build_meta.get_requires_for_build_editable(config_settings) + _torch_requirement()
