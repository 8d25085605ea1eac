"""Text files of cells: encoding, separator, decimal mark and names are found out, and what is not clear is said."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .._optional import needed
from . import _files
from ._frames import table_of_frame
from ._header import MISSING_TEXTS, Header, find_header, number
from ._notes import note
from .dataset import DataError
from .source import TableOptions
from .table import Table

_SAMPLE = 1 << 16  # characters that the separator is found out from
_ROWS = 1000  # rows that the decimal mark and the names are found out from
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SEPARATORS = {"tab": "\t", "\\t": "\t", "space": " "}
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")  # 1,234 is one number or another


class _Scan(NamedTuple):
    """What one pass over all cells has found.

    Attributes:
        first: cells of the first line.
        quoted: whether all of them are in quotation marks, and those of the next line are not.
        body: where the second line starts.
        rows: cells of some lines after it.
        n_rows: number of all these lines.
        width: number of their cells.
    """

    first: list[str]
    quoted: bool
    body: int
    rows: list[list[str]]
    n_rows: int
    width: int


def read_text(where: str, content: bytes | bytearray, options: TableOptions, separator: str = "") -> Table:
    """Return the table in the bytes of a text file.

    Args:
        where: what to call it in errors.
        content: of the file.
        options: how to read it.
        separator: of such files, if the options leave it open; "": found out.

    Raises:
        DataError: it is no such text, or its lines have different numbers of cells.
    """
    text, comment = _without_comments(_decoded(where, content, options.encoding))
    text, separator = _separated(text, options, separator)
    if len(separator) != 1 or separator in '"\r\n':
        raise DataError(
            f"separator must be one character, tab or space, got {separator!r}; correct it.", argument="separator"
        )
    if separator == " ":
        text = "\n".join(_spaced(line) for line in text.splitlines())
    scan = _scanned(where, text, separator)
    decimal = options.decimal or _find_decimal(where, [scan.first, *scan.rows], separator)
    if decimal == separator:
        raise DataError(
            f"decimal must be another mark than the separator of {where}, got {decimal!r} for both; correct one.",
            argument="decimal",
        )
    names, is_data = _names(where, scan, comment, separator, decimal, options.header)
    n_rows = scan.n_rows + is_data
    if n_rows == 0:
        return Table(where, tuple(names), tuple(np.zeros(0) for _ in names), True)
    with needed("reading tables"):
        import pandas  # type: ignore[import-untyped]

    try:
        frame = pandas.read_csv(
            io.StringIO(text if is_data else text[scan.body :]),
            sep=separator,
            header=None,
            names=range(scan.width),
            index_col=False,
            decimal=decimal,
            dtype_backend="numpy_nullable",
            keep_default_na=False,
            na_values=list(MISSING_TEXTS),
            skipinitialspace=True,
            low_memory=False,
        )
    except (ValueError, OverflowError, TypeError) as error:
        raise _not_text(where, error) from None
    if frame.shape != (n_rows, scan.width):
        raise _not_text(where, ValueError(f"{frame.shape[0]} rows where {n_rows} were counted"))
    return table_of_frame(where, frame, names)


def _separated(text: str, options: TableOptions, separator: str) -> tuple[str, str]:
    """Return a text and what separates its cells, which spreadsheets write into a line of its own."""
    line = re.match(r'"?sep=(.)"?\r?\n', text)
    text = text[line.end() :] if line else text
    said = line.group(1) if line else separator
    return text, _SEPARATORS.get(options.separator, options.separator) or said or _find_separator(text)


def _decoded(where: str, content: bytes | bytearray, encoding: str) -> str:
    """Return bytes as text."""
    if not encoding:
        encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            if encoding != "utf-8":
                raise _not_text(where, error) from None
            try:
                text = content.decode("cp1252")
            except UnicodeDecodeError:
                raise _not_text(where, error) from None
            note(f"{where} is no UTF-8 text and was read as Windows-1252; pass encoding (--encoding) if it is another.")
    else:
        try:
            text = content.decode(encoding)
        except LookupError:
            raise DataError(
                f"encoding must be one that Python knows, got {encoding!r}; pass e.g. 'latin-1'.", argument="encoding"
            ) from None
        except UnicodeError as error:
            raise _not_text(where, error) from None
    if "\0" in text:
        raise _not_text(where, ValueError("it has the character 0"))
    return text.removeprefix("\ufeff")


def _not_text(where: str, error: Exception) -> DataError:
    return DataError(
        f"{where} must be a text file of separated cells, got another ({_files.said(error)}); save it anew, or say how "
        f"to read it with encoding and separator (--encoding, --separator)."
    )


def _without_comments(text: str) -> tuple[str, str]:
    """Return a text without the lines at its start that begin with #, and the last of these."""
    comment, start = "", 0
    while text.startswith("#", start):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end + 1
        comment, start = text[start:end].strip().lstrip("#").strip(), end
    return text[start:], comment


def _cells(text: str, separator: str) -> Iterator[list[str]]:
    """Yield the cells of all lines but empty ones."""
    for cells in csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True):
        if len(cells) > 1 or (cells and cells[0].strip()):
            yield cells


def _spaced(line: str) -> str:
    """Return a line with one space between its cells, and what is quoted as it is."""
    return re.sub(r'("[^"]*")|[ \t]+', lambda found: found.group(1) or " ", line.strip())


