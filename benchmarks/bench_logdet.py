"""The main benchmark: log-determinants of residual blocks and their training steps, ours against plain PyTorch.

    python benchmarks/bench_logdet.py             all cases, a few minutes
    python benchmarks/bench_logdet.py --quick     two cases, under a minute
    python benchmarks/bench_logdet.py --full      all cases, compiled baseline everywhere
    python benchmarks/bench_logdet.py --precision bf16    ours alone, under autocast to bfloat16 beside float32
    python benchmarks/bench_logdet.py --device cuda [--precision float32,tf32,bf16]

Prints tables and writes a JSON file and a plot; on a GPU, a table and JSON lines. benchmarks/README.md says what every
column means.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

try:
    import cpu_precision
    import gpu_logdet
    import torch
    from accuracy import errors
    from baselines import HAS_NORMFLOWS, MODES
    from cases import CASES, build, missing_module
    from gpu_cases import GPU_CASES
    from gpu_records import QUICK
    from graphs import LEAST_SECONDS
    from machine import Record
    from measure import measure
    from precision import add_options, check_options
    from report import tables, write_json
    from report_gpu import keep
except ModuleNotFoundError as error:
    sys.exit(f"bench_logdet: the module {error.name} is missing; run `make bench`, which installs all it needs.")

RESULTS = Path(__file__).parent / "results"
QUICK_CASES = COMPILED_BY_DEFAULT = ("toy2d", "mnist")
# Per case and mode, (seconds, least number of rounds): the widest cases get the least number.
TIME, QUICK_TIME = (6.0, 5), (3.0, 3)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked options."""
    parser = argparse.ArgumentParser(
        description="Time log-determinants of residual blocks, ours against plain PyTorch.", epilog="Exit status 0 "
        "says that everything ran, not that the floors were met: the table says that.",
    )  # fmt: skip
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="two cases, no compiled baseline: under 60 s")
    extent.add_argument("--full", action="store_true", help="the compiled baseline on all cases, not just on two")
    known = f"comma-separated, of {', '.join(CASES)}; on a GPU, of {', '.join(GPU_CASES)}"
    parser.add_argument("--cases", type=lambda text: tuple(text.split(",")), help=known)
    add_options(parser)
    parser.add_argument("--threads", type=_positive, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--terms", type=_positive, help="terms of the series (default: those of each case)")
    parser.add_argument(
        "--seconds", type=float, help="time for the rounds of one case and mode; on a GPU, least time of a reading"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    check_options(parser, options, bf16_on_cpu=True)
    on_gpu = options.device == "cuda"
    there = GPU_CASES if on_gpu else CASES
    for name in options.cases or ():
        if name not in there:
            parser.error(f"unknown case {name!r}; the cases are {', '.join(there)}")
    wanted = options.cases or (QUICK_CASES if options.quick else tuple(there))
    missing = {} if on_gpu else {name: module for name in wanted if (module := missing_module(CASES[name]))}
    options.left_out = [f"case {name}: the module {module} is missing" for name, module in missing.items()]
    if len(missing) == len(wanted):
        parser.error(f"nothing is left to measure; {'; '.join(options.left_out)}.")
    if not HAS_NORMFLOWS:
        options.left_out.append("normflows' block: the module normflows is missing")
    options.draws = not on_gpu and find_spec("matplotlib") is not None
    if not (on_gpu or options.draws):
        options.left_out.append("the plot: the module matplotlib is missing")
    # Only a run of everything, as it comes, may replace the published figures; a GPU's are lines beside each other.
    changed = options.quick or options.terms
    changed = changed or (not on_gpu and (options.cases or options.threads or options.left_out))
    options.published = not changed
    options.cases = tuple(name for name in wanted if name not in missing)
    seconds, options.rounds = QUICK_TIME if options.quick else TIME
    if options.seconds is None:
        options.seconds = LEAST_SECONDS if on_gpu else seconds
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[str, float], None]]:
    """Yield what takes a few words and how much of `total` is done: for a bar, or for lines without rich."""
    if find_spec("rich") is None:
        yield lambda what, completed: print(f"bench_logdet: {what}", file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(30), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    # Drawn by this thread between two measurements: one of its own would draw during them.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task("", total=total)
        yield lambda what, completed: bar.update(task, description=what, completed=completed, refresh=True)


def run(options: argparse.Namespace) -> list[Record]:
    """Measure every case and mode, with a progress bar."""
    records = []
    with progress_bar(len(options.cases) * len(MODES)) as show:
        for name in options.cases:
            case = CASES[name]
            show(f"{name}: preparing", len(records))
            problem = build(case, options.terms)
            measured = errors(problem)
            compiled = options.full or (name in COMPILED_BY_DEFAULT and not options.quick)
            for mode in MODES:
                done = len(records)

                def progress(what: str, share: float, done: int = done) -> None:
                    show(what, done + share)

                time = (options.seconds, options.rounds)
                records.append(measure(case, problem, mode, compiled, *time, measured, progress))
    return records


def run_bf16(options: argparse.Namespace) -> str:
    """Time ours in float32 and under autocast to bfloat16 in every case and mode on a CPU; return the table."""
    records = []
    for name in options.cases:
        print(f"bench_logdet: {name}", file=sys.stderr, flush=True)
        problem = build(CASES[name], options.terms)
        records += cpu_precision.compare(CASES[name], problem, options.seconds, options.rounds)
    return cpu_precision.summary(records)


def run_gpu(options: argparse.Namespace, device: str, scale: float = 1.0) -> str:
    """Time all cases, modes and precisions on a GPU, or try to on a CPU; keep the records and return their table."""
    compiled = () if options.quick else options.cases if options.full else COMPILED_BY_DEFAULT
    records = gpu_logdet.run(
        [GPU_CASES[name] for name in options.cases], options.precision, compiled, device, options.terms, scale,
        options.seconds, lambda what: print(f"bench_logdet: {what}", file=sys.stderr, flush=True),
    )  # fmt: skip
    return keep(records, options.output, f"bench_logdet{'' if options.published else QUICK}", device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    for row in options.left_out:
        print(f"left out: {row}")
    if options.device == "cuda":
        print(run_gpu(options, "cuda"))
        return
    if options.precision:
        print(run_bf16(options))
        return
    records = run(options)
    print(tables(records))
    stem = options.output / f"bench_logdet{'' if options.published else QUICK}"
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(records, stem.with_suffix(".json"))
    written = [f"{stem}.json"]
    if options.draws:
        from plot import draw  # needs matplotlib

        draw(records, stem.with_suffix(".png"))
        written.append(f"{stem}.png")
    print(f"\nWritten: {', '.join(written)}")


if __name__ == "__main__":
    main()
