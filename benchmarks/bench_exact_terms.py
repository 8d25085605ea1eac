"""What exact terms of the log-determinant cost a whole flow: a training step, and an evaluation.

    python benchmarks/bench_exact_terms.py            all flows, about three minutes on two cores
    python benchmarks/bench_exact_terms.py --quick    a try in seconds, whose figures mean little

A training step is the loss, its gradient and Adam's step; an evaluation is log_prob without gradient. The flows of a
row are the same but for `exact_terms`, all with 10 terms in training and in evaluation, and take turns. A ratio is the
median over the turns of a flow's time by that of the flow without exact terms, and its error the standard error of that
median. What they buy, less variance, is in examples/estimator_variance.py.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

try:
    import torch
    from machine import Record, environment, setting
    from report import write_results
    from rich.progress import track
    from text_table import table
    from timing import interleave
except ModuleNotFoundError as error:
    sys.exit(f"bench_exact_terms: the module {error.name} is missing; run `make bench`, which installs all it needs.")

from iresnet_fast.estimators import PowerSeries
from iresnet_fast.models import FlowConfig, IResNetFlow

RESULTS = Path(__file__).parent / "results"
N_TERMS = 10
TERMS = {"train": (0, "auto", 1), "eval": (0, "auto", 1, 2)}
SECONDS, LEAST_TURNS, QUICK_TURNS = 15.0, 40, 3


class Row(NamedTuple):
    """A flow and its batch."""

    name: str
    config: FlowConfig
    batch: int


def _tabular(width: int, hidden: int, blocks: int) -> FlowConfig:
    return FlowConfig(event_shape=(width,), blocks=(blocks,), hidden=(hidden,))


ROWS = (
    Row("2-64-2, 10 blocks", _tabular(2, 64, 10), 256),
    Row("16-128-16, 10 blocks", _tabular(16, 128, 10), 1000),
    Row("64-128-64, 10 blocks", _tabular(64, 128, 10), 256),
    Row("64-128-64, 10 blocks", _tabular(64, 128, 10), 512),
    Row("43-256-43, 5 blocks", _tabular(43, 256, 5), 512),
    Row("1x8x8, 32 channels, 3-1-3, 4 blocks", FlowConfig(event_shape=(1, 8, 8), blocks=(4,), hidden=(32, 32)), 100),
)


def steps_of(row: Row, mode: str) -> dict[str, Callable[[], object]]:
    """Return a training step or an evaluation of the flow with each number of exact terms, by that number."""
    torch.manual_seed(0)
    x = torch.rand(row.batch, *row.config.event_shape)

    def step(exact_terms: int | str) -> Callable[[], object]:
        torch.manual_seed(0)
        series = PowerSeries(N_TERMS, exact_terms=exact_terms)
        flow = IResNetFlow(row.config.replace(train_estimator=series, eval_estimator=series))
        flow(x)  # initialises the ActNorms
        flow.train(mode == "train")
        if mode == "eval":
            return torch.no_grad()(lambda: flow.log_prob(x))
        optimizer = torch.optim.Adam(flow.parameters(), 1e-4)

        def train() -> None:
            optimizer.zero_grad(set_to_none=True)
            (-flow.log_prob(x).mean()).backward()
            optimizer.step()

        return train

    return {str(terms): step(terms) for terms in TERMS[mode]}


def measure(row: Row, mode: str, seconds: float, least_turns: int) -> Record:
    """Return the record of a row and mode."""
    steps = steps_of(row, mode)
    for _ in range(5):
        for step in steps.values():
            step()
    times = interleave(steps, seconds, least_turns, slice_seconds=0.0)  # one call of each in every turn
    ratios = {}
    for name in list(steps)[1:]:
        turns = [own / without for own, without in zip(times[name], times["0"], strict=True)]
        # The median of n normal numbers has the standard error sqrt(pi / 2) times that of their mean.
        error = math.sqrt(math.pi / 2 / len(turns)) * _spread(turns)
        ratios[name] = {"ratio": statistics.median(turns), "error": error}
    record = {"flow": row.name, "batch": row.batch, "mode": mode, "n_terms": N_TERMS, "turns": len(times["0"])}
    return {**record, "without_ms": 1e3 * statistics.median(times["0"]), "ratios": ratios, **environment()}


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation as the middle half of the values gives it, which outliers do not move."""
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 1.349


def _cell(ratio: dict[str, float]) -> str:
    return f"{ratio['ratio']:.3f} +- {ratio['error']:.3f}"


def report(records: Sequence[Record]) -> str:
    """Return the figures as a table."""
    rows = []
    for record in records:
        found = record["ratios"]
        cells = ["" if name not in found else _cell(found[name]) for name in ("auto", "1", "2")]
        rows.append([record["flow"], record["mode"], str(record["batch"]), f"{record['without_ms']:.2f}", *cells])
    header = ["flow", "", "batch", "ms without", "auto", "1 exact term", "2 exact terms"]
    return f"{setting(records)}; {N_TERMS} terms; times the time without exact terms\n\n{table(header, rows)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Time flows with exact terms of the log-determinant and without.")
    parser.add_argument("--quick", action="store_true", help="few turns, whose figures mean little")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        if options.threads < 1:
            parser.error(f"--threads must be positive, got {options.threads}; leave it out for torch's own choice")
        torch.set_num_threads(options.threads)
    seconds, turns = (0.0, QUICK_TURNS) if options.quick else (SECONDS, LEAST_TURNS)
    work = [(row, mode) for row in ROWS for mode in TERMS]
    records = [measure(row, mode, seconds, turns) for row, mode in track(work, "exact terms")]
    text = report(records)
    print(text)
    stem = options.output / f"bench_exact_terms{'_quick' if options.quick else ''}"
    write_results(records, text, stem)


if __name__ == "__main__":
    main()
