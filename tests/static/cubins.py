"""Compiles every kernel file for every architecture, again only when something it includes has changed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from toolkit import BUILD, INCLUDES, ROOT, nvcc, nvcc_version

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
FLAGS = ("-std=c++17", "-O3", "-cubin", "-diag-suppress=177", "-Xptxas", "-v,--warn-on-spills,-Werror")


@dataclass(frozen=True)
class Cubin:
    """The outcome of one compilation; `path` holds no cubin if it failed."""

    source: Path
    arch: int
    path: Path
    log: str  # what ptxas says about registers and spills, or the errors
    failed: bool
    seconds: float  # of processor time, so that a busy machine does not count


def sources() -> list[Path]:
    """Return the files whose kernels the package contains."""
    return sorted((ROOT / "csrc" / "cuda").rglob("*.cu"))


def label(source: Path) -> str:
    """Return the name of a file of kernels: its path within csrc/cuda, or its name where it is of elsewhere."""
    folder = ROOT / "csrc" / "cuda"
    return source.relative_to(folder).as_posix() if source.is_relative_to(folder) else source.name


def workers() -> ThreadPoolExecutor:
    """Return threads for all cores, or MAX_JOBS of them."""
    return ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", 0)) or os.cpu_count())


def compile_all(files: Iterable[Path], architectures: Iterable[int] = ARCHITECTURES, out: Path = BUILD) -> list[Cubin]:
    """Compile; the order of the result is that of the arguments."""
    out.mkdir(parents=True, exist_ok=True)
    nvcc()
    jobs = [(file, arch, out) for file in files for arch in architectures]
    with workers() as pool:
        return list(pool.map(lambda job: _compile(*job), jobs))


def _compile(source: Path, arch: int, out: Path) -> Cubin:
    path = out / f"{label(source).removesuffix('.cu').replace('/', '-')}.sm_{arch}.cubin"
    record, depends = path.with_suffix(".json"), path.with_suffix(".d")
    command = [nvcc(), *FLAGS, f"-arch=sm_{arch}", *(f"-I{folder}" for folder in INCLUDES), "-MD", "-MF", str(depends)]
    command += [str(source), "-o", str(path)]
    if record.exists():
        kept = json.loads(record.read_text())
        if path.exists() and kept["digest"] == _digest(arch, depends):
            return Cubin(source, arch, path, kept["log"], False, kept["seconds"])
    for stale in (record, path):
        stale.unlink(missing_ok=True)
    messages = path.with_suffix(".log")
    with messages.open("w") as stderr:
        process = subprocess.Popen(command, stdout=stderr, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    log, seconds = messages.read_text(), usage.ru_utime + usage.ru_stime
    print(f"  {label(source)} sm_{arch}: {seconds:.0f} s", file=sys.stderr)
    if process.returncode:
        return Cubin(source, arch, path, log, True, seconds)
    record.write_text(json.dumps({"digest": _digest(arch, depends), "log": log, "seconds": seconds}))
    return Cubin(source, arch, path, log, False, seconds)


def _digest(arch: int, depends: Path) -> str | None:
    """Return a hash of all that a cubin depends on; None if a file it included is gone."""
    _, _, names = depends.read_text().partition(" : ")
    digest = hashlib.sha256(" ".join([nvcc_version(), *FLAGS, str(arch)]).encode())
    for name in re.split(r"(?<!\\)\s+", names.replace("\\\n", " ").strip()):
        file = Path(name.replace("\\ ", " "))
        if not file.exists():
            return None
        digest.update(file.read_bytes())
    return digest.hexdigest()
