"""Modelled floors of the log-determinant on GPUs, and ours and plain torch beside them: modelled, and counted.

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
    from baselines import MODES, TITLES, make_step
    from cards import CARDS, Card
    from cases import CASES, Problem, build, step_flops
    from emulated import Work, emulate, least_bytes
    from gpu_cases import GPU_CASES
    from modelled import PRECISIONS, abstract_problem, card_model, step_model, torch_operations
    from text_table import table
    from traffic import Traffic, count
except ModuleNotFoundError as error:
    sys.exit(f"bench_floor: the module {error.name} is missing; run `make build`, which installs all it needs.")

RESULTS = Path(__file__).parent / "results"
BASELINES = ("series", "explicit")
# The sizes of a Residual Flow are modelled only: the emulator would take hours for them.
MODELLED = CASES | {name: GPU_CASES[name] for name in ("rf16", "rf8", "rf4")}
KERNELS_OF = "h100"  # the card whose kernels the tables list one by one
Record = dict[str, Any]

_NOTES = """\
Nothing here was measured. *Ours* and *torch* are modelled with the constants of csrc/cuda/plan/constants.h, both as
CUDA graphs on weights that are already normalised, in float32 and with operands of products rounded to TF32. *Ours*:
every kernel that the plans launch, packing of weights and conversions of rows included; left out is what an epilogue
reads and writes beyond one buffer of rows each. *torch*: the operations of (iii), images channels last; left out are
conversions of memory formats, operations on the coefficients alone, and all that an operation launches beyond one
kernel, and its products run at the libraries' full rate whatever their shape. *Fused*: the same with all operations
between two products in one launch, which no compiler betters that leaves products to libraries. *Floor*: the larger
of the multiply-adds at the card's full rate and of the bytes no implementation avoids (operands read once, results
written once) at the full rate of its memory; with TF32, products at the tensor cores' rate. Counted: kernels, in the
emulator's log of launches; for plain torch, operations that compute something, in torch's profiler on a CPU (on a GPU
each is one kernel or more). Counted: MB, for ours all that threads ask of global memory (so also what a cache
answers), for plain torch the inputs and outputs of every operation.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run."""
    options = parse(arguments)
    modelled = model(options.cases, options.cards)
    counted = []
    for name in (name for name in options.cases if name in CASES):
        problem = build(CASES[name])
        plain = {baseline: count(make_step(baseline, problem, "eval")) for baseline in BASELINES}
        for card in options.cards:
            print(f"bench_floor: {name} on {CARDS[card].title}", file=sys.stderr, flush=True)
            counted.append(record(name, problem, CARDS[card], emulate(problem, card), plain))
    parts = [*(modelled_table(modelled, mode) for mode in MODES), *([tables(counted)] if counted else []), _NOTES]
    if KERNELS_OF in options.cards:
        parts.insert(-1, kernel_table(modelled, CARDS[KERNELS_OF]))
    text = "\n\n".join(parts)
    print(text)
    options.output.mkdir(parents=True, exist_ok=True)
    records = {"modelled": modelled, "counted": counted}
    (options.output / "bench_floor.json").write_text(json.dumps(records, indent=1) + "\n")
    (options.output / "bench_floor.md").write_text(
        f"# On a GPU: modelled floors, ours and torch; work, counted\n\n{text}"
    )
    print(f"Written: {options.output}/bench_floor.json, bench_floor.md")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked options."""
    parser = argparse.ArgumentParser(description="Model floors of the log-determinant on GPUs and count its work.")
    for option, known in (("--cases", MODELLED), ("--cards", CARDS)):
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


def model(cases: Sequence[str], cards: Sequence[str]) -> list[Record]:
    """Return what a step of each case is modelled to cost on each card: ours, torch's, and the floor."""
    records = []
    for name in cases:
        case, problem = MODELLED[name], abstract_problem(MODELLED[name])
        operations = {mode: torch_operations(case, mode) for mode in MODES}
        for card in cards:
            known = card_model(card)
            records += [
                {
                    "case": name,
                    "card": CARDS[card].title,
                    "precision": precision,
                    "mode": mode,
                    "modelled_floor_us": max(floor(problem, CARDS[card], mode, precision)),
                    **step_model(case, mode, card, precision, known, operations[mode]),
                }
                for mode in MODES
                for precision in PRECISIONS
            ]
    return records


def floor(problem: Problem, card: Card, mode: str, precision: str) -> tuple[float, float]:
    """Return the microseconds of the products, and of the bytes no implementation avoids, at the card's full rates."""
    rate = card.tf32_fma_per_us if precision == "tf32" else card.fma_per_us
    return step_flops(problem, mode) // 2 / rate, least_bytes(problem, mode) / card.bytes_per_us


def modelled_table(records: Sequence[Record], mode: str) -> str:
    """Return ours beside the floor and torch as Markdown, for one mode."""
    rows = [
        [
            r["case"],
            r["card"],
            r["precision"],
            str(r["modelled_launches"]),
            f"{r['modelled_slots'] / 1e3:.0f}",
            f"{r['modelled_bytes'] / 1e6:.1f}",
            f"{r['modelled_us']:.1f}",
            f"{r['modelled_floor_us']:.1f}",
            f"{r['torch_operations']}, {r['fused_launches']}",
            f"{r['torch_modelled_us']:.1f}",
            f"{r['fused_modelled_us']:.1f}",
            f"{r['modelled_ratio']:.2f}",
            f"{r['fused_ratio']:.2f}",
        ]
        for r in records
        if r["mode"] == mode
    ]
    head = [f"ours, modelled, {mode}", "card", "precision", "launches", "k slots", "MB", "us", "floor us",
            "torch launches, fused", "torch us", "fused us", "torch / ours", "fused / ours"]  # fmt: skip
    return table(head, rows)


def kernel_table(records: Sequence[Record], card: Card) -> str:
    """Return the kernels of every step on a card as Markdown."""
    rows = [
        [
            r["case"],
            r["mode"],
            r["precision"],
            kernel["name"],
            str(kernel["launches"]),
            f"{kernel['slots'] / 1e3:.1f}",
            f"{kernel['bytes'] / 1e6:.2f}",
            f"{kernel['us']:.1f}",
        ]
        for r in records
        if r["card"] == card.title
        for kernel in r["kernels"]
    ]
    head = [f"ours, modelled, {card.title}", "mode", "precision", "kernel", "launches", "k slots", "MB", "us"]
    return table(head, rows)


def record(name: str, problem: Problem, card: Card, ours: Work, plain: dict[str, Traffic]) -> Record:
    """Return one line of the tables; every figure says in its name whether it is modelled or counted."""
    compute, memory = floor(problem, card, "eval", "float32")
    return {
        "case": name,
        "batch": len(problem.x),
        "terms": len(problem.coefficients),
        "card": card.title,
        "card_source": card.source,
        "multiply_adds": step_flops(problem, "eval") // 2,
        "least_bytes": least_bytes(problem),
        "modelled_products_us": compute,
        "modelled_memory_us": memory,
        "modelled_floor_us": max(compute, memory),
        "modelled_floor_tf32_us": max(floor(problem, card, "eval", "tf32")),
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
