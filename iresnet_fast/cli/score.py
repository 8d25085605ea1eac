"""Score every row of a file: its log-likelihood, and how typical that is of the training rows; classes of a classifier.

The file that is written has a line for each row, in order: log_prob, in nats and the units of the file; the same for
each dimension, log_prob_per_dim, or for images in bits and with the sign turned, bits_per_dim; typicality_p, small for
rows that are scored much lower or higher than those of the training data, as a share of these; of a model that
classifies, class and probability. Of a folder of images each line begins with the path of the image in it. Rows with
a missing cell have empty cells, unless the run was trained to fill them.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .. import _checks, data
from ..data import DataError, Table
from ..data.folder import names_of_files
from ..training.batches import Batch
from ..training.scores import RowScores, row_scores
from ..training.table_of_run import schema_of
from ..training.tasks import flow_of, task_of
from ..training.typicality import p_values, reference_scores, training_scores
from ._options import (
    add_data_options,
    add_machine_options,
    add_run_argument,
    check_file,
    columns,
    machine,
    open_data,
    open_rows,
    open_run,
)
from ._rows import read_rows
from ._tables import TABLES, as_text, check_suffix, rounded
from ._verbatim import verbatim
from .evaluate import probes

_SHOWN = 5  # of the least typical rows


class _Rows(NamedTuple):
    """What to score.

    Attributes:
        batch: the rows that can be scored.
        places: their numbers from 0.
        n: number of all rows.
        names: columns that tell the rows apart, before those to keep.
        table: of the file, if it is one.
        log_scale: what the log-density of the model exceeds that in the units of the file by, in nats.
    """

    batch: Batch
    places: NDArray[np.int64]
    n: int
    names: Table
    table: Table | None = None
    log_scale: float = 0.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_argument(parser)
    add_data_options(parser, None)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("scores.csv"),
        help="file for the scores, .csv, .tsv, .parquet or .npy; - prints them as .csv (default: scores.csv)",
    )
    parser.add_argument(
        "--keep",
        type=columns,
        default=[],
        metavar="NAMES",
        help="columns of the file to write before the scores, separated by commas, such as an id (default: none)",
    )
    parser.add_argument("--batch-size", type=int, default=200, metavar="N", help="rows at a time (default: 200)")
    parser.add_argument(
        "--probes",
        type=probes,
        default=1,
        metavar="N|auto",
        help="estimates of each log-determinant to average, where it is estimated, or for each row as many as "
        "--standard-error takes; several add a column standard_error (default: 1)",
    )
    parser.add_argument(
        "--standard-error",
        type=float,
        metavar="E",
        help="with --probes auto: how large that of each log-likelihood may be for its probes, in nats (default: 0.01)",
    )
    add_machine_options(parser)


def run(options: argparse.Namespace) -> None:
    """Write the scores and print a summary; errors as of `row_scores`."""
    _checks.check_count("--batch-size", options.batch_size, 1)
    if options.probes != "auto":
        _checks.check_count("--probes", options.probes, 1)
        if options.standard_error is not None:
            raise ValueError(
                f"--standard-error must be left out for a given number of probes, {options.probes}, got "
                f"{options.standard_error}; pass --probes auto."
            )
    to_screen = str(options.out) == "-"
    if not to_screen:
        check_file("--out", options.out)
        check_suffix(options.out, TABLES, "scores")
    with machine(options) as device:
        model, metadata = open_run(options, device)
        rows = _rows(options, model, metadata)
        kept = _kept(options, metadata, rows)
        found = row_scores(
            model, rows.batch, options.batch_size, options.probes, options.standard_error, show_progress=not to_screen
        )
        typicality = None
        if found.log_prob is not None:
            reference = _reference(options, model, metadata)
            typicality = None if reference is None else p_values(found.log_prob, reference)
        flow = flow_of(model)
        in_bits = "bits_per_dim" in task_of(model).metrics
        table = _table(rows, found, typicality, 0 if flow is None else flow.config.n_dims, in_bits)
        if found.classes is not None:
            table = _named(table, tuple(metadata["data"].get("class_names") or ()))
    parts = (rows.names, kept, table)
    names = tuple(name for part in parts for name in part.names)
    whole = Table("scores", names, tuple(column for part in parts for column in part.columns))
    if to_screen:
        print(as_text(whole), end="")
    else:
        data.write_table(whole, options.out)
    where = sys.stderr if to_screen else sys.stdout
    if options.data is None:
        print("rows: the test part of the data of the run; pass --data for others", file=where)
    print(_summary(rows, table), file=where)
    if not to_screen:
        print(options.out)


def _rows(options: argparse.Namespace, model: Any, metadata: dict[str, Any]) -> _Rows:
    schema = schema_of(metadata)
    if schema is None or options.data is None or not all(map(data.is_table, options.data)):
        batch = open_rows(options, model, metadata, needs_labels=False)
        scale = 0.0 if schema is None else schema.log_scale
        return _Rows(batch, np.arange(len(batch.x)), len(batch.x), _names(options, len(batch.x)), None, scale)
    table = read_rows(options, metadata)
    if len(table) == 0:
        raise DataError(f"{table.where} must have rows to score, got none; add some.")
    # One hole in a file must not keep all of its other rows from being scored.
    encoded = schema.encode(table, "drop" if schema.missing == "error" else schema.missing)
    if len(encoded.rows) == 0:
        raise DataError(
            f"{table.where} must have a row without a missing cell to score, got {len(table)} with; fill them."
        )
    if encoded.n_filled:
        warnings.warn(
            f"iresnet_fast: {encoded.n_filled} missing cells of {table.where} were filled with the means of the "
            f"training rows, as in training; their scores are those of the filled rows.",
            RuntimeWarning,
            stacklevel=2,
        )
    batch = Batch(encoded.x, None, encoded.context)
    return _Rows(batch, encoded.rows, len(table), Table("scores", (), ()), table, schema.log_scale)


def _names(options: argparse.Namespace, n: int) -> Table:
    """Return the column of the paths of n images, if these are of a folder and --out can hold texts."""
    none = Table("scores", (), ())
    if options.data is None or options.data[0] in data.NAMES or options.out.suffix.lower() == ".npy":
        return none
    folder = Path(options.data_root or "", options.data[0])
    if len(options.data) > 1 or not folder.is_dir():
        return none
    files = names_of_files(folder)
    if len(files) != n:
        raise DataError(f"{folder} must keep its images while they are scored, got {len(files)} of {n}; try again.")
    return Table("scores", ("file",), (np.array(files, object),))


def _kept(options: argparse.Namespace, metadata: dict[str, Any], rows: _Rows) -> Table:
    """Return the columns of the file to write before the scores, those of a text file as they are written."""
    names, table = options.keep, rows.table
    if names and table is None:
        raise ValueError(
            f"--keep must be left out without a table in --data, got {', '.join(names)}; pass such a file."
        )
    if not names or table is None:
        return Table("scores", (), ())
    columns = [table.column(name) for name in names]
    as_written = verbatim(options, metadata, table)
    if as_written is not None and options.out.suffix.lower() != ".npy":
        columns = [as_written.column(name) for name in names]
    return Table("scores", tuple(names), tuple(columns))


def _reference(options: argparse.Namespace, model: Any, metadata: dict[str, Any]) -> Tensor | None:
    """Return the training scores, of the run's file or else of its data; None with a warning if neither has them."""
    found = reference_scores(options.run_path)
    if found is not None:
        return found
    try:
        of_run = argparse.Namespace(**{**vars(options), "data": None})
        dataset = open_data(of_run, model, metadata)
    except (ValueError, OSError) as error:
        warnings.warn(
            f"iresnet_fast: the column typicality_p is left out: the run holds no training scores, and its data could "
            f"not be loaded ({str(error).rstrip('.')}).",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return training_scores(model, Batch(dataset.train, None, dataset.train_context), batch_size=options.batch_size)


def _table(rows: _Rows, found: RowScores, typicality: Tensor | None, n_dims: int, in_bits: bool) -> Table:
    columns: dict[str, NDArray[Any]] = {}
    if found.log_prob is not None:
        log_prob = found.log_prob - rows.log_scale
        columns["log_prob"] = _placed(rows, log_prob)
        if in_bits:
            columns["bits_per_dim"] = _placed(rows, -log_prob / (math.log(2.0) * n_dims))
        else:
            columns["log_prob_per_dim"] = _placed(rows, log_prob / n_dims)
        if found.standard_error is not None:
            columns["standard_error"] = _placed(rows, found.standard_error)
        if typicality is not None:
            columns["typicality_p"] = _placed(rows, typicality)
    if found.classes is not None and found.probabilities is not None:
        columns["class"] = found.classes.numpy()
        columns["probability"] = _placed(rows, found.probabilities)
    return Table("scores", tuple(columns), tuple(columns.values()))


def _named(table: Table, names: tuple[str, ...]) -> Table:
    """Return the table with the names of the classes, where the run has some, for their numbers."""
    if not names:
        return table
    columns = [
        np.array(names, object)[cells] if name == "class" else cells
        for name, cells in zip(table.names, table.columns, strict=True)
    ]
    return Table(table.where, table.names, tuple(columns))


def _placed(rows: _Rows, values: Tensor) -> NDArray[np.float64]:
    placed = np.full(rows.n, math.nan)
    placed[rows.places] = rounded(values.double().numpy())
    return placed


def _summary(rows: _Rows, table: Table) -> str:
    n_scored, lines = len(rows.places), []
    if "log_prob" in table.names:
        log_prob = table.column("log_prob")[rows.places]
        n_nan = int(np.isnan(log_prob).sum())
        if n_nan:
            lines.append(f"{n_nan} rows have no log-likelihood and empty scores: the model overflows there")
        unit = "bits_per_dim" if "bits_per_dim" in table.names else "log_prob_per_dim"
        lines.append(
            f"log-likelihood of {n_scored} row{'s' * (n_scored > 1)}: {_mean(log_prob):.3f} nats on average, from "
            f"{np.fmin.reduce(log_prob):.3f} to {np.fmax.reduce(log_prob):.3f}; {unit} "
            f"{_mean(table.column(unit)[rows.places]):.3f}"
        )
        ranks = table.column("typicality_p") if "typicality_p" in table.names else table.column("log_prob")
        order = np.lexsort((table.column("log_prob"), ranks))[: min(_SHOWN, n_scored - n_nan)]
        least = ", ".join(f"{row + 1} ({_of(table, row)})" for row in order)
        lines.append(f"{'least typical' if 'typicality_p' in table.names else 'least likely'}: row {least}")
    if "class" in table.names:
        classes, counts = np.unique(table.column("class"), return_counts=True)
        listed = ", ".join(f"{label}: {count}" for label, count in zip(classes, counts, strict=True))
        lines.append(f"rows of each class: {listed}")
    n_left = rows.n - n_scored
    if n_left:
        lines.append(f"{n_left} of {rows.n} rows have missing cells and empty scores; fill them, or see impute")
    return "\n".join(lines)


def _mean(values: NDArray[Any]) -> float:
    """Return the mean of the numbers among some values."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _of(table: Table, row: int) -> str:
    parts = [f"p {table.column('typicality_p')[row]:.2g}"] if "typicality_p" in table.names else []
    return ", ".join([*parts, f"{table.column('log_prob')[row]:.2f} nats"])
