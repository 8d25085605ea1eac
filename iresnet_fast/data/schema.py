"""What the columns of a table are, and how their cells become the numbers of a model, and numbers cells again."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import _schema
from ._files import shown
from .dataset import DataError
from .source import MISSING
from .table import Table, category_texts, is_missing, narrowed

KINDS = ("number", "integer", "category")
_LOGICAL = ("False", "True")  # categories of a column of these
_MOST_MOVED = 2.0**62  # of whole numbers before the shift, which may have as many digits, for int64


@dataclass(frozen=True)
class Column:
    """One column of a table.

    A cell becomes (cell - shift) / scale, computed in float64 and then rounded to float32; that of a category its
    code, or one entry of 0 or 1 for each category.

    Attributes:
        name: in the header.
        kind: "number"; "integer", written as such; "category", one of `categories`.
        step: distance of neighbouring values, shift being one of them; noise of this width makes them continuous
            where they are modelled. 0.0: they are continuous.
        shift: what is subtracted, so that float32 keeps the digits.
        scale: by what is divided then; not zero.
        categories: texts of a category, in the order of their codes.
        one_hot: whether each category has an entry of its own.
        mean: what takes the place of a missing cell if the schema says "mean"; of a category its most frequent code.
    """

    name: str
    kind: str = "number"
    step: float = 0.0
    shift: float = 0.0
    scale: float = 1.0
    categories: tuple[str, ...] = ()
    one_hot: bool = False
    mean: float | None = None

    @property
    def width(self) -> int:
        """Number of entries."""
        return len(self.categories) if self.one_hot else 1

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the entries."""
        return tuple(f"{self.name}={category}" for category in self.categories) if self.one_hot else (self.name,)

    def encode(self, where: str, cells: NDArray[Any]) -> NDArray[np.float64]:
        """Return the entries [N, width] of cells [N]; NaN where they are missing.

        Raises:
            DataError: a cell is no number, not finite, or of none of the categories.
        """
        if self.kind == "category":
            return self._encode_category(where, cells)
        if cells.dtype == object:
            row = next(i for i, cell in enumerate(cells) if cell is not None)
            raise DataError(
                f"column {self.name!r} of {where} must hold numbers as it did in training, got {cells[row]!r:.60} in "
                f"row {row + 1}; correct it."
            )
        if cells.dtype == np.int64 and float(self.shift).is_integer():  # float64 has not all digits of int64
            moved = (cells - np.int64(self.shift)).astype(np.float64)
        else:
            moved = cells.astype(np.float64) - self.shift
        infinite = np.flatnonzero(np.isinf(moved))
        if len(infinite):
            raise DataError(
                f"column {self.name!r} of {where} must hold finite numbers, got {cells[infinite[0]]} in row "
                f"{infinite[0] + 1}; remove or replace it."
            )
        result: NDArray[np.float64] = (moved / self.scale)[:, None]
        return result

    def decode(self, entries: NDArray[np.float64]) -> NDArray[Any]:
        """Return cells [N] for entries [N, width]: float64, int64, bool or texts; missing where they are not finite."""
        if self.kind == "category":
            codes = entries.argmax(1) if self.one_hot else np.rint(entries[:, 0])
            bad = ~np.isfinite(entries).all(1)
            codes = np.where(bad, 0.0, np.clip(codes, 0, len(self.categories) - 1)).astype(np.int64)
            if self.categories == _LOGICAL and not bad.any():
                logical: NDArray[Any] = codes == 1
                return logical
            texts: NDArray[Any] = np.array(self.categories, object)[codes]
            texts[bad] = None
            return texts
        moved = entries[:, 0] * self.scale
        if self.step:
            moved = np.rint(moved / self.step) * self.step
        if self.kind == "integer" and bool((np.abs(moved) < _MOST_MOVED).all()):
            return np.rint(moved).astype(np.int64) + int(self.shift)
        result: NDArray[Any] = moved + self.shift
        if self.shift or self.scale != 1.0:  # float64 would show digits that float32 has not held
            result = self._rounded(result, moved)
        return result

    def _rounded(self, cells: NDArray[np.float64], moved: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return cells with no more decimals than tell the numbers that they come from apart."""
        size = float(np.abs(moved).max(initial=0.0))
        if not 0.0 < size < math.inf:
            return cells
        # A tenth of the distance of float32 numbers, 2^-24 of the largest, at least.
        decimals = math.ceil(24 * math.log10(2.0) - math.log10(size)) + 1
        return np.array([round(cell, decimals) for cell in cells.tolist()])  # numpy's own leaves digits behind

    def fill(self) -> NDArray[np.float64]:
        """Return the entries [width] that take the place of a missing cell."""
        assert self.mean is not None  # of a schema that fills
        if not self.one_hot:
            return np.array([(self.mean - self.shift) / self.scale])
        filled: NDArray[np.float64] = np.eye(self.width)[int(self.mean)]
        return filled

    def _encode_category(self, where: str, cells: NDArray[Any]) -> NDArray[np.float64]:
        codes = {category: float(code) for code, category in enumerate(self.categories)}
        missing = is_missing(cells)
        texts = category_texts(cells)
        found = np.array(
            [math.nan if gone else codes.get(text, -1.0) for gone, text in zip(missing, texts, strict=True)]
        )
        unknown = np.flatnonzero(found == -1.0)
        if len(unknown):
            listed = ", ".join(map(repr, self.categories[:10])) + ", ..." * (len(self.categories) > 10)
            raise DataError(
                f"column {self.name!r} of {where} must hold one of the categories {listed}, got "
                f"{shown(texts[unknown[0]])!r} in row {unknown[0] + 1}; correct it, or train with rows of it."
            )
        if not self.one_hot:
            return found[:, None]
        entries = (found[:, None] == np.arange(self.width)).astype(np.float64)
        entries[missing] = math.nan
        result: NDArray[np.float64] = entries
        return result


class Encoded(NamedTuple):
    """Rows of a table as a model takes them.

    Attributes:
        x: [n, d] float32; NaN in missing cells if they were to be kept.
        context: [n, c] float32; None if the schema has none.
        rows: [n], the numbers of the rows in the table: all of them unless some were dropped.
        n_filled: number of missing cells that got the mean.
    """

    x: Tensor
    context: Tensor | None
    rows: NDArray[np.int64]
    n_filled: int


@dataclass(frozen=True)
class TableSchema:
    """The columns that a model knows, kept with it: files are matched by the names of their columns.

    Attributes:
        columns: whose density is modelled, in order.
        context: what it depends on.
        missing: "error", "drop": rows with a missing cell are left out, or "mean".
    """

    columns: tuple[Column, ...]
    context: tuple[Column, ...] = ()
    missing: str = "error"

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the entries of a vector."""
        return tuple(entry for column in self.columns for entry in column.entries)

    @property
    def context_entries(self) -> tuple[str, ...]:
        """Names of the entries of a context."""
        return tuple(entry for column in self.context for entry in column.entries)

    @property
    def steps(self) -> tuple[float, ...]:
        """Distance of the values of each entry of a vector; 0.0 where they are continuous."""
        return tuple(column.step / column.scale for column in self.columns for _ in range(column.width))

    @property
    def log_scale(self) -> float:
        """What the log-density of a vector exceeds that of its row by, in nats."""
        return sum(math.log(abs(column.scale)) for column in self.columns)

    def encode(self, table: Table, missing: str | None = None) -> Encoded:
        """Return the rows of a table; columns are found by their names, others are left out.

        Args:
            table: what to encode.
            missing: as of the class, or "keep": missing cells of the modelled columns become NaN; None: that of the
                schema.

        Raises:
            DataError: a column is missing, or a cell cannot be used.
        """
        missing = self.missing if missing is None else missing
        parts = [self._part(columns, table) for columns in (self.columns, self.context)]
        gone = [np.isnan(part) for part in parts]
        keep: NDArray[np.bool_] = np.ones(len(table), bool)
        n_filled = 0
        if missing == "drop":
            keep &= ~np.concatenate(gone, 1).any(1)
        elif missing == "mean":
            for part, holes, columns in zip(parts, gone, (self.columns, self.context), strict=True):
                for column, at in zip(columns, _places(columns), strict=True):
                    rows = np.flatnonzero(holes[:, at.start])
                    if len(rows):
                        part[rows, at] = column.fill()
                    n_filled += len(rows)
        else:
            self._refuse(table, gone[1:] if missing == "keep" else gone, "context" if missing == "keep" else "")
        x, context = (torch.from_numpy(narrowed(part[keep])) for part in parts)
        return Encoded(x, context if self.context else None, np.flatnonzero(keep), n_filled)

    def encode_context(self, values: Table) -> Tensor:
        """Return contexts [n, c] of a table that has the columns of the context at least; errors as of `encode`."""
        part = self._part(self.context, values)
        self._refuse(values, [np.zeros((len(values), 0), bool), np.isnan(part)], "context")
        return torch.from_numpy(narrowed(part))

    def decode(self, x: Tensor, context: Tensor | None = None) -> Table:
        """Return the rows of vectors [n, d], and of contexts [n, c] behind them, in the units and types of the file."""
        parts = [(self.columns, x)] + ([] if context is None else [(self.context, context)])
        names = tuple(column.name for columns, _ in parts for column in columns)
        cells = []
        for columns, values in parts:
            entries = values.detach().cpu().double().numpy()
            cells += [column.decode(entries[:, at]) for column, at in zip(columns, _places(columns), strict=True)]
        return Table("samples", names, tuple(cells))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TableSchema:
        """Return what `to_dict` has written; raises ValueError or TypeError if it cannot have been that."""
        _schema.check("table", values, {"columns": tuple[dict, ...], "context": tuple[dict, ...], "missing": str})  # type: ignore[type-arg]
        schema = cls(
            tuple(map(_column, values["columns"])), tuple(map(_column, values.get("context", ()))), values["missing"]
        )
        if schema.missing not in MISSING or not schema.columns:
            raise ValueError(f"a table with columns and missing one of {', '.join(MISSING)}, got another")
        return schema

    def _part(self, columns: tuple[Column, ...], table: Table) -> NDArray[np.float64]:
        encoded = [column.encode(table.where, table.column(column.name)) for column in columns]
        return np.concatenate([np.zeros((len(table), 0)), *encoded], 1)

    def _refuse(self, table: Table, gone: list[NDArray[np.bool_]], what: str) -> None:
        """Raise DataError if a cell is missing."""
        columns = self.context if what else (*self.columns, *self.context)
        whole = np.concatenate(gone, 1)
        holes = np.argwhere(whole[:, [at.start for at in _places(columns)]])  # one entry stands for all of a cell
        if len(holes):
            row, place = holes[0]
            raise DataError(
                f"column {columns[place].name!r} of {table.where} must have a value in every row, got none in row "
                f"{row + 1}, and {len(holes)} missing cells in all; fill them, or train with missing='drop' or 'mean' "
                f"(--missing)."
            )


def _places(columns: tuple[Column, ...]) -> list[slice]:
    """Return where the entries of each column are."""
    ends = np.cumsum([0, *(column.width for column in columns)]).tolist()
    return [slice(begin, end) for begin, end in itertools.pairwise(ends)]


def _column(values: dict[str, Any]) -> Column:
    _schema.check("table.columns", values, _schema.fields_of(Column))
    unknown = set(values) - {field.name for field in dataclasses.fields(Column)}
    if unknown:
        raise ValueError(f"columns of a table as this version knows them, got {min(unknown)[:40]!r}")
    column = Column(**{**values, "categories": tuple(values.get("categories", ()))})
    numbers = (column.step, column.shift, column.scale, column.mean or 0.0)
    if column.kind not in KINDS or not all(map(math.isfinite, numbers)) or column.scale == 0.0 or column.step < 0.0:
        raise ValueError(f"a column of one of the kinds {', '.join(KINDS)} with finite numbers, got another")
    if (column.kind == "category") != bool(column.categories):
        raise ValueError("categories for a column of these, got others")
    return column
