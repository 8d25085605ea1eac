"""Plants one bug at a time in the CUDA kernels; the emulated tests must notice: `make simt-mutate`.

    python tests/simt/mutate.py [--only REGEX]     all mutants, or those whose files or code match

A mutant (mutants/) changes one place of csrc/cuda. The one source that shows it is compiled again, into
build/simt-mutate, and linked with the other objects of the checker build; the chosen tests then run on that library.
Caught means that a test fails: by a report of the emulator, a wrong result, a crash, or because it never ends.
The chosen tests must pass on the kernels as they are. MAX_JOBS: mutants tried at once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from simt import builder, emulator
from simt.mutants import EQUIVALENT, MUTANTS, Mutant
from simt.translate import translate

OUT = builder.ROOT / "build" / "simt-mutate"
LEAST_RATE = 0.95
# Schedules of conftest.py that are left out: the checker in reverse and in one random order remains.
OTHER_SCHEDULES = "fast or random-2 or random-3"
CPU_SECONDS = 120  # after which tests are taken never to end; on the kernels as they are none takes half of it
SYNCHRONISATION = re.compile(r"__syncthreads|__syncwarp|__pipeline_wait_prior|__threadfence")


class TableError(Exception):
    """A mutant that says nothing: its code is not there, does not compile or selects no test."""


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description="Plant bugs in the CUDA kernels and run the emulated tests.")
    parser.add_argument("--only", default="", metavar="REGEX", help="only mutants whose files or code match")
    only = parser.parse_args().only
    chosen = [m for m in MUTANTS if re.search(only, f"{m.file} {m.unit} {m.old}")]
    if not chosen:
        sys.exit(f"simt-mutate: no mutant matches {only!r}")
    errors = list(table_errors())
    if errors:
        sys.exit("simt-mutate: " + "\nsimt-mutate: ".join(errors))
    jobs = int(os.environ.get("MAX_JOBS", 0)) or os.cpu_count()
    base = emulator.Emulator("check").path
    selections = list(dict.fromkeys((m.tests, m.select) for m in chosen))
    problems, ways = [], Counter()
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        for selection, verdict in zip(selections, pool.map(partial(_judge, base), selections), strict=True):
            if verdict:
                problems.append(f"{' '.join(selection)} fails on the kernels as they are: {verdict}")
        for mutant, verdict in zip(chosen, pool.map(partial(_try, base), chosen), strict=True):
            print(f"{mutant.file:24} {mutant.title[:60]:60} {verdict}", flush=True)
            ways[verdict.partition(":")[0]] += 1
    caught = len(chosen) - ways["MISSED"] - ways["ERROR"]
    print(f"{caught} of {len(chosen)} mutants caught; {', '.join(f'{way} {n}' for way, n in ways.items())}")
    if ways["ERROR"]:
        problems.append(f"{ways['ERROR']} mutants say nothing")
    if caught < LEAST_RATE * len(chosen):
        problems.append(f"{caught / len(chosen):.0%} is below {LEAST_RATE:.0%}")
    if problems:
        sys.exit("simt-mutate: " + "\nsimt-mutate: ".join(problems))


def table_errors() -> Iterator[str]:
    """Yield what is wrong with the table: code that is not unique, and synchronisation that no mutant removes."""
    covered: dict[str, list[range]] = {}
    for entry in (*MUTANTS, *EQUIVALENT):
        text = _source(entry.file)
        if text.count(entry.old) != 1:
            yield f"{entry.file}: found {text.count(entry.old)} times: {entry.old!r}"
        else:
            start = text.index(entry.old)
            covered.setdefault(entry.file, []).append(range(start, start + len(entry.old)))
    for path in sorted((builder.ROOT / builder.KERNELS).rglob("*.cu*")):
        name = str(path.relative_to(builder.ROOT / builder.KERNELS))
        for match in SYNCHRONISATION.finditer(text := path.read_text()):
            if not any(match.start() in span for span in covered.get(name, [])):
                line = text.count("\n", 0, match.start()) + 1
                yield f"{name}:{line}: no mutant removes this {match[0]}, nor is it said to be equivalent"


def _source(file: str) -> str:
    return (builder.ROOT / builder.KERNELS / file).read_text()


def _try(base: Path, mutant: Mutant) -> str:
    """Return how a mutant was caught, MISSED or ERROR."""
    try:
        library = _mutated_library(base, mutant)
        verdict = _judge(library, (mutant.tests, mutant.select))
        library.unlink()
    except TableError as error:
        return f"ERROR: {error}"
    return verdict or "MISSED"


def _mutated_library(base: Path, mutant: Mutant) -> Path:
    """Build the checker library with the mutant in it and return its path."""
    source, unit = builder.KERNELS / mutant.file, builder.KERNELS / mutant.unit
    if not (builder.ROOT / unit).exists():
        unit = builder.HERE / "entries" / mutant.unit
    text = _source(mutant.file).replace(mutant.old, mutant.new)
    folder = OUT / f"{os.getpid()}"
    shutil.rmtree(folder / "cuda", ignore_errors=True)
    changed = folder / "cuda" / (mutant.file + (".cpp" if source.suffix == ".cu" else ""))
    changed.parent.mkdir(parents=True, exist_ok=True)
    changed.write_text(translate(text, source) if source.suffix in (".cu", ".cuh") else text)
    compiled = builder.BUILD / "src" / f"{unit}.cpp" if unit.suffix == ".cu" else unit
    target, library = folder / "mutant.o", folder / f"{os.getpid()}.so"
    flags = f"-I{folder} {builder.COMMON_FLAGS} {builder.unit_flags('check', unit)} -w -c -o {target}"
    _run("g++", *flags.split(), changed if unit == source else compiled)
    # First, so that its templates win over the same ones in other objects.
    script = (base.parent / "build.ninja").read_text()
    link_flags = re.search(r"rule link\n +command = g\+\+ -o \$out \$in (.*)", script)[1].split()
    objects = re.search(r": link ([^|\n]*)", script)[1].split()
    others = [name for name in objects if not name.endswith(f"/{compiled}.o")]
    _run("g++", "-o", library, target, *others, *link_flags)
    return library


def _run(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), cwd=builder.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TableError(f"the mutant does not compile:\n{done.stderr[:2000]}")


def _judge(library: Path, selection: tuple[str, str]) -> str:
    """Return how the chosen tests fail on a library, or nothing if they pass."""
    tests, select = selection
    log = OUT / f"{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        os._exit(_run_tests(library, tests, select, log))
    _, status = os.waitpid(child, 0)
    output = log.read_text()
    if os.WIFSIGNALED(status):
        end = os.WTERMSIG(status)
        return f"no end: {CPU_SECONDS} s" if end == signal.SIGXCPU else f"crash: {signal.Signals(end).name}"
    code = os.WEXITSTATUS(status)
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise TableError(f"{tests} -k {select!r} cannot be run:\n{output[-2000:]}")
    if code == pytest.ExitCode.OK:
        return ""
    report = re.search(r"^E +simt\.emulator\.SimtError: \w+: (.*)", output, re.MULTILINE)
    failure = re.search(r"^E +(.*)", output, re.MULTILINE)
    return f"report: {report[1]}" if report else f"wrong result: {failure[1] if failure else ''}"


def _run_tests(library: Path, tests: str, select: str, log: Path) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    emulator.build = lambda *_: library
    arguments = [
        "-x",
        "-q",
        "--no-header",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "-k",
        f"({select}) and not ({OTHER_SCHEDULES})",
    ]
    with log.open("w") as output, redirect_stdout(output), redirect_stderr(output):
        return pytest.main([*arguments, str(builder.ROOT / builder.HERE / tests)])


if __name__ == "__main__":
    main()
