"""Compiles the CUDA kernels for the CPU, with ninja: only what changed, one object per source.

SIMT_ONLY="layered,pack_weights" builds only the files and folders of csrc/cuda, and the entries, with these names, in
a folder of its own.
MAX_JOBS: parallel compile jobs (2).
"""

import fcntl
import hashlib
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import ninja

from .translate import translate

ROOT = Path(__file__).resolve().parents[2]
# Relative to the root, as everything here.
HERE, KERNELS, BUILD = Path("tests/simt"), Path("csrc/cuda"), Path("build/simt")
SHIM = HERE / "shim"

COMMON_FLAGS = (
    f"-std=c++20 -g -fPIC -fvisibility=hidden -fno-gnu-unique -Wall -Wextra -Wno-unknown-pragmas "
    f"-I{BUILD}/src/csrc -Icsrc -Icsrc/include -I{SHIM} -include {SHIM}/simt.h"
)
# The runtime keeps the templates of the standard library to itself: those of kernels are instrumented.
RUNTIME_LINK = "-r -nostdlib -Wl,--force-group-allocation && objcopy --wildcard $out " + " ".join(
    f"--keep-global-symbol='{name}'"
    for name in ("_ZN4simt*", "_ZNK4simt*", "simt_*", "__tsan_*", "__ubsan_*", "_Z*cuda*")
)
KERNEL_FLAGS = {"fast": "-O2", "check": "-O1 -fsanitize=thread -fsanitize=alignment"}


class BuildError(RuntimeError):
    """The compiler refused."""


def build(kind, sources=None, name="kernels"):
    """Build the library of .cu and .cpp files (None: those of the project) and return its path."""
    only = os.environ.get("SIMT_ONLY")
    if sources is None:
        sources = _project_sources(only)
        if only:
            name = f"kernels-{hashlib.sha256(only.encode()).hexdigest()[:8]}"
    runtime = dict.fromkeys(sorted(_files(SHIM, "*.cpp")), f"-O2 -DSIMT_CHECKED={int(kind == 'check')}")
    runtime_object = _ninja(BUILD / kind / "runtime", runtime, "simt.o", RUNTIME_LINK)
    with _locked(BUILD / "src"):
        for header in _files(KERNELS, "**/*.cuh"):
            _translated(header)
        units = {_translated(s) if s.suffix == ".cu" else s: unit_flags(kind, s) for s in sources}
    link = f"-shared -Wl,-z,defs -Wl,-Bsymbolic {runtime_object}"
    return ROOT / _ninja(BUILD / kind / name, units, "libkernels.so", link, runtime_object)


def unit_flags(kind, source):
    """Return the flags of a source: only kernels are checked."""
    if source.suffix != ".cu":
        return "-O2"
    own = f" -I{HERE}/entries" if source.parent == HERE / "entries" else ""  # a translated entry lies elsewhere
    return KERNEL_FLAGS[kind] + own


def original(path):
    """Return the source of a translated file, or the path itself."""
    path = Path(os.path.normpath(path))
    for folder in (ROOT, BUILD / "src"):
        path = path.relative_to(folder) if path.is_relative_to(folder) else path
    return path.with_suffix("") if path.name.endswith(".cu.cpp") else path


def _files(folder, pattern):
    return [path.relative_to(ROOT) for path in (ROOT / folder).glob(pattern)]


def _project_sources(only):
    patterns = [(folder, f"**/*.{kind}") for folder in (KERNELS, HERE / "entries") for kind in ("cu", "cpp")]
    files = sorted(path for folder, pattern in patterns for path in _files(folder, pattern))
    names = set(only.split(",")) if only else None
    return [path for path in files if not names or {path.stem, path.parent.name} & names]


@contextmanager
def _locked(folder):
    """Let no other process build in a folder."""
    (ROOT / folder).mkdir(parents=True, exist_ok=True)
    with open(ROOT / folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _translated(source):
    """Translate a .cu or .cuh file; the translation is written only if it changed, so that nothing is rebuilt."""
    target = BUILD / "src" / (f"{source}.cpp" if source.suffix == ".cu" else source)
    text = translate((ROOT / source).read_text(), source)
    if not (ROOT / target).exists() or (ROOT / target).read_text() != text:
        (ROOT / target).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / target).write_text(text)
    return target


def _ninja(folder, units, target, link_flags, *link_inputs):
    """Compile `units` (source -> flags), link them to folder/target, and return that path."""
    lines = [
        f"builddir = {folder}",
        f"rule compile\n  command = g++ {COMMON_FLAGS} $flags -MD -MF $out.d -c $in -o $out\n  depfile = $out.d",
        "  deps = gcc\n  description = compile $in",
        f"rule link\n  command = g++ -o $out $in {link_flags}\n  description = link $out",
    ]
    objects = [f"{folder}/{source}.o" for source in units]
    for (source, flags), result in zip(units.items(), objects, strict=True):
        lines.append(f"build {result}: compile {source}\n  flags = {flags}")
    lines.append(f"build {folder}/{target}: link {' '.join(objects)} | {' '.join(map(str, link_inputs))}\n")
    command = [Path(ninja.BIN_DIR) / "ninja", "-f", folder / "build.ninja", "-j", os.environ.get("MAX_JOBS", "2")]
    with _locked(folder):
        (ROOT / folder / "build.ninja").write_text("\n".join(lines))
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BuildError(f"the emulated kernels do not compile:\n{result.stdout}{result.stderr}")
    return folder / target
