"""Draw samples from a trained model: as a table with the columns of the data, as a picture, or as an array."""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .. import _checks, data
from ..data import Table, TableSchema
from ..models import IResNetFlow
from ..training import pictures
from ..training.files import writing
from ..training.samples import can_draw as can_draw_events
from ..training.samples import samples_at
from ..training.table_of_run import schema_of
from ..training.tasks import flow_of
from ._contexts import bare_contexts, given_contexts, no_contexts, say_if_far
from ._options import add_machine_options, add_run_argument, check_file, machine, numbers, open_data, open_run
from ._tables import TABLES, check_suffix, numbered

N_SAMPLES = 64


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_argument(parser)
    parser.add_argument("--n", type=int, default=N_SAMPLES, help=f"number of samples (default: {N_SAMPLES})")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"file to write: a table, {', '.join(TABLES)}, with the columns, units and types of the data; a picture, "
        f"{', '.join(pictures.FORMATS)}; or an array, .npy (default: samples.csv for a table, samples.png for images)",
    )
    parser.add_argument("--npy", type=Path, help="file for the samples as an array [n, ...] (default: none)")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="factor of the prior's standard deviations (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    parser.add_argument(
        "--given",
        action="append",
        metavar="COLUMN=VALUE",
        help="value of a column of the context, for all samples; of several, separated by commas, each sample gets the "
        "next; repeat it for every column (default: none)",
    )
    parser.add_argument(
        "--context",
        type=numbers,
        metavar="NUMBERS",
        help="instead of --given: values of the context of all samples, separated by commas, in the units of the data; "
        "write --context=-1,2 if the first is negative (default: none)",
    )
    add_machine_options(parser)


def run(options: argparse.Namespace) -> None:
    """Write the samples.

    Raises:
        ValueError: the model has no samples, --out cannot hold them, or the context does not fit.
    """
    _checks.check_count("--n", options.n, 1)
    for name, path in (("--out", options.out), ("--npy", options.npy)):
        if path is not None:
            check_file(name, path)
    with machine(options) as device:
        model, metadata = open_run(options, device)
        flow = flow_of(model)
        if flow is None:
            raise ValueError("a classifier has no samples; train a flow or a hybrid.")
        out = _out(options, flow, schema_of(metadata) is not None)
        contexts = _contexts(options, flow, metadata)
        samples = draw_samples(flow, contexts, options.n, options.temperature, options.seed)
        _check_finite(samples, contexts is not None)
        if options.npy is not None:
            print(_write_array(samples, options.npy))
        if out is not None:
            print(_write(options, model, metadata, samples, contexts, out))


def _check_finite(samples: Tensor, is_given: bool) -> None:
    """Raise ValueError if no sample is finite, and say how many are not."""
    n_bad = int((~samples.flatten(1).isfinite().all(1)).sum())
    if n_bad == 0:
        return
    what = "the values of --given or --context, which may be far from those of training, or " if is_given else ""
    if n_bad == len(samples):
        raise ValueError(
            f"the samples must be finite numbers, got none of {n_bad} that is; correct {what}--temperature."
        )
    warnings.warn(
        f"iresnet_fast: {n_bad} of {len(samples)} samples are not finite, and their cells are empty; correct "
        f"{what}--temperature.",
        RuntimeWarning,
        stacklevel=2,
    )


def draw_samples(
    flow: IResNetFlow, contexts: Tensor | None, n: int = N_SAMPLES, temperature: float = 1.0, seed: int = 0
) -> Tensor:
    """Return n samples [n, *event_shape] of a seed, on the CPU, at contexts as `samples_at` takes them.

    Torch's global generator is not touched.
    """
    return samples_at(flow, n, contexts, temperature, seed).cpu()


def can_draw(flow: IResNetFlow) -> bool:
    """Return whether there are pictures of samples."""
    return can_draw_events(flow.config.event_shape)


def write_picture(flow: IResNetFlow, samples: Tensor, path: Path) -> Path:
    """Draw images, signals or points of the plane."""
    if flow.config.is_image:
        return pictures.image_grid(samples, path, flow.config.n_levels)
    return pictures.signals(samples, path) if samples.dim() == 3 else pictures.points(samples, path)


