"""The data that a command looks at: rows of a file by the columns of the run, or the data of the run itself."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from .. import data
from ..data import Column, DataSet, ImageOptions, Source, Table, TableOptions, TableSchema
from ..data._load import load_whole
from ..training.batches import Batch, test_batch
from ..training.recipes import Model
from ..training.table_of_run import schema_of
from ..training.tasks import task_of

_MARKS = ("separator", "decimal", "encoding")
_PARENTS = 3  # folders above a run in which its data may have been moved with it


def table_options(options: argparse.Namespace, known: TableOptions | None = None) -> TableOptions:
    """Return how tables are read: what the options say, else what is known."""
    found = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(TableOptions)}
    given = {name: value for name, value in found.items() if value is not None}
    return dataclasses.replace(TableOptions() if known is None else known, **given)


def image_options(options: argparse.Namespace, known: ImageOptions | None = None) -> ImageOptions:
    """Return how images are read: what the options say, else what is known."""
    given = {"size": options.image_size, "mode": options.image_mode}
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(ImageOptions() if known is None else known, **given)


def open_rows(options: argparse.Namespace, model: Model, metadata: dict[str, Any], needs_labels: bool = True) -> Batch:
    """Return every row of the files asked for that has no missing cell, in order; else the test part of a data set.

    Of a folder or file of images or signals that is not split these are all of them, and without a need for labels
    their classes may be others than those of the run, or none. What is left out or filled is said.

    Raises:
        ValueError: a column is missing, a cell cannot be used, or the data do not fit the model.
    """
    shape = task_of(model).event_shape
    if options.data is None or not all(map(data.is_table, options.data)) or len(shape) > 1:
        return test_batch(_whole(options, model, metadata, needs_labels) or open_data(options, model, metadata))
    table = read_rows(options, metadata)
    schema = schema_of(metadata) or _in_order(table, shape[0], metadata)
    if len(table) == 0:
        raise ValueError(f"--data must have rows, got none in {table.where}; add some.")
    encoded = schema.encode(table)
    if len(encoded.rows) == 0:
        raise ValueError(f"--data must have a row without a missing cell, got none in {table.where}; fill them.")
    if len(encoded.rows) < len(table):
        _say(f"{len(table) - len(encoded.rows)} of {len(table)} rows of {table.where} lack a value and were left out.")
    if encoded.n_filled:
        _say(f"{encoded.n_filled} missing cells of {table.where} got the mean of the training rows.")
    return Batch(encoded.x, None, encoded.context)


def _whole(options: argparse.Namespace, model: Model, metadata: dict[str, Any], needs_labels: bool) -> DataSet | None:
    """Return the images or signals asked for, unsplit; None: other data were."""
    if options.data is None or len(options.data) > 1:
        return None
    dataset = load_whole(options.data[0], options.data_root, _images_like_training(options, metadata))
    if dataset is not None:
        dataset = dataset if needs_labels else _without_classes(dataset, model)
        _check(dataset, model, metadata)
    return dataset


def _without_classes(dataset: DataSet, model: Model) -> DataSet:
    """Return images with the same class for all, where the model has classes: nobody looks at it."""
    n_classes = getattr(model.config, "n_classes", None)
    labels = [None if n_classes is None else torch.zeros(len(x)).long() for x in (dataset.train, dataset.test)]
    return dataclasses.replace(
        dataset, train_labels=labels[0], test_labels=labels[1], n_classes=n_classes, class_names=()
    )


def _images_like_training(options: argparse.Namespace, metadata: dict[str, Any]) -> ImageOptions:
    """Return how images are read for a run: if it found colour, others are coloured too, even where all are grey."""
    source, shape = metadata["data"].get("source"), metadata["data"].get("event_shape", ())
    known = ImageOptions() if source is None else Source.from_dict(source).images
    if known.mode == "auto" and len(shape) == 3 and shape[0] == 3:
        known = dataclasses.replace(known, mode="colour")
    return image_options(options, known)


def _check(dataset: DataSet, model: Model, metadata: dict[str, Any]) -> None:
    """Raise ValueError unless the data fit the model, and their classes are those of the run."""
    expected = task_of(model).event_shape
    if dataset.event_shape != expected:
        kinds = {1: "rows of", 2: "signals of", 3: "images of"}
        shown, got = (f"{kinds[len(shape)]} {' x '.join(map(str, shape))}" for shape in (expected, dataset.event_shape))
        raise ValueError(
            f"--data must hold {shown} values as in training, got {got} in {dataset.name}; pass such data, or another "
            f"run."
        )
    task_of(model).check(dataset)
    names = tuple(metadata["data"].get("class_names") or ())
    if names and dataset.class_names and dataset.class_names != names:
        raise ValueError(
            f"--data must have the classes of the run, {', '.join(names)}, got {', '.join(dataset.class_names)}; "
            f"rename the folders."
        )


def read_rows(options: argparse.Namespace, metadata: dict[str, Any]) -> Table:
    """Return the table of --data, read as that of the run was; names of columns that the run knows are a header.

    Where those are not found so, and the options leave it open, marks and encoding are found out for this file.
    """
    source = metadata["data"].get("source")
    known = table_options(options, None if source is None else Source.from_dict(source).table)
    root = "" if options.data_root is None else options.data_root
    paths = [os.path.join(root, path) for path in options.data]
    schema = schema_of(metadata)
    left: dict[str, Any] = {name: "" for name in _MARKS if getattr(options, name, None) is None}
    free = dataclasses.replace(known, **left)
    if schema is None or free == known:
        return _with_columns(paths, known, schema)
    try:
        found = _with_columns(paths, known, schema)
        if _has(found, schema):
            return found
    except data.DataError:
        found = None
    with contextlib.suppress(data.DataError):
        again = _with_columns(paths, free, schema)
        if _has(again, schema):
            return again
    return _with_columns(paths, known, schema) if found is None else found


def _with_columns(paths: list[str], known: TableOptions, schema: TableSchema | None) -> Table:
    """Return the table of files, whose first line is a header or not as it fits the columns of a run."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        table = data.read_table(paths, known)
        again: Table | None = None
        if schema is not None and known.header == "auto" and not _has(table, schema):
            other = dataclasses.replace(known, header="no" if table.has_names else "yes")
            again = data.read_table(paths, other)
    if again is None or schema is None or not _has(again, schema):
        for warning in said:
            warnings.warn(warning.message, stacklevel=2)
        return table
    if table.has_names:
        _say(
            f"the first line of {again.where}, {', '.join(table.names)}, was taken for a row, as the run knows no such "
            f"columns; pass --header yes if it is not, and the names of the run."
        )
    return again


