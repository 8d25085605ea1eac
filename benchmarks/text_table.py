"""Tables in Markdown, which read well on a terminal too, and their place in a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its first two columns left-aligned and the others right-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = []
    for row in (header, rule, *rows):
        cells = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def put_between(document: Path, begin: str, end: str, block: str) -> None:
    """Write a block between two markers of a document.

    Raises:
        ValueError: a marker is missing.
    """
    head, found, rest = document.read_text().partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{document} must have the lines {begin} and {end}, between which the table goes; add them.")
    document.write_text(f"{head}{begin}\n{block}\n{end}{tail}")
