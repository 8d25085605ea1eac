"""Text files of cells as tables: all lines are counted before pandas reads them, and names not clear are said."""

from __future__ import annotations

import csv
import io
from typing import NamedTuple

import numpy as np

from .._optional import needed
from . import _files
from ._dialect import cells_of, decoded, find_decimal, not_text, separated, spaced, without_comments
from ._frames import table_of_frame
from ._header import MISSING_TEXTS, Header, find_header, number
from ._notes import note
from .dataset import DataError
from .source import TableOptions
from .table import Table

_ROWS = 1000  # rows that the decimal mark and the names are found out from


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
    text, comment = without_comments(decoded(where, content, options.encoding))
    text, separator = separated(text, options, separator)
    if len(separator) != 1 or separator in '"\r\n':
        raise DataError(
            f"separator must be one character, tab or space, got {separator!r}; correct it.", argument="separator"
        )
    if separator == " ":
        text = "\n".join(spaced(line) for line in text.splitlines())
    scan = _scanned(where, text, separator)
    decimal = options.decimal or find_decimal(where, [scan.first, *scan.rows], separator)
    if decimal == separator and not _has_quoted(scan, separator):
        raise DataError(
            f"decimal must be another mark than the separator of {where}, got {decimal!r} for both; correct one.",
            argument="decimal",
        )
    if decimal == "," and not options.decimal and (separator == "," or scan.width == 1):
        cells = [cell for row in [scan.first, *scan.rows] for cell in row if "," in cell]
        cell = next(cell for cell in cells if number(cell, ",") is not None)
        note(
            f"numbers of {where} such as {cell!r} were read as fractions; pass decimal='.' (--decimal .) if they are "
            f"none, and separator=',' (--separator ,) if they are two."
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
        raise not_text(where, error) from None
    if frame.shape != (n_rows, scan.width):
        raise not_text(where, ValueError(f"{frame.shape[0]} rows where {n_rows} were counted"))
    return table_of_frame(where, frame, names)


def _scanned(where: str, text: str, separator: str) -> _Scan:
    """Look at the cells of all lines; raises DataError unless their numbers are the same."""
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=separator, skipinitialspace=True, strict=True)
    first: list[str] = []
    rows: list[list[str]] = []
    n_rows = width = body = start = second = n_blank = n_between = end = 0
    try:
        for cells in reader:
            line, end = text[end : stream.tell()], stream.tell()
            is_cell = width == 1 and '"' in line  # a missing one, which pandas writes as ""
            if not cells or (len(cells) == 1 and not cells[0].strip() and not is_cell):
                start = start if first else stream.tell()
                n_blank += width == 1
                continue
            n_between = n_blank
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
        raise not_text(where, ValueError(f"{_files.said(error)} in line {reader.line_num}")) from None
    if not first:
        raise DataError(f"{where} must have rows of numbers, got an empty file; save it anew.")
    if n_between:
        note(f"{n_between} empty lines between the rows of {where} were left out; write NA where a value is missing.")
    quoted = text[start:body].count('"') >= 2 * len(first) and '"' not in text[body:second]
    return _Scan(first, quoted and n_rows > 0, body, rows, n_rows, width)


def _has_quoted(scan: _Scan, separator: str) -> bool:
    """Return whether a number has the separator in it, which only one in quotation marks can."""
    return any(separator in cell and number(cell, separator) is not None for row in scan.rows for cell in row)


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
        text = spaced(comment) if separator == " " else comment
        cells = next(cells_of(text, separator), [])
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
    text, _ = without_comments(decoded(where, content, options.encoding))
    text, separator = separated(text, options, separator)
    if separator == " ":
        text = "\n".join(spaced(line) for line in text.splitlines())
    rows = list(cells_of(text, separator))
    return rows, separator, options.decimal or find_decimal(where, rows[:_ROWS], separator)