def open_data(options: argparse.Namespace, model: Model, metadata: dict[str, Any], say_again: bool = False) -> DataSet:
    """Return the data asked for, else those of the run; raises ValueError if they do not fit the model.

    The columns of the context are those of the run. What was said of its data in training is said again if asked for.
    """
    values = metadata["data"].get("source")
    if values is None:  # of a run that did not keep it
        source = Source((metadata["data"]["name"],), context=tuple(metadata["data"].get("context") or ()))
    else:
        source = Source.from_dict(values)
    if options.data is not None:
        dataset = data.load(
            options.data if len(options.data) > 1 else options.data[0],
            options.data_root,
            source.seed,
            source.context,
            table_options(options, source.table),
            _images_like_training(options, metadata),
        )
    else:
        dataset = _own_data(options, source, schema_of(metadata), say_again)
    _check(dataset, model, metadata)
    return dataset


def _own_data(options: argparse.Namespace, source: Source, schema: TableSchema | None, say_again: bool) -> DataSet:
    """Return the data of a run."""
    root = options.data_root if options.data_root is not None else source.root or None
    names = [_located(name, options.run_path, root) for name in source.names]
    with warnings.catch_warnings():
        if not say_again:
            warnings.filterwarnings("ignore", "iresnet_fast", RuntimeWarning)
        dataset = data.load(
            names if len(names) > 1 else names[0], root, source.seed, source.context, source.table, source.images
        )
    if schema is not None and dataset.table != schema:
        raise ValueError(
            f"the file {', '.join(names)} must be as it was in training, got another content; pass it as --data to "
            f"take all of its rows."
        )
    return dataset


def _located(name: str, run_path: Path, root: str | None) -> str:
    """Return where a file of a run is: it may have been moved, alone or together with the run."""
    if name in data.NAMES or os.path.exists(name if root is None else os.path.join(root, name)):
        return name
    run = run_path.absolute()
    parts = Path(name).parts
    for folder in (run, *run.parents[:_PARENTS], Path.cwd()):
        for n in range(1, min(_PARENTS, len(parts)) + 1):
            moved = folder.joinpath(*parts[-n:])
            if moved.is_file() or moved.is_dir():
                _say(f"the data of the run are no longer at {name}; {moved} was taken.")
                return str(moved)
    raise ValueError(f"--data must name the data of the run, got none at {name} any longer; pass their file.")


def _in_order(table: Table, n_columns: int, metadata: dict[str, Any]) -> TableSchema:
    """Return the columns of a run that did not keep them: those of the context by name, all others in order."""
    context = tuple(metadata["data"].get("context") or ())
    others = [name for name in table.names if name not in context]
    if len(others) != n_columns:
        raise ValueError(
            f"--data must have {n_columns} columns beside those of the context, got {len(others)} in {table.where}; "
            f"give it the columns that the run was trained on."
        )
    return TableSchema(tuple(map(Column, others)), tuple(map(Column, context)))


def _has(table: Table, schema: TableSchema) -> bool:
    return all(column.name in table.names for column in (*schema.columns, *schema.context))


def _say(sentence: str) -> None:
    warnings.warn(f"iresnet_fast: {sentence}", RuntimeWarning, stacklevel=3)
