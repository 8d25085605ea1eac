"""Send test data through a model and back, and see what comes out: x -> z -> x."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from torch import Tensor

from .. import _checks, data
from ..data import DataSet, Table, TableSchema
from ..models import ImageReconstruction, IResNetClassifier, Reconstruction
from ..training import pictures
from ..training.batches import Batch, test_batch
from ..training.files import writing
from ..training.recipes import Model
from ..training.table_of_run import schema_of
from ..training.tasks import flow_of, task_of
from ._options import add_data_options, add_machine_options, add_run_argument, check_file, machine, open_rows, open_run
from ._tables import TABLES, check_suffix, numbered

N_SAMPLES = 32


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_argument(parser)
    add_data_options(parser, None)
    parser.add_argument("--n", type=int, default=N_SAMPLES, help=f"number of test samples (default: {N_SAMPLES})")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"file to write: for vectors a table, {', '.join(TABLES)}, of every column, its reconstruction and the "
        f"difference; for images a picture, {', '.join(pictures.FORMATS)}; for all but vectors also their array, .npy "
        f"(default: reconstructions.csv for vectors, .png for images, else .npy)",
    )
    add_machine_options(parser)


def run(options: argparse.Namespace) -> None:
    """Print how exact the inverse is, and write data beside what it makes of them."""
    _checks.check_count("--n", options.n, 1)
    if options.out is not None:
        check_file("--out", options.out)
    with machine(options) as device:
        model, metadata = open_run(options, device)
        shape = task_of(model).event_shape
        is_drawn = len(shape) == 3 and shape[0] in (1, 3)
        known = TABLES if len(shape) == 1 else (*pictures.FORMATS, ".npy") if is_drawn else (".npy",)
        out = Path("reconstructions" + known[0]) if options.out is None else options.out
        check_suffix(out, known, f"data of shape {shape}")
        batch = open_rows(options, model, metadata).part(slice(options.n))
        x, found = reconstruct_rows(model, batch)
        print(describe(found))
        if len(shape) == 1:
            schema = schema_of(metadata) or numbered(shape[0])
            data.write_table(compared(schema, batch.x, found.x), out)
        elif out.suffix.lower() == ".npy":
            with writing(out) as file:
                np.save(file, found.x.cpu().numpy())
        else:
            pictures.reconstructions(x, found.x, found.error, out)
        print(out)


def reconstruct(model: Model, dataset: DataSet, n: int) -> tuple[Tensor, Reconstruction | ImageReconstruction]:
    """Return the first n test data as the model takes them, and after x -> z -> x."""
    return reconstruct_rows(model, test_batch(dataset).part(slice(n)))


def reconstruct_rows(model: Model, batch: Batch) -> tuple[Tensor, Reconstruction | ImageReconstruction]:
    """Return data [n, *event_shape] as the model takes them, and after x -> z -> x."""
    task = task_of(model)
    x, _, context, _ = batch.to(next(model.parameters()).device)
    inputs = task.inputs(x)
    if isinstance(model, IResNetClassifier):
        return inputs, model.reconstruct(inputs)
    flow = flow_of(model)
    assert flow is not None  # all other models have one
    return inputs, flow.reconstruct(inputs, task.context(context))


def compared(schema: TableSchema, x: Tensor, again: Tensor) -> Table:
    """Return every column of vectors [n, d], then its reconstruction, and their difference where it is one of numbers.

    The difference is that of the entries of the model, in the units of the file: of a column with an offset it has
    digits that the values themselves cannot show.
    """
    before, after = (schema.decode(values) for values in (x, again))
    apart = again.double().cpu() - x.double().cpu()
    names, cells, first = [], [], 0
    for column in schema.columns:
        names += [column.name, f"{column.name} reconstructed"]
        cells += [before.column(column.name), after.column(column.name)]
        if column.kind != "category":
            names.append(f"{column.name} error")
            cells.append(apart[:, first].numpy() * column.scale)
        first += column.width
    return Table("reconstructions", tuple(names), tuple(cells))


def describe(found: Reconstruction | ImageReconstruction) -> str:
    """Return how exact reconstructions are, in three lines."""
    what = "a pixel" if isinstance(found, ImageReconstruction) else "a sample, after preprocessing"
    mean, most = float(found.iterations.double().mean()), int(found.iterations.max())
    return (
        f"error of {what}: at most {float(found.error.max()):.2e}, measured\n"
        f"error of the inverse of a block: at most {float(found.block_error.max()):.2e}, certified\n"
        f"evaluations of branches for a sample: {mean:.0f} on average, {most} at most"
    )
