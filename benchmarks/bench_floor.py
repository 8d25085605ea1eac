"""Modelled floors of the log-determinant on GPUs, and what is asked of them, counted: by our kernels, by plain torch.

    python benchmarks/bench_floor.py [--cases toy2d,mnist] [--cards h100] [--output FOLDER]

No GPU is needed and nothing is timed. Writes bench_floor.json and bench_floor.md. benchmarks/README.md says what the
columns mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from baselines import TITLES, make_step
    from cards import CARDS, Card
    from cases import CASES, Problem, build, step_flops
    from emulated import Work, emulate, least_bytes
    from text_table import table
    from traffic import Traffic, count
except ModuleNotFoundError as error:
    sys.exit(f"bench_floor: the module {error.name} is missing; run `make build`, which installs all it needs.")

RESULTS = Path(__file__).parent / "results"
BASELINES = ("series", "explicit")
Record = dict[str, Any]

_NOTES = """\
Nothing here was measured. Modelled: floor, the larger of the multiply-adds at the card's full rate and of the bytes no
implementation avoids (operands read once, results written once) at the full rate of its memory; with TF32, products at
the tensor cores' rate. Counted: kernels, in the emulator's log of launches; for plain torch, operations that
compute something, in torch's profiler on a CPU (on a GPU each is one kernel or more). Counted: MB, for ours all that
threads ask of global memory (so also what a cache answers), for plain torch the inputs and outputs of every operation.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run."""
    options = parse(arguments)
    records = []
    for name in options.cases:
        problem = build(CASES[name])
        plain = {baseline: count(make_step(baseline, problem, "eval")) for baseline in BASELINES}
        for card in options.cards:
            print(f"bench_floor: {name} on {CARDS[card].title}", file=sys.stderr, flush=True)
            records.append(record(name, problem, CARDS[card], emulate(problem, card), plain))
    text = f"{tables(records)}\n\n{_NOTES}"
    print(text)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "bench_floor.json").write_text(json.dumps(records, indent=1) + "\n")
    (options.output / "bench_floor.md").write_text(f"# Floors on a GPU, modelled; work, counted\n\n{text}")
    print(f"Written: {options.output}/bench_floor.json, bench_floor.md")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked options."""
    parser = argparse.ArgumentParser(description="Model floors of the log-determinant on GPUs and count its work.")
    for option, known in (("--cases", CASES), ("--cards", CARDS)):
        parser.add_argument(option, default=tuple(known), type=lambda text, known=known: _choice(text, known),
                            help=f"comma-separated, of {', '.join(known)}")  # fmt: skip
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the files")
    return parser.parse_args(arguments)


def _choice(text: str, known: dict[str, Any]) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown {unknown[0]!r}; there are {', '.join(known)}")
    return names


def record(name: str, problem: Problem, card: Card, ours: Work, plain: dict[str, Traffic]) -> Record:
    """Return one line of the tables; every figure says in its name whether it is modelled or counted."""
    multiply_adds = step_flops(problem, "eval") // 2
    compute, memory = multiply_adds / card.fma_per_us, least_bytes(problem) / card.bytes_per_us
    return {
        "case": name,
        "batch": len(problem.x),
        "terms": len(problem.coefficients),
        "card": card.title,
        "card_source": card.source,
        "multiply_adds": multiply_adds,
        "least_bytes": least_bytes(problem),
        "modelled_products_us": compute,
        "modelled_memory_us": memory,
        "modelled_floor_us": max(compute, memory),
        "modelled_floor_tf32_us": max(multiply_adds / card.tf32_fma_per_us, memory),
        "counted_kernels": len(ours.kernels),
        "counted_bytes": ours.bytes,
        "kernels": list(ours.kernels),
        "plain": {
            baseline: {"counted_operations": traffic.launches, "counted_bytes": traffic.bytes}
            for baseline, traffic in plain.items()
        },
    }


def tables(records: Sequence[Record]) -> str:
    """Return the floors and the counts as Markdown."""
    floors = [
        [
            r["case"],
            r["card"],
            str(r["batch"]),
            f"{r['multiply_adds'] / 1e6:.0f}",
            f"{r['modelled_products_us']:.1f}",
            f"{r['modelled_memory_us']:.2f}",
            f"{r['modelled_floor_us']:.1f}",
            f"{r['modelled_floor_tf32_us']:.1f}",
        ]
        for r in records
    ]
    counts = [
        [
            r["case"],
            r["card"],
            str(r["counted_kernels"]),
            *(str(r["plain"][b]["counted_operations"]) for b in BASELINES),
            f"{r['least_bytes'] / 1e6:.2f}",
            f"{r['counted_bytes'] / 1e6:.2f}",
            *(f"{r['plain'][b]['counted_bytes'] / 1e6:.1f}" for b in BASELINES),
        ]
        for r in records
    ]
    head = ["modelled", "card", "batch", "M multiply-adds", "products us", "memory us", "floor us", "floor us, TF32"]
    plain = [TITLES[b] for b in BASELINES]
    columns = ["kernels", *(f"{title} operations" for title in plain), "least MB", "MB", *(f"{t} MB" for t in plain)]
    return f"{table(head, floors)}\n\n{table(['counted', 'card', *columns], counts)}"


if __name__ == "__main__":
    main()
