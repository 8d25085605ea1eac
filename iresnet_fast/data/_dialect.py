"""How a text file writes cells: its encoding, what separates them, and the mark of fractions."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from . import _files
from ._header import MISSING_TEXTS, number
from ._notes import note
from .dataset import DataError
from .source import TableOptions

_SAMPLE = 1 << 16  # characters that the separator is found out from
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SEPARATORS = {"tab": "\t", "\\t": "\t", "space": " "}
_FRACTION = re.compile(r"([+-]?\d+),(\d+)")
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")  # 1,234 is one number or another


def separated(text: str, options: TableOptions, separator: str) -> tuple[str, str]:
    """Return a text and what separates its cells, which spreadsheets write into a line of its own."""
    line = re.match(r'"?sep=(.)"?\r?\n', text)
    text = text[line.end() :] if line else text
    said = line.group(1) if line else separator
    known = _SEPARATORS.get(options.separator, options.separator) or said
    return text, known or (";" if _is_one_column(text, options.decimal) else _find_separator(text))


def decoded(where: str, content: bytes | bytearray, encoding: str) -> str:
    """Return bytes as text."""
    if not encoding:
        encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            if encoding != "utf-8":
                raise not_text(where, error) from None
            try:
                text = content.decode("cp1252")
            except UnicodeDecodeError:
                raise not_text(where, error) from None
            note(f"{where} is no UTF-8 text and was read as Windows-1252; pass encoding (--encoding) if it is another.")
    else:
        try:
            text = content.decode(encoding)
        except LookupError:
            raise DataError(
                f"encoding must be one that Python knows, got {encoding!r}; pass e.g. 'latin-1'.", argument="encoding"
            ) from None
        except UnicodeError as error:
            raise not_text(where, error) from None
    if "\0" in text:
        raise not_text(where, ValueError("it has the character 0"))
    return text.removeprefix("\ufeff")


def not_text(where: str, error: Exception) -> DataError:
    return DataError(
        f"{where} must be a text file of separated cells, got another ({_files.said(error)}); save it anew, or say how "
        f"to read it with encoding and separator (--encoding, --separator)."
    )


def without_comments(text: str) -> tuple[str, str]:
    """Return a text without the lines at its start that begin with #, and the last of these."""
    comment, start = "", 0
    while text.startswith("#", start):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end + 1
        comment, start = text[start:end].strip().lstrip("#").strip(), end
    return text[start:], comment


def cells_of(text: str, separator: str) -> Iterator[list[str]]:
    """Yield the cells of all lines but empty ones."""
    for cells in csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True):
        if len(cells) > 1 or (cells and cells[0].strip()):
            yield cells


def spaced(line: str) -> str:
    """Return a line with one space between its cells, and what is quoted as it is."""
    return re.sub(r'("[^"]*")|[ \t]+', lambda found: found.group(1) or " ", line.strip())


def _is_one_column(text: str, decimal: str) -> bool:
    """Return whether the commas of a text are the marks of fractions in its only column.

    Where the user does not say so it takes lines of one comma without a header of two names, in which what is before
    the commas recurs, so that it names no rows, or what is after some of them begins with 0, as no whole number does.
    """
    first, *rest = [line.strip() for line in _sample(text).splitlines() if line.strip()] or [""]
    if decimal == "," and not re.search(
        r",\S", first.replace('"', "") if number(first.strip('"'), ",") is None else ""
    ):
        cells = [line.strip('"').strip() for line in rest]
        return bool(cells) and all(cell in MISSING_TEXTS or number(cell, ",") is not None for cell in cells)
    parts = [found.groups() for line in rest if (found := _FRACTION.fullmatch(line))]
    if decimal or len(parts) < max(2, len(rest)) or ("," in first and not _FRACTION.fullmatch(first)):
        return False
    recurs = "," not in first and len({whole for whole, _ in parts}) < len(parts)
    return recurs or any(len(after) > 1 and after.startswith("0") for _, after in parts)


def _sample(text: str) -> str:
    return text if len(text) <= _SAMPLE else text[: text.rfind("\n", 0, _SAMPLE) + 1] or text[:_SAMPLE]


def _find_separator(text: str) -> str:
    """Return the separator by which the lines have the same number of cells, and most of these are numbers."""
    sample = _sample(text)
    best, found = (False, False, False, -1.0), ","
    for separator in (";", ",", "\t", "|", " "):  # where ; and , do equally well, , is a mark of fractions
        part = "\n".join(map(spaced, sample.splitlines())) if separator == " " else sample
        try:
            rows = list(cells_of(part, separator))
        except csv.Error:
            continue
        widths = [len(row) for row in rows]
        if max(widths, default=0) < 2:
            continue
        cells = [cell.strip() for row in rows[1:] or rows for cell in row]
        decimal = "." if separator == "," else ","
        good = sum(
            cell in MISSING_TEXTS or number(cell) is not None or number(cell, decimal) is not None for cell in cells
        ) / len(cells)
        even = len(set(widths[1:])) < 2 and widths[-1] - widths[0] in (0, 1)
        if separator == " " and not (even and good > 0.5):  # texts have spaces too
            continue
        # A header with one cell less, as R writes it, may as well be cut by another mark: a;b over x;1,5.
        rank = (even, separator != " ", widths[-1] == widths[0], good)
        if rank > best:
            best, found = rank, separator
    return found


def find_decimal(where: str, rows: list[list[str]], separator: str) -> str:
    """Return the mark of the fractions in some rows."""
    cells = [cell.strip() for row in rows for cell in row]
    marked = [cell for cell in cells if "," in cell and number(cell, ",") is not None]
    pointed = any("." in cell and number(cell) is not None for cell in cells)
    if not marked or pointed:
        return "."
    if all(_GROUPED.fullmatch(cell) for cell in marked):
        if separator == ",":  # cells in quotation marks: it is said what they may be if they are used
            return "."
        raise DataError(
            f"{where} must have fractions of which the mark is clear, got {marked[0]!r}; pass decimal=',' "
            f"(--decimal ,) if that is a fraction, and remove the comma if it marks thousands."
        )
    return ","
