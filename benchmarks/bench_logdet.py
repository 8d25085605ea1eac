"""The main benchmark: log-determinants of residual blocks and their training steps, ours against plain PyTorch.

    python benchmarks/bench_logdet.py             all cases, a few minutes
    python benchmarks/bench_logdet.py --quick     two cases, under a minute
    python benchmarks/bench_logdet.py --full      all cases, compiled baseline everywhere
    python benchmarks/bench_logdet.py --device cuda [--tf32]

Prints tables and writes a JSON file and a plot. benchmarks/README.md says what every column means.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    import torch
    from accuracy import errors
    from baselines import MODES
    from cases import CASES, build
    from machine import Record
    from measure import measure
    from plot import draw
    from report import tables, write_json
    from tqdm import tqdm

    from iresnet_fast import _library
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
    parser.add_argument("--cases", type=_cases, help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tf32", action="store_true", help="on a GPU, every implementation multiplies in TF32")
    parser.add_argument("--threads", type=_positive, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--terms", type=_positive, help="terms of the series (default: those of each case)")
    parser.add_argument("--seconds", type=float, help="time for the rounds of one case and mode")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON file and the plot")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a CPU build"
        parser.error(f"--device cuda needs a GPU that torch can use; this torch {built} and finds none: use cpu.")
    if options.device == "cuda" and not _library.HAS_CUDA:
        parser.error(f"--device cuda needs the CUDA kernels, which are unavailable: {_library.CUDA_ERROR}.")
    if options.tf32 and options.device != "cuda":
        parser.error("--tf32 is for --device cuda.")
    # Only a run of everything, as it comes, may replace the published figures.
    options.published = not (
        options.quick or options.cases or options.terms or options.threads or options.device == "cuda"
    )
    options.cases = options.cases or (QUICK_CASES if options.quick else tuple(CASES))
    seconds, options.rounds = QUICK_TIME if options.quick else TIME
    if options.seconds is None:
        options.seconds = seconds
    return options


def _cases(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown case {unknown[0]!r}; the cases are {', '.join(CASES)}")
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> list[Record]:
    """Measure every case and mode, with a progress bar."""
    records = []
    form = "{percentage:3.0f}% |{bar:30}| {elapsed}<{remaining} {desc}"
    with tqdm(total=float(len(options.cases) * len(MODES)), bar_format=form) as bar:
        for name in options.cases:
            case = CASES[name]
            bar.set_description_str(f"{name}: preparing")
            problem = build(case, options.terms).to(options.device)
            measured = errors(problem)
            compiled = options.full or (name in COMPILED_BY_DEFAULT and not options.quick)
            for mode in MODES:
                done = float(len(records))

                def progress(what: str, share: float, done: float = done) -> None:
                    bar.set_description_str(what, refresh=False)
                    bar.update(done + share - bar.n)

                time = (options.seconds, options.rounds)
                records.append(measure(case, problem, mode, compiled, *time, measured, progress))
    return records


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(arguments)
    # For every implementation: without this, torch's convolutions would be TF32 and its matrix products not.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    if options.threads:
        torch.set_num_threads(options.threads)
    records = run(options)
    print(tables(records))
    stem = options.output / ("bench_logdet" if options.published else "bench_logdet_quick")
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(records, stem.with_suffix(".json"))
    draw(records, stem.with_suffix(".png"))
    print(f"\nWritten: {stem}.json, {stem}.png")


if __name__ == "__main__":
    main()
