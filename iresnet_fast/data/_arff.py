"""ARFF files, as OpenML serves them: attributes, then lines of cells.

scipy's reader refuses attributes of texts; pandas reads the cells.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._text import read_text
from .dataset import DataError
from .source import TableOptions
from .table import Table, category_texts, is_missing

_ATTRIBUTE = re.compile(
    r"""@attribute\s+(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|(\S+?))(?:\s*(\{.*)|\s+([A-Za-z].*))$""", re.IGNORECASE
)
_QUOTED = re.compile(r"""(^|[,\t]\s*)(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')""")
_TEXTS = ("string", "date")


def read_arff(where: str, content: bytes | bytearray, options: TableOptions) -> Table:
    """Return the table in the bytes of an ARFF file; nominal attributes are texts.

    Raises:
        DataError: it is no such file, or one whose rows name their cells ("sparse").
    """
    encoding = options.encoding or "utf-8"
    try:
        text = content.decode(encoding)
    except (UnicodeError, LookupError):
        text = content.decode("latin-1")
    head, mark, body = _parts(text)
    if not mark:
        raise DataError(f"{where} must be an ARFF file with a line @data, got one without; get the file again.")
    names, nominal = [], set()
    for line in head:
        if line.lower().startswith("@attribute"):
            found = _ATTRIBUTE.match(line)
            if found is None:
                raise DataError(f"{where} must have attributes with a name and a type, got {line!r:.80}; correct it.")
            name = next(part for part in found.groups()[:3] if part is not None)
            names.append(re.sub(r"\\(.)", r"\1", name))
            kind = (found.group(4) or found.group(5)).lower()
            if kind.startswith("relational"):
                raise DataError(f"{where} must have cells of numbers or texts, got a relational attribute; flatten it.")
            if kind.startswith("{") or kind.startswith(_TEXTS):
                nominal.add(len(names) - 1)
    lines = [line for line in map(str.strip, body) if line and not line.startswith("%")]
    if any(line.startswith("{") for line in lines[:1]):
        raise DataError(f"{where} must have all cells in every row, got a sparse file; save it as a dense one.")
    separator = "\t" if lines and "," not in lines[0] and "\t" in lines[0] else ","
    plain = dataclasses.replace(options, separator=separator, decimal=".", header="no", encoding="utf-8")
    cells = "\n".join(_QUOTED.sub(_in_double_quotes, line) for line in lines)
    table = read_text(where, cells.encode(), plain)
    if len(table.columns) != len(names):
        raise DataError(
            f"{where} must have {len(names)} cells in a row, one for each attribute, got {len(table.columns)}; correct "
            f"it."
        )
    columns = tuple(_as_texts(column) if i in nominal else column for i, column in enumerate(table.columns))
    return Table(where, tuple(names), columns)


def _parts(text: str) -> tuple[list[str], bool, list[str]]:
    """Return the lines of the head, whether there is a body, and its lines."""
    lines = text.splitlines()
    mark = next((i for i, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    head = [line.strip() for line in lines[:mark]]
    return head, mark is not None, [] if mark is None else lines[mark + 1 :]


def _in_double_quotes(found: re.Match[str]) -> str:
    """Return a quoted cell as text files of cells have it."""
    text = re.sub(r"\\(.)", r"\1", found.group(3) if found.group(2) is None else found.group(2))
    return f'{found.group(1)}"{text.replace(chr(34), chr(34) * 2)}"'


def _as_texts(column: NDArray[Any]) -> NDArray[Any]:
    texts = np.array([*category_texts(column), None], object)[:-1]
    texts[is_missing(column)] = None
    return texts