def _find_separator(text: str) -> str:
    """Return the separator by which the lines have the same number of cells, and most of these are numbers."""
    sample = text if len(text) <= _SAMPLE else text[: text.rfind("\n", 0, _SAMPLE) + 1] or text[:_SAMPLE]
    best, found = (False, False, -1.0), ","
    for separator in (",", ";", "\t", "|", " "):
        part = "\n".join(map(_spaced, sample.splitlines())) if separator == " " else sample
        try:
            rows = list(_cells(part, separator))
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
        rank = (even, separator != " ", good)
        if rank > best:
            best, found = rank, separator
    return found


def _scanned(where: str, text: str, separator: str) -> _Scan:
    """Look at the cells of all lines; raises DataError unless their numbers are the same."""
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=separator, skipinitialspace=True, strict=True)
    first: list[str] = []
    rows: list[list[str]] = []
    n_rows = width = body = start = second = 0
    try:
        for cells in reader:
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                start = start if first else stream.tell()
                continue
            if not first:
                first, width, body = cells, len(cells), stream.tell()
                continue
            if n_rows == 0:
                second = stream.tell()
                if len(cells) == len(first) + 1:  # R gives the numbers of rows no name
                    width = len(cells)
            if len(cells) != width:
                raise DataError(
                    f"{where} must have {width} cells in line {reader.line_num} as in its first line, got "
                    f"{len(cells)}; correct it, or say what separates them (--separator)."
                )
            n_rows += 1
            if n_rows <= _ROWS:
                rows.append(cells)
    except csv.Error as error:
        raise _not_text(where, ValueError(f"{_files.said(error)} in line {reader.line_num}")) from None
    if not first:
        raise DataError(f"{where} must have rows of numbers, got an empty file; save it anew.")
    quoted = text[start:body].count('"') >= 2 * len(first) and '"' not in text[body:second]
    return _Scan(first, quoted and n_rows > 0, body, rows, n_rows, width)


def _find_decimal(where: str, rows: list[list[str]], separator: str) -> str:
    """Return the mark of the fractions in some rows."""
    if separator == ",":
        return "."
    cells = [cell.strip() for row in rows for cell in row]
    marked = [cell for cell in cells if "," in cell and number(cell, ",") is not None]
    pointed = any("." in cell and number(cell) is not None for cell in cells)
    if not marked or pointed:
        return "."
    if all(_GROUPED.fullmatch(cell) for cell in marked):
        raise DataError(
            f"{where} must have fractions of which the mark is clear, got {marked[0]!r}; pass decimal=',' "
            f"(--decimal ,) if that is a fraction, and remove the comma if it marks thousands."
        )
    return ","


def _names(where: str, scan: _Scan, comment: str, separator: str, decimal: str, header: str) -> tuple[list[str], bool]:
    """Return the names of the columns, none if there are none, and whether the first line holds data."""
    first = [cell.strip() for cell in scan.first]
    if len(first) < scan.width:
        empty_end = all(row[-1].strip() == "" for row in scan.rows)
        if header == "no" or not (empty_end or _are_names_of_rows([row[0] for row in scan.rows])):
            raise DataError(
                f"{where} must have {len(first)} cells in its second line as in its first, got {scan.width}; correct "
                f"it, or say what separates them (--separator)."
            )
        return ([*first, ""] if empty_end else ["", *first]), False
    commented: list[str] = []
    if comment:
        text = _spaced(comment) if separator == " " else comment
        cells = next(_cells(text, separator), [])
        if len(cells) == scan.width and not any(number(cell, decimal) is not None for cell in cells):
            commented = [cell.strip() for cell in cells]
    if header == "yes":
        return first, False
    if header == "no":
        return commented, True
    found = Header(True, True) if scan.quoted else find_header(first, scan.rows, decimal)
    if commented and not (found.is_names and found.is_clear):
        return commented, True
    if not found.is_clear:
        shown = _files.shown(", ".join(first))
        said = ("the names of the columns", "no") if found.is_names else ("a row", "yes")
        note(
            f"the first line of {where}, {shown}, was taken for {said[0]}; pass header={said[1]!r} (--header "
            f"{said[1]}) if it is not."
        )
    return (first, False) if found.is_names else ([], True)


def _are_names_of_rows(cells: list[str]) -> bool:
    """Return whether the first cells of rows look like their names: different texts, or numbers from 0 or 1."""
    values = [number(cell) for cell in cells]
    if None in values:
        return len(set(cells)) == len(cells)
    return values[0] in (0.0, 1.0) and all(value == i + values[0] for i, value in enumerate(values))


def split_text(
    where: str, content: bytes | bytearray, options: TableOptions, separator: str = ""
) -> tuple[list[list[str]], str, str]:
    """Return the cells of all lines as they are written, what separates them, and the mark of fractions.

    Arguments and errors are those of `read_text`.
    """
    text, _ = _without_comments(_decoded(where, content, options.encoding))
    text, separator = _separated(text, options, separator)
    if separator == " ":
        text = "\n".join(_spaced(line) for line in text.splitlines())
    rows = list(_cells(text, separator))
    return rows, separator, options.decimal or _find_decimal(where, rows[:_ROWS], separator)
