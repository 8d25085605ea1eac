"""The tables of bench_branches.py: all rows as printed, and README's, which leaves out those of single activations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from machine import Record, setting
from text_table import put_between, table

BEGIN, END = "<!-- branches-table:begin -->", "<!-- branches-table:end -->"
EMPTY = "Not measured yet."
# Least ratios of a baseline to ours: of the twin in training on small rows, and of any in any mode, where what two
# interleaved medians of the same code differ by is left to the noise.
TRAINING, NEVER_SLOWER = 3.0, 0.97
_TITLES = {"twin": "the twin", "explicit": "explicit", "by hand": "by hand"}


def ratio(record: Record, name: str) -> float:
    """Return how many times faster ours is than a baseline."""
    return float(record["baselines"][name] / record["ours_ms"])


def best_explicit(record: Record) -> str:
    """Return the faster of the explicit formulas."""
    return min((name for name in record["baselines"] if name != "twin"), key=record["baselines"].__getitem__)


def missed(record: Record) -> list[str]:
    """Return the targets that a record misses, as parts of a sentence."""
    found = []
    if record["mode"] == "train" and record["small"] and ratio(record, "twin") < TRAINING:
        found.append(f"{ratio(record, 'twin'):.2f}x the twin, not {TRAINING:g}x")
    for name in record["baselines"]:
        if ratio(record, name) < NEVER_SLOWER:
            found.append(f"{ratio(record, name):.2f}x {_TITLES[name]}")
    return found


def _table(records: Sequence[Record]) -> str:
    by_row: dict[str, dict[str, Record]] = {}
    for record in records:
        by_row.setdefault(record["row"], {})[record["mode"]] = record
    rows = []
    for name, modes in by_row.items():
        first = next(iter(modes.values()))
        cells = [name, first["branch"], str(first["batch"])]
        for mode in ("train", "eval"):
            record = modes[mode]
            explicit = best_explicit(record)
            mark = "*" * (explicit == "by hand")
            cells += [f"{record['ours_ms']:.3g}", f"{ratio(record, 'twin'):.1f}x"]
            cells.append(f"{ratio(record, explicit):.2f}x{mark}")
        rows.append(cells)
    header = ["", "branch", "batch", "train ms", "vs twin", "vs explicit", "eval ms", "vs twin", "vs explicit"]
    return table(header, rows)


def report(records: Sequence[Record]) -> str:
    """Return the table of all rows, their errors, and the targets that were missed."""
    rows = []
    for record in records:
        errors = record["errors"]
        cells = [f"{errors[name]:.1e}" if name in errors else "-" for name in ("ours", *_TITLES)]
        times = [f"{record['baselines'][name]:.3g}" if name in record["baselines"] else "-" for name in _TITLES]
        rows.append([record["row"], record["mode"], f"{record['ours_ms']:.3g}", *times, *cells])
    heads = [*("ours", *_TITLES.values()), *(f"error of {name}" for name in ("ours", *_TITLES.values()))]
    details = table(["milliseconds", "mode", *heads], rows)
    lines = [f"{record['row']}, {record['mode']}: {', '.join(missed(record))}" for record in records if missed(record)]
    verdict = "\n".join(["Targets missed:", "", *(f"- {line}" for line in lines)]) if lines else "All targets met."
    return "\n\n".join([setting(records), _table(records), details, verdict])


def readme_block(records: Sequence[Record]) -> str:
    """Return README's table and what it was measured on."""
    if not records:
        return EMPTY
    shown = [record for record in records if record["group"] != "activation"]
    return f"{_table(shown)}\n\nMeasured on {setting(records)}."


def read(results: Path) -> list[Record]:
    """Return the records of the published run in a folder of results; none if there was none."""
    path = results / "bench_branches.json"
    records: list[Record] = json.loads(path.read_text()) if path.exists() else []
    return records


def write_readme(readme: Path, results: Path) -> int:
    """Put the table between README's markers and return of how many records.

    Args:
        readme: the file, which must have the two markers.
        results: the folder of the published run.

    Raises:
        ValueError: a marker is missing.
    """
    records = read(results)
    put_between(readme, BEGIN, END, readme_block(records))
    return len(records)
