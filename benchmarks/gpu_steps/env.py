"""What is there, and the kernels and their torch-free entries built for it, side by side; nothing is fetched."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import time

from step import ROOT, Run

sys.path.insert(0, str(ROOT / "build_backend"))
from iresnet_fast_cuda import Unavailable, architectures_here

PACKAGES = ("torch", "numpy", "setuptools", "ninja", "pybind11", "pytest", "pytest-xdist", "pytest-benchmark",
            "scikit-learn", "rich", "safetensors", "matplotlib", "tensorboard", "normflows")  # fmt: skip
QUERY = "name,driver_version,memory.total,clocks.max.sm,clocks.sm,power.limit,ecc.mode.current,mig.mode.current"
COMMANDS = (
    ("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv"), ("nvcc", "--version"), ("g++", "--version"), ("lscpu",),
)  # fmt: skip


def main() -> None:
    """Write env.txt, build, load."""
    run = Run("env")
    describe(run)
    built = True if run.dry else build(run)
    report = said([sys.executable, "-m", "iresnet_fast"])
    with open(run.out / "env.txt", "a") as text:
        text.write(report)
    has_cuda = said([sys.executable, "-c", "from iresnet_fast import _library as l; print(l.HAS_CUDA, l.CUDA_ERROR)"])
    run.record("kernels", has_cuda=has_cuda.startswith("True"), why=has_cuda.strip().splitlines()[-1])
    if not built or not (run.dry or has_cuda.startswith("True")):
        sys.exit("env: the kernels for this card are missing; what the build said is above")


def describe(run: Run) -> None:
    """Write what the machine is to env.txt, and the versions that matter to the results."""
    parts = [f"Python {sys.version}", f"{os.cpu_count()} cores"]
    parts += [f"$ {' '.join(command)}\n{said(list(command))}" for command in COMMANDS if shutil.which(command[0])]
    (run.out / "env.txt").write_text("\n\n".join(parts) + "\n")
    for package in PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "missing"
        run.record("versions", package=package, version=version)


def build(run: Run) -> bool:
    """Build the extension and the entries at the same time; return whether the extension was built."""
    try:  # as the build itself chooses: PTX where nvcc does not name the card
        architecture = os.environ.get("TORCH_CUDA_ARCH_LIST") or ";".join(architectures_here())
    except Unavailable as reason:
        sys.exit(f"env: no CUDA kernels can be built: {reason}")
    # Forced: a build without CUDA kernels would be an error. Forced alone it would be for all cards there are.
    settings = os.environ | {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architecture}
    commands = {
        "extension": [sys.executable, "setup.py", "build_ext", "--inplace"],
        "entries": [sys.executable, "-m", "simt.gpu"],
    }
    folders = {"extension": ROOT, "entries": ROOT / "tests"}
    run.say(f"building for compute capability {architecture}")
    start = time.monotonic()
    running = {what: subprocess.Popen(command, cwd=folders[what], env=settings) for what, command in commands.items()}
    seconds = {}
    while len(seconds) < len(running):
        time.sleep(0.1)
        for what, process in running.items():
            if what not in seconds and process.poll() is not None:
                seconds[what] = time.monotonic() - start
                run.record("builds", what=what, seconds=round(seconds[what], 1), exit_code=process.returncode)
    return running["extension"].returncode == 0


def said(command: list[str]) -> str:
    """Return what a program prints."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return result.stdout + result.stderr


if __name__ == "__main__":
    main()
