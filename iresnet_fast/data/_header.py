"""Whether the first line of a file has the names of its columns, which may be numbers too."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

MISSING_TEXTS = (
    *("", "NA", "N/A", "n/a", "<NA>", "NaN", "nan", "null", "NULL", "?", "-"),
    *("None", "#N/A", "#NA", "-NaN", "-nan", "NAN", "."),  # of Python, Excel, C and SAS
)

_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?)", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+")
_FEW_WHOLE = 0.1  # of the cells of a column of fractions may happen to have none
_FAR = 3.0  # widths of a column beyond its ends, where no value of its own is expected
# A number of a column of this many digits has no more than those of a short one once in a thousand times.
_SHORT, _LONG = 4, 7
_LIKE = 5  # rows that are looked at for being what the first line is


class Header(NamedTuple):
    """What the first line is.

    Attributes:
        is_names: whether it has the names of the columns.
        is_clear: whether nothing speaks against that.
    """

    is_names: bool
    is_clear: bool


def number(cell: str, decimal: str = ".") -> float | None:
    """Return the number that a cell holds, or None."""
    text = cell.strip()
    if decimal != ".":
        text = "x" if "." in text else text.replace(decimal, ".")
    return float(text) if _NUMBER.fullmatch(text) else None


def is_missing_text(cell: str) -> bool:
    """Return whether a cell stands for a missing value."""
    return cell.strip() in MISSING_TEXTS


def find_header(first: Sequence[str], rows: Sequence[Sequence[str]], decimal: str) -> Header:
    """Return what the first line is, given the cells of some rows below it.

    Words over numbers are names. Numbers are names if they are whole over fractions, as 0, 1, 2 of a data frame or
    years are, short over long ones, far from all values of their columns, or evenly rising as no row below is.
    """
    values = [number(cell, decimal) for cell in first]
    words = [i for i, cell in enumerate(first) if values[i] is None and not is_missing_text(cell)]
    below = [[row[i] for row in rows if not is_missing_text(row[i])] for i in range(len(first))]
    numbers = [_all_numbers(cells, decimal) for cells in below]
    if any(numbers[i] for i in words):
        return Header(True, not any(value is not None for value in values))
    if any(first[i].strip() in map(str.strip, below[i]) for i in words):  # a text that recurs is no name
        return Header(False, len(words) < len(first))
    if words and all(value is None for value in values):
        return Header(True, True)
    if first[0].strip() == "" and (column := numbers[0]) and _is_running(column):
        return Header(True, True)  # the index of a data frame has no name
    heads = {i: value for i, value in enumerate(values) if value is not None and numbers[i]}
    gaps = [cell for cell in first[1:] if is_missing_text(cell)]  # no names but missing values
    if not heads or gaps or len(set(heads.values())) < len(heads):
        return Header(False, True)
    whole = all(re.fullmatch(r"\d+", first[i].strip()) for i in heads)
    fractions = all(sum(map(_is_whole, below[i])) <= _FEW_WHOLE * len(below[i]) for i in heads)
    far = len(rows) >= 3 and all(_is_far(head, numbers[i]) for i, head in heads.items())
    short = all(_digits(first[i]) <= _SHORT and _are_long(below[i]) for i in heads)
    if (whole and fractions and (len(heads) > 1 or far)) or ((far or short) and len(heads) > 1):
        return Header(True, False)
    lines = ([numbers[i][k] for i in heads if k < len(numbers[i])] for k in range(min(_LIKE, len(rows))))
    rising = _is_even(list(heads.values()))
    if rising and len(heads) > 2 and not any(map(_is_even, lines)):
        outside = any(not min(numbers[i]) <= head <= max(numbers[i]) for i, head in heads.items())
        if outside or len(heads) > 3:
            return Header(True, False)
    return Header(False, not (rising and (whole or len(heads) > 2)))


def _all_numbers(cells: list[str], decimal: str) -> list[float]:
    """Return the numbers of cells, none if one of them is something else."""
    found = [number(cell, decimal) for cell in cells]
    return [] if None in found else [value for value in found if value is not None]


def _is_whole(cell: str) -> bool:
    return _WHOLE.fullmatch(cell.strip()) is not None


def _digits(cell: str) -> int:
    """Return how many digits a number is written with, those of its exponent left out."""
    return sum(map(str.isdigit, re.split("[eE]", cell)[0]))


def _are_long(cells: list[str]) -> bool:
    """Return whether nearly all numbers of a column are written with many digits."""
    return sum(_digits(cell) >= _LONG for cell in cells) >= (1.0 - _FEW_WHOLE) * len(cells)


def _is_running(values: list[float]) -> bool:
    return values[0] in (0.0, 1.0) and all(value == values[0] + i for i, value in enumerate(values))


def _is_far(head: float, column: list[float]) -> bool:
    low, high = min(column), max(column)
    margin = _FAR * (high - low)
    return margin > 0.0 and not low - margin <= head <= high + margin


def _is_even(values: list[float]) -> bool:
    """Return whether numbers rise by the same difference."""
    if len(values) < 2 or not values[1] > values[0]:
        return False
    step = values[1] - values[0]
    return all(math.isclose(b - a, step, rel_tol=1e-6) for a, b in itertools.pairwise(values))
