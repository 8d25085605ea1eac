"""What the columns of a table become: chosen by name, whole numbers and categories noticed, digits kept."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _files
from ._header import number
from ._notes import listed, note
from ._scaling import is_whole, scaling_of
from .dataset import DataError
from .schema import Column, TableSchema
from .source import TableOptions
from .table import Table, category_texts, is_missing

_DATE = re.compile(r"\d{4}-\d\d?-\d\d?|\d\d?[./]\d\d?[./]\d{2,4}")
_GROUPED = re.compile(r"[+-]?\d{1,3}([,.' ]\d{3})+([.,]\d+)?")
# A value is a mark or an atom and no rounded measurement if so many rows have it, so many times those of any other.
_FEWEST_SHARED, _SHARE, _TIMES_OTHERS = 5, 0.02, 5
_FEWEST_NUMBERED = 10  # rows of which a column may be the number by chance


class Chosen(NamedTuple):
    """Names of columns: those that are modelled, and those of the context."""

    columns: tuple[str, ...]
    context: tuple[str, ...]


def choose(table: Table, options: TableOptions, context: tuple[str, ...]) -> Chosen:
    """Return the columns to use; raises DataError if one is missing or used twice, or none is left to model."""
    taken = (*context, options.weights) if options.weights else context
    for argument, names in (("columns", options.columns), ("context", context), ("weights", taken[len(context) :])):
        _check_names(table, argument, names)
    columns = options.columns or tuple(name for name in table.names if name not in taken)
    if not columns:
        raise DataError(
            f"context must leave a column of {table.where} to model, got all {len(table.names)} of them; leave one "
            f"out.",
            argument="context",
        )
    used = {*columns, *context}
    for name in taken:
        if name in columns or taken.count(name) > 1:
            what = "weights" if name == options.weights else "context"
            raise DataError(
                f"{what} must be other columns than those used already, got {name!r}; leave it out of one.", what
            )
    for argument in ("categorical", "one_hot", "continuous"):
        _check_names(table, argument, getattr(options, argument))
        unused = [name for name in getattr(options, argument) if name not in used]
        if unused:
            raise DataError(f"{argument} must be columns that are used, got {unused[0]!r}; leave it out.", argument)
    several = [name for name in options.categorical if name in options.one_hot or name in options.continuous]
    if several:
        raise DataError(
            f"categorical must be other columns than one_hot and continuous, got {several[0]!r}; name it once.",
            argument="categorical",
        )
    return Chosen(columns, context)


def make_schema(table: Table, train: NDArray[np.int64], chosen: Chosen, options: TableOptions) -> TableSchema:
    """Return what the columns of a table become, and say what was decided for them.

    Args:
        table: all rows.
        train: numbers of those to train on, whose means fill missing cells.
        chosen: the columns.
        options: what is known about them.

    Raises:
        DataError: a column holds texts and is not called a category, or numbers that float32 cannot tell apart.
    """
    columns = tuple(_column(table, name, train, options, False) for name in chosen.columns)
    context = tuple(_column(table, name, train, options, True) for name in chosen.context)
    _say(table, columns, columns + context, options)
    return TableSchema(columns, context, options.missing)


def _check_names(table: Table, argument: str, names: tuple[str, ...]) -> None:
    counts = Counter(table.names) if names else {}
    for name in names:
        if counts.get(name) != 1:
            known = (
                _files.shown(", ".join(table.names))
                if table.has_names
                else f"numbers from 1 to {len(table.names)}, as it has no names"
            )
            got = "that of several" if name in table.names else "none of them"
            raise DataError(
                f"{argument} must be columns of {table.where}: {known}, got {name!r}, {got}; correct it.", argument
            )
    if len(set(names)) != len(names):
        raise DataError(f"{argument} must name a column once, got {', '.join(names)}; leave one out.", argument)


def _column(table: Table, name: str, train: NDArray[np.int64], options: TableOptions, is_context: bool) -> Column:
    cells = table.column(name)
    missing = is_missing(cells)
    if missing.all():
        raise DataError(
            f"column {name!r} of {table.where} must have a value in some row, got none; leave it out (--columns)."
        )
    kept, at_training = cells[~missing], cells[train][~missing[train]]
    is_logical = kept.dtype == bool or all(isinstance(cell, bool) for cell in kept)
    one_hot = name in options.one_hot
    if kept.dtype == object and is_context and not is_logical and name not in options.categorical:
        one_hot = True
    if one_hot or is_logical or name in options.categorical:
        texts = category_texts(kept)
        categories = tuple(sorted(set(texts), key=lambda text: (number(text) is None, number(text) or 0.0, text)))
        if len(categories) < 2 and not is_context:
            raise DataError(
                f"{table.where} must vary in every column, got {_files.shown(categories[0])!r} alone in column {name}; "
                f"leave it out (--columns), it has no density."
            )
        found = Counter(category_texts(at_training)).most_common(1)
        return Column(
            name,
            "category",
            1.0,
            0.0,
            1.0,
            categories,
            one_hot,
            float(categories.index((found or [(texts[0], 0)])[0][0])),
        )
    if kept.dtype == object:
        raise _texts_error(table, name, cells)
    Column(name).encode(table.where, cells)  # refuses what is not finite
    whole = is_whole(kept)
    scaling = scaling_of(kept, whole and name not in options.continuous)
    if 2 * scaling.n_kept < scaling.n_values:
        raise DataError(
            f"column {name!r} of {table.where} must hold numbers that float32 can tell apart, got {scaling.n_values} "
            f"different ones from {kept.min()} to {kept.max()} of which it keeps {scaling.n_kept}; remove those far "
            f"from the others, take logarithms, or leave it out (--columns)."
        )
    mean = float((at_training if len(at_training) else kept).astype(np.float64).mean())
    if scaling.step:
        mean = round((mean - scaling.shift) / scaling.step) * scaling.step + scaling.shift
    # Whole numbers beside missing cells are float64 in a table only for these.
    is_integer = kept.dtype == np.int64 or bool(missing.any() and scaling.step and scaling.scale == 1.0)
    is_integer = is_integer and name not in options.continuous
    return Column(
        name, "integer" if is_integer else "number", scaling.step, scaling.shift, scaling.scale,
        mean=float(round(mean)) if is_integer else mean,
    )  # fmt: skip


def _texts_error(table: Table, name: str, cells: NDArray[Any]) -> DataError:
    """Return the error about a column of texts, with the first one that is no number."""
    row = (
        next(i for i, cell in enumerate(cells) if cell is not None and number(cell) is None)
        if any(cell is not None and number(cell) is None for cell in cells)
        else int(np.flatnonzero(~is_missing(cells))[0])
    )
    cell = str(cells[row])
    if _DATE.match(cell):
        advice = "convert dates to numbers, such as days or seconds since one of them"
    elif _GROUPED.fullmatch(cell):
        advice = "remove the marks of thousands, or say which mark fractions have (--decimal)"
    else:
        advice = (
            f"if it holds categories pass categorical=[{name!r}] or one_hot=[{name!r}] (--categorical {name}, "
            f"--one-hot {name}), if not correct it, or choose other columns (--columns)"
        )
    return DataError(
        f"column {name!r} of {table.where} must hold finite numbers, got {_files.shown(cell[:80])!r} in row {row + 1}; "
        f"{advice}."
    )


def _say(table: Table, columns: tuple[Column, ...], used: tuple[Column, ...], options: TableOptions) -> None:
    """Say what was decided."""
    whole = [column.name for column in columns if column.step and not column.categories]
    if whole:
        note(
            f"{listed(whole)} of {table.where}: whole numbers, made continuous by noise of their step in the model; "
            f"pass continuous (--continuous) for those that are rounded measurements, or categorical (--categorical) "
            f"for those that are codes."
        )
    moved = [
        f"{column.name} (less {str(column.shift).removesuffix('.0')})"
        for column in used
        if column.shift and not _is_of_grid(column)
    ]
    if moved:
        note(f"{listed(moved)} of {table.where}: shifted, since float32 would not keep the digits of such values.")
    shared = [text for column in columns if (text := _shared(column, table.column(column.name)))]
    if shared:
        note(
            f"{listed(shared)} of {table.where}: a value that many rows share beside continuous ones, where no density "
            f"is finite; if it marks missing cells empty them (and pass missing, --missing), else model it as a column "
            f"of its own."
        )
    scaled = [f"{column.name} (divided by {column.scale:g})" for column in used if column.scale != 1.0]
    if scaled:
        note(f"{listed(scaled)} of {table.where}: scaled, since float32 would not keep such values.")
    for column in columns:
        cells = table.column(column.name)
        if column.kind == "integer" and len(cells) >= _FEWEST_NUMBERED and bool((np.diff(cells) == 1).all()):
            note(
                f"{column.name} of {table.where}: it numbers the rows, and is modelled like the other columns; leave "
                f"it out with columns (--columns)."
            )


def _shared(column: Column, cells: NDArray[Any]) -> str:
    """Return name and value of a continuous column of which one value is in far more rows than any other; else ""."""
    if column.step or column.categories:
        return ""
    values, counts = np.unique(cells[~is_missing(cells)], return_counts=True)
    second, most = np.sort(counts)[-2:] if len(counts) > 1 else (0, 0)
    if most < max(_FEWEST_SHARED, _SHARE * len(cells), _TIMES_OTHERS * second):
        return ""
    return f"{column.name} ({most} rows with {values[counts.argmax()]:.6g})"


def _is_of_grid(column: Column) -> bool:
    """Return whether a shift only says which of the whole numbers there are."""
    return bool(column.step) and 0.0 <= column.shift < column.step
