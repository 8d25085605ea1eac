"""The records of a first run on a GPU: results.jsonl, and report.md made of it. Imports no torch.

A record is one flat JSON object: "step", "table" (records of a table have one header), "card", and what was measured.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]

RESULTS, REPORT, LOG = "results.jsonl", "report.md", "log.txt"  # LOG: what the steps print
_COMMON = ("step", "table", "card")
TIMES = "times"  # the table of records as gpu_records.py describes them
OURS = "ours"
_INTRODUCTION = """\
Written by `benchmarks/gpu_first_run.py` from results.jsonl after every step. Errors are relative to float64; `us` and
`ms` are GPU time unless they say host. Of `calibrate`: a choice is one among all ways timed of a shape and precision,
resident plans and the layered way, and good if what the model takes was measured within 5 % of the fastest; *resident
or layered* is the choice between the layered way and the resident plan that the model takes.
"""


def card_folder(card: str) -> str:
    """Return the name of the folder below benchmarks/results that a card's records are kept in."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def append(folder: Path, records: Iterable[Record], anew: bool = False) -> None:
    """Add records to the results of a folder, one line each and on disk on return; `anew` replaces those there."""
    path = folder / RESULTS
    lines = "".join(json.dumps(record) + "\n" for record in records)  # may be read from the file that is emptied next
    with open(path, "w+b" if anew else "a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)  # half a line, if a writer was killed within it
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> list[Record]:
    """Return the records of a folder; the last line may have been cut off by a kill."""
    path = folder / RESULTS
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def write_report(folder: Path) -> None:
    """Write report.md from the records so far."""
    records = read(folder)
    cards = sorted({record["card"] for record in records})
    parts = [f"# First run on {', '.join(cards)}\n\n{_INTRODUCTION}"]
    for title, rows in tables(records):
        parts.append(f"## {title}\n\n" + "\n".join(markdown(rows)) + "\n")
    text = "\n".join(parts)
    unfinished = folder / f"{REPORT}.tmp"
    unfinished.write_text(text)
    unfinished.replace(folder / REPORT)


def tables(records: Iterable[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Yield title and rows of every table, the endings of the steps first."""
    grouped: dict[str, list[Record]] = {"endings": []}
    for record in records:
        title = "endings" if record["table"] == "endings" else f"{record['step']}: {record['table']}"
        hidden = _COMMON[1:] if title == "endings" else _COMMON
        grouped.setdefault(title, []).append({key: value for key, value in record.items() if key not in hidden})
    return (
        (title, compared(rows) if title.endswith(f": {TIMES}") else rows) for title, rows in grouped.items() if rows
    )


def compared(rows: list[Record]) -> list[Record]:
    """Return a row for what was timed together: ours beside the fastest baseline, launched in the same way and anyhow.

    A baseline may be faster eagerly: a graph of it computes all terms of a roulette.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    anyhow: dict[tuple[Any, ...], float] = {}  # microseconds of the fastest baseline
    for row in rows:
        *key, launch = (row[name] for name in ("case", "batch", "mode", "precision", "launch"))
        groups.setdefault((*key, launch), []).append(row)
        if row["gpu_us"] and row["implementation"] != OURS:
            anyhow[tuple(key)] = min(row["gpu_us"], anyhow.get(tuple(key), row["gpu_us"]))
    return [_comparison(key, group, anyhow.get(key[:-1])) for key, group in groups.items()]


def _comparison(key: tuple[Any, ...], group: list[Record], anyhow: float | None) -> Record:
    timed = [row for row in group if row["gpu_us"]]
    ours = next((row for row in timed if row["implementation"] == OURS), None)
    best = min((row for row in timed if row is not ours), key=lambda row: row["gpu_us"], default=None)
    line = dict(zip(("case", "batch", "mode", "precision", "launch"), key, strict=True))
    for title, row in (("ours", ours), ("best", best)):
        for name in ("gpu_us", "host_us", "error"):
            line[f"{title} {name}"] = None if row is None else row[name]
    line["best is"] = None if best is None else best["implementation"]
    if ours is not None and best is not None:
        line["ratio"], line["spread"] = best["gpu_us"] / ours["gpu_us"], ours["spread"] + best["spread"]
    if ours is not None and anyhow is not None:
        line["ratio to any launch"] = anyhow / ours["gpu_us"]
    line["failed"] = "; ".join(f"{row['implementation']}: {row['failed']}" for row in group if row["failed"])[:200]
    return line


def markdown(rows: list[Record]) -> list[str]:
    """Return a Markdown table, its columns aligned; a column for every key of any row."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys, *([_text(row.get(key)) for key in keys] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(keys))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "/").replace("\n", " ")


def summary(records: Iterable[Record], lines: int) -> str:
    """Return the tables in at most so many lines: each gets its share, and says how many rows were left out."""
    wanted = [(title, markdown(rows)) for title, rows in tables(records)]
    left, kept = lines, []
    for i, (title, table) in enumerate(wanted):
        share = max(4, left // (len(wanted) - i)) - 2  # its title, and the empty line before
        more = len(table) - share + 1
        shown = table if more <= 1 else [*table[: share - 1], f"... {more} more in {REPORT}"]
        if len(shown) + 2 > left:
            break
        kept.append("\n".join([f"\n{title}", *(line[:200] for line in shown)]))
        left -= len(shown) + 2
    return "\n".join(kept)
