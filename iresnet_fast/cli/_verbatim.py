"""The cells of a text file as they are written, so that those nobody touches come out as they went in."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._regular import half_of_memory
from ..data import Source, Table
from ..data import _files as files
from ..data._text import split_text
from ..training.files import writing
from ._rows import table_options

_SUFFIXES = {".csv": "", ".tsv": "\t", ".txt": "", ".dat": "", ".data": ""}  # with the separator, if it is known


class Verbatim(NamedTuple):
    """A text file.

    Attributes:
        names: as the first line has them; empty if it holds data.
        rows: texts of the cells.
        separator: between the cells.
        decimal: mark of fractions.
    """

    names: list[str]
    rows: list[list[str]]
    separator: str
    decimal: str

    def place(self, name: str) -> int:
        """Return where a column of the table is in the file."""
        known = [cell.strip() for cell in self.names]
        return known.index(name) if name in known else int(name) - 1

    def column(self, name: str) -> NDArray[Any]:
        """Return the texts of a column [N]."""
        place = self.place(name)
        texts: NDArray[Any] = np.array([*(row[place] for row in self.rows), None], object)[:-1]
        return texts

    def shown(self, value: Any) -> str:
        """Return a value as this file would have it."""
        if isinstance(value, (float, np.floating)):
            narrow = np.float32(value)  # whose digits are fewer, if it is the same number
            return str(narrow if float(narrow) == float(value) else float(value)).replace(".", self.decimal)
        return str(value)


def verbatim(options: argparse.Namespace, metadata: dict[str, Any], table: Table) -> Verbatim | None:
    """Return the cells of --data as they are written; None if it is not one text file with a cell for every name.

    Args:
        options: of the command.
        metadata: of the run.
        table: what was read of the file.
    """
    path = Path(options.data_root or "", options.data[0])
    suffix = Path(path.stem if path.suffix.lower() == ".gz" else path).suffix.lower()
    if len(options.data) != 1 or suffix not in _SUFFIXES:
        return None
    source = metadata["data"].get("source")
    known = table_options(options, None if source is None else Source.from_dict(source).table)
    content = files.read(path, half_of_memory())
    rows, separator, decimal = split_text(str(path), content, known, _SUFFIXES[suffix])
    names = rows.pop(0) if table.has_names and len(rows) > len(table) else []
    found = [cell.strip() for cell in names]
    width = len(names) or len(rows[0])
    fits = len(rows) == len(table) and all(len(row) == width for row in rows) and len(set(found)) == len(found)
    if not fits or any(name not in found and not _is_place(name, width) for name in table.names):
        return None
    return Verbatim(names, rows, separator, decimal)


def write_verbatim(file: Verbatim, path: Path) -> None:
    """Write the cells as a .tsv file, or as a .csv file with the separator they had, in UTF-8; errors of `writing`."""
    separator = "\t"
    if path.suffix.lower() != ".tsv":
        usual = ";" if file.decimal == "," else ","
        separator = file.separator if file.separator in ",;" else usual
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator, lineterminator="\n")
    if file.names:
        writer.writerow(file.names)
    writer.writerows(file.rows)
    with writing(path) as output:
        output.write(stream.getvalue().encode())


def _is_place(name: str, width: int) -> bool:
    return name.isdigit() and 1 <= int(name) <= width