def _out(options: argparse.Namespace, flow: IResNetFlow, is_table: bool) -> Path | None:
    """Return the file to write beside that of --npy, if there is one; raises ValueError if it cannot hold samples."""
    tables = TABLES if len(flow.config.event_shape) == 1 else (".npy",)
    if options.out is None:
        if can_draw(flow) and not is_table:
            return Path("samples.png")
        return None if options.npy is not None else Path(f"samples{tables[0]}")
    known = (*tables, *pictures.FORMATS) if can_draw(flow) or is_table else tables
    check_suffix(options.out, known, f"samples of shape {flow.config.event_shape}")
    return Path(options.out)


def _contexts(options: argparse.Namespace, flow: IResNetFlow, metadata: dict[str, Any]) -> Tensor | None:
    """Return the contexts of the samples, [m, context_features]."""
    width, given, bare = flow.config.context_features, options.given, options.context
    if not width:
        if given is not None:
            raise ValueError(
                f"--given must be left out for a model without a context, got {given[0]!r}; train one with --context, "
                f"or fill the other columns of a row with impute."
            )
        if bare is not None:
            raise ValueError(f"--context must be left out for this model, got {len(bare)}; this model has no context.")
        return None
    if given is not None and bare is not None:
        raise ValueError("--given must be left out with --context, got both; pass one of them.")
    schema = _schema(flow, metadata)
    if given is not None:
        contexts = given_contexts(given, schema)
    elif bare is None:
        raise no_contexts(schema)
    else:
        contexts = bare_contexts(bare, schema)
    say_if_far(flow, contexts, schema)
    return contexts


def _schema(flow: IResNetFlow, metadata: dict[str, Any]) -> TableSchema:
    """Return the columns of a flow of vectors; those without names have numbers."""
    width = flow.config.context_features
    names = metadata["data"].get("context") or tuple(f"context {i + 1}" for i in range(width))
    return schema_of(metadata) or numbered(flow.config.n_dims, names)


def _write(
    options: argparse.Namespace,
    model: Any,
    metadata: dict[str, Any],
    samples: Tensor,
    contexts: Tensor | None,
    out: Path,
) -> Path:
    flow: Any = flow_of(model)
    is_picture = out.suffix.lower() in pictures.FORMATS
    if is_picture and can_draw(flow):
        return write_picture(flow, samples, out)
    if len(flow.config.event_shape) > 1:
        return _write_array(samples, out)
    schema = _schema(flow, metadata)
    repeated = None if contexts is None else contexts[np.arange(len(samples)) % len(contexts)]
    table = _with_given(schema, schema.decode(samples, repeated), samples, repeated)
    if is_picture:
        return _pairs(options, model, metadata, schema, table, out)
    data.write_table(table, out)
    return out


def _with_given(schema: TableSchema, table: Table, samples: Tensor, contexts: Tensor | None) -> Table:
    """Return the samples with the values of the context that were given, also where those of training were whole."""
    plain = [
        column if column.categories else dataclasses.replace(column, kind="number", step=0.0)
        for column in schema.context
    ]
    given = dataclasses.replace(schema, context=tuple(plain)).decode(samples, contexts)
    columns = [
        cells if place < len(schema.columns) or np.array_equal(cells, given.columns[place]) else given.columns[place]
        for place, cells in enumerate(table.columns)
    ]
    return Table(table.where, table.names, tuple(columns))


def _write_array(samples: Tensor, path: Path) -> Path:
    with writing(path) as file:  # np.save would add a suffix to another name
        np.save(file, samples.numpy())
    return path


def _pairs(
    options: argparse.Namespace, model: Any, metadata: dict[str, Any], schema: TableSchema, table: Table, out: Path
) -> Path:
    """Draw the columns of the samples beside those of the training rows."""
    of_run = argparse.Namespace(**{**vars(options), "data": None, "data_root": None})
    dataset = open_data(of_run, model, metadata)
    names = tuple(column.name for column in schema.columns)
    samples = Table(table.where, names, tuple(map(table.column, names)))
    return pictures.pairs(schema.decode(dataset.train), samples, out)
