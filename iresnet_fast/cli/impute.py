"""Fill missing cells of a table with draws from the model's conditional distribution, given what each row holds.

The draws are made by Metropolis-Hastings sampling: four chains for each row go through the values of its missing cells,
and the density of the flow at the filled row decides on every step. That is exact for long chains; a warning says where
they do not agree yet. Several draws for each row (--draws) show how sure the filled cells are: analyse each completed
table, and combine the results (multiple imputation). Observed cells stay as they are, also of columns that the model
does not know.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _checks, data
from ..data import DataError, Table, TableSchema
from ..data.table import is_missing
from ..models import IResNetFlow
from ..training.impute import CHAINS, STEPS, Imputed, check_lengths, impute
from ..training.table_of_run import schema_of
from ._options import add_data_options, add_machine_options, add_run_argument, check_file, machine, open_run
from ._rows import read_rows
from ._tables import TABLES, check_suffix
from ._verbatim import Verbatim, verbatim, write_verbatim

_TEXTS = (".csv", ".tsv")
_DRAW = "draw"  # the column that says which draw a row is of


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_argument(parser)
    add_data_options(parser, None)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("filled.csv"),
        help="file for the completed table, .csv, .tsv, .parquet or .npy (default: filled.csv)",
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=1,
        metavar="M",
        help=f"completed tables, one below the other, with a first column {_DRAW} if there are several (default: 1)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS,
        metavar="N",
        help=f"of each of the {CHAINS} chains of a row, the first half of which is not used (default: {STEPS})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    add_machine_options(parser)


def run(options: argparse.Namespace) -> None:
    """Write the completed table, and print how well the sampling went; errors as of `training.impute`."""
    _checks.check_seed("--seed", options.seed)
    check_lengths("--draws", options.draws, "--steps", options.steps)
    if options.data is None:
        raise ValueError("--data must name the table to complete, got none; pass a file with the columns of the run.")
    check_file("--out", options.out)
    if options.out.exists() and any(os.path.exists(path) and options.out.samefile(path) for path in options.data):
        raise ValueError(f"--out must be another file than --data, got {options.out} for both; name another one.")
    check_suffix(options.out, TABLES, "a table")
    with machine(options) as device:
        model, metadata = open_run(options, device)
        schema = schema_of(metadata)
        if schema is None or not isinstance(model, IResNetFlow):
            raise ValueError(
                f"RUN must be that of a flow on a table, got a {type(model).__name__} on {metadata['data']['name']}; "
                f"train one with --data and a table."
            )
        table = read_rows(options, metadata)
        if options.draws > 1 and _DRAW in table.names:
            raise DataError(
                f"{table.where} must have no column {_DRAW!r} for --draws {options.draws}, which adds it, got one; "
                f"rename it."
            )
        encoded = schema.encode(table, "keep")
        like = next(model.parameters())
        context = None if encoded.context is None else encoded.context.to(like)
        found = impute(
            model, encoded.x.to(like), context, options.draws, options.steps, options.seed, show_progress=True
        )
    as_written = verbatim(options, metadata, table) if options.out.suffix.lower() in _TEXTS else None
    if as_written is None:
        completed = [_completed(table, schema, found, draw) for draw in range(options.draws)]
        data.write_table(_stacked(completed), options.out)
    else:
        write_verbatim(_completed_texts(as_written, table, schema, found), options.out)
    print(_described(found))
    print(options.out)
    if not found.converged:
        warnings.warn(
            f"iresnet_fast: the chains of {found.n_doubtful} of {int(found.missing.sum())} missing entries do not yet "
            f"agree (R-hat up to {float(found.r_hat.nan_to_num(0.0).max()):.2f}), so their draws may depend on where "
            f"they began; pass --steps {4 * options.steps}.",
            RuntimeWarning,
            stacklevel=2,
        )


def _completed(table: Table, schema: TableSchema, found: Imputed, draw: int) -> Table:
    """Return the table with the missing cells of the modelled columns from one draw."""
    drawn = schema.decode(found.x[draw])
    columns = list(table.columns)
    for name, values in zip(drawn.names, drawn.columns, strict=True):
        place = table.names.index(name)
        columns[place] = _filled(columns[place], values)
    return Table(table.where, table.names, tuple(columns), table.has_names)


def _completed_texts(file: Verbatim, table: Table, schema: TableSchema, found: Imputed) -> Verbatim:
    """Return the cells of the file as they are written, with the missing ones from all draws, one below the other."""
    result = []
    for draw, x in enumerate(found.x):
        rows = [list(row) for row in file.rows]
        drawn = schema.decode(x)
        for name, values in zip(drawn.names, drawn.columns, strict=True):
            place = file.place(name)
            for row in np.flatnonzero(is_missing(table.column(name))):
                rows[row][place] = file.shown(
                    values[row].item() if isinstance(values[row], np.generic) else values[row]
                )
        result += [[str(draw + 1), *row] for row in rows] if len(found.x) > 1 else rows
    names = [_DRAW, *file.names] if len(found.x) > 1 and file.names else file.names
    return Verbatim(names, result, file.separator, file.decimal)


def _filled(cells: NDArray[Any], drawn: NDArray[Any]) -> NDArray[Any]:
    missing = is_missing(cells)
    if not missing.any():
        return cells
    if drawn.dtype == object and cells.dtype != object:  # categories that the file has as numbers
        drawn = np.array([float(text) for text in drawn])
    filled: NDArray[Any] = np.where(missing, drawn, cells)
    if drawn.dtype.kind == "i" and bool((filled == np.rint(filled)).all()):  # float64 for the missing cells alone
        filled = filled.astype(np.int64)
    return filled


def _stacked(tables: list[Table]) -> Table:
    """Return the tables of several draws below each other, with their numbers."""
    first = tables[0]
    if len(tables) == 1:
        return first
    numbers = np.repeat(np.arange(1, len(tables) + 1), len(first))
    columns = [np.concatenate(parts) for parts in zip(*(table.columns for table in tables), strict=True)]
    return Table(first.where, (_DRAW, *first.names), (numbers, *columns))


def _described(found: Imputed) -> str:
    n_rows = int(found.missing.any(1).sum())
    if n_rows == 0:
        return "no missing cells: the table is written as it was"
    rates, r_hat = found.acceptance[found.missing.any(1)], found.r_hat[found.missing]
    return (
        f"{int(found.missing.sum())} missing entries of {n_rows} of {len(found.missing)} rows drawn by "
        f"Metropolis-Hastings sampling of the flow{f', {len(found.x)} times' * (len(found.x) > 1)}\n"
        f"accepted: {float(rates.mean()):.0%} of the steps, {float(rates.min()):.0%} in the row with the fewest; "
        f"split R-hat: {float(r_hat.median()):.3f} in the median, {float(r_hat.max()):.3f} at most"
    )
