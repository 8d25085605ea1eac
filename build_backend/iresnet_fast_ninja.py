"""Compile and link with ninja: one object per source, each with its own flags, only what changed."""

import os
import shlex
import subprocess
from pathlib import Path


def max_jobs() -> int:
    """Return the number of parallel jobs: MAX_JOBS, else the number of cores, at most one per GiB of memory."""
    wanted = os.environ.get("MAX_JOBS", "")
    if wanted:
        if not wanted.isdecimal() or int(wanted) == 0:
            raise SystemExit(f"MAX_JOBS must be a positive whole number, got {wanted!r}: correct it or unset it.")
        return int(wanted)
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    # macOS gives no process cores of its own.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, memory_gib))


def run_ninja(
    folder: Path,
    target: str,
    compiler: list[str],
    sources: dict[str, list[str]],
    link_flags: list[str],
    nvcc: list[str] | None = None,
) -> Path:
    """Compile every source with its own flags, link them to folder/target, and return that path.

    Objects, dependency files and ninja's log stay in `folder`: the next call compiles what changed, headers included.

    Args:
        folder: of the objects and the result.
        target: file name of the result.
        compiler: command for C++, and for linking.
        sources: source file -> flags.
        link_flags: put after the objects.
        nvcc: command for .cu files.
    """
    import ninja  # here and not above: an sdist needs neither ninja nor pybind11

    def shell(words: list[str]) -> str:
        return shlex.join(words).replace("$", "$$")

    lines = [
        f"builddir = {folder}",
        f"cxx = {shell(compiler)}",
        f"nvcc = {shell(nvcc or [])}",
        "rule link\n  command = $cxx -o $out $in $flags\n  description = link $out",
    ]
    for rule in ("cxx", "nvcc"):
        lines.append(
            f"rule {rule}\n  command = ${rule} $flags -MD -MF $out.d -c $in -o $out\n  description = compile $in\n"
            "  depfile = $out.d\n  deps = gcc"
        )
    objects = []
    for source, flags in sources.items():
        objects.append(f"{folder / source}.o")
        rule = "nvcc" if source.endswith(".cu") else "cxx"
        lines.append(f"build {objects[-1]}: {rule} {source}\n  flags = {shell(flags)}")
    lines.append(f"build {folder / target}: link {' '.join(objects)}\n  flags = {shell(link_flags)}\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text("\n".join(lines))
    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-f", str(folder / "build.ninja"), "-j", str(max_jobs())]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(
            "iresnet_fast did not compile: the compiler's first message above names the file and the reason."
        )
    return folder / target
