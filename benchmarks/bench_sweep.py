"""Never slower than plain torch on a CPU: 60 shapes of branches, ours against the explicit formula, eager and compiled.

    python benchmarks/bench_sweep.py                 all shapes, under 20 minutes on two cores
    python benchmarks/bench_sweep.py --quick         three shapes, no compiled baseline: under a minute
    python benchmarks/bench_sweep.py --full          the compiled baseline on all shapes, not just on every fourth
    python benchmarks/bench_sweep.py --fit           times both ways instead, and fits the constants of csrc/cpu/way.cpp

Prints a table and writes it with a JSON file and a plot. benchmarks/README.md says what is timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

try:
    import torch
    from baselines import MODES, TITLES, make_step, memory_formats
    from cases import Case
    from machine import Record, environment, setting
    from plot_sweep import draw
    from report import write_json
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from sweep_fit import LAYERS, TILES, fit, ways, work_of
    from sweep_shapes import COMPILED, QUICK, SHAPES, problem_of, products_of
    from text_table import table
    from timing import interleave, medians, trial
except ModuleNotFoundError as error:
    sys.exit(f"bench_sweep: the module {error.name} is missing; run `make bench`, which installs all it needs.")

RESULTS = Path(__file__).parent / "results"
FLOOR = 0.97  # least ratio of the best baseline to ours
SECONDS, QUICK_SECONDS = 1.5, 0.5
ROUNDS = 5


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked options."""
    parser = argparse.ArgumentParser(
        description="Time residual blocks of 60 shapes on a CPU, ours against the explicit formula in plain torch.",
        epilog="Exit status 0 says that everything ran, not that no shape is slower: the table says that.",
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="three shapes, no compiled baseline: under a minute")
    extent.add_argument("--full", action="store_true", help="the compiled baseline on all shapes")
    extent.add_argument("--fit", action="store_true", help="time both ways and fit the rule that chooses between them")
    parser.add_argument("--shapes", help="only those whose name contains this, e.g. 1024 or 4x4")
    parser.add_argument("--threads", type=_positive, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--seconds", type=float, help="time for the rounds of one shape and mode")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    names = QUICK if options.quick else tuple(SHAPES)
    options.names = tuple(name for name in names if (options.shapes or "") in name)
    if not options.names:
        parser.error(f"no shape has {options.shapes!r} in its name; the shapes are {', '.join(names)}")
    options.published = not (options.quick or options.fit or options.shapes or options.threads)
    if options.seconds is None:
        options.seconds = QUICK_SECONDS if options.quick else SECONDS
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def measure(shape: Case, mode: str, compiled: bool, seconds: float, progress: Callable[[float], object]) -> Record:
    """Return the record of a shape and mode: medians in milliseconds of interleaved calls."""
    problem = problem_of(shape)
    formats, steps = {}, {"ours": make_step("ours", problem, mode)}
    candidates = []
    for form in memory_formats("explicit", problem):
        step = make_step("explicit", problem.to(memory_format=form), mode)
        candidates.append((trial(step)[1], form, step))
    _, formats["explicit"], steps["explicit"] = min(candidates, key=lambda candidate: candidate[0])
    if compiled:
        steps["compiled"] = make_step("compiled", problem.to(memory_format=formats["explicit"]), mode)
    for step in steps.values():
        trial(step)
    times = medians(interleave(steps, seconds, ROUNDS, progress=progress))
    return {
        **_about(shape, mode),
        "ours_ms": 1e3 * times.pop("ours"),
        "baselines": {name: 1e3 * time for name, time in times.items()},
        "channels_last": formats["explicit"] == torch.channels_last,
        "layers": work_of(shape, mode)["layers"],
        **environment(),
    }


def measure_ways(shape: Case, mode: str, seconds: float, progress: Callable[[float], object]) -> Record:
    """Return the record of a shape and mode that `fit` takes: both ways, interleaved."""
    step = make_step("ours", problem_of(shape), mode)
    steps = {way: partial(ways(way), step) for way in (TILES, LAYERS)}
    for timed in steps.values():
        trial(timed)
    times = medians(interleave(steps, seconds, ROUNDS, progress=progress))
    return {
        **_about(shape, mode),
        "ways": {way: 1e3 * time for way, time in times.items()},
        **work_of(shape, mode),
        **environment(),
    }


def _about(shape: Case, mode: str) -> Record:
    return {"shape": shape.name, "mode": mode, "batch": shape.batch, "multiply_adds": products_of(shape)}


def run(options: argparse.Namespace) -> list[Record]:
    """Measure every shape and mode, with a progress bar."""
    records = []
    columns = (BarColumn(30), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    # Drawn by this thread between two measurements: one of its own would draw during them.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task("", total=len(options.names) * len(MODES))
        for name in options.names:
            compiled = not options.quick and (options.full or name in COMPILED)
            for mode in MODES:
                done = len(records)
                bar.update(task, description=f"{name} {mode}", refresh=True)

                def progress(share: float, done: int = done) -> None:
                    bar.update(task, completed=done + share, refresh=True)

                if options.fit:
                    records.append(measure_ways(SHAPES[name], mode, options.seconds, progress))
                else:
                    records.append(measure(SHAPES[name], mode, compiled, options.seconds, progress))
    return records


def ratio(record: Record) -> float:
    """Return how many times faster ours is than the fastest baseline."""
    return float(min(record["baselines"].values()) / record["ours_ms"])


def report(records: Sequence[Record]) -> str:
    """Return the table of the ratios, the slowest first, and how many are below the floor."""
    rows = []
    for record in sorted(records, key=ratio):
        best = min(record["baselines"], key=record["baselines"].__getitem__)
        value = ratio(record)
        rows.append(
            [
                record["shape"],
                record["mode"],
                "layers" if record["layers"] else "tiles",
                f"{record['ours_ms']:.3g}",
                f"{record['baselines']['explicit']:.3g}" + "*" * record["channels_last"],
                f"{record['baselines']['compiled']:.3g}" if "compiled" in record["baselines"] else "-",
                TITLES[best],
                f"{value:.2f}x" + (f" (>= {FLOOR:g}x: MISSED)" if value < FLOOR else ""),
            ]
        )
    missed = sum(ratio(record) < FLOOR for record in records)
    header = ["shape and batch", "mode", "way", "ours ms", TITLES["explicit"], TITLES["compiled"], "best is", "vs best"]
    verdict = f"{missed} of {len(records)} below {FLOOR:g}x." if missed else f"None of {len(records)} below {FLOOR:g}x."
    return f"{setting(records)}\n\n{table(header, rows)}\n\n{verdict} An asterisk: channels-last, where faster."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sweep, or fit the rule."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    records = run(options)
    text = fit(records) if options.fit else report(records)
    print(text)
    stem = options.output / f"bench_sweep{'_fit' if options.fit else '' if options.published else '_quick'}"
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(records, stem.with_suffix(".json"))
    written = [f"{stem}.json"]
    if not options.fit:
        stem.with_suffix(".md").write_text(text + "\n")
        draw(records, [ratio(record) for record in records], FLOOR, stem.with_suffix(".png"))
        written += [f"{stem}.md", f"{stem}.png"]
    print(f"\nWritten: {', '.join(written)}")


if __name__ == "__main__":
    main()
