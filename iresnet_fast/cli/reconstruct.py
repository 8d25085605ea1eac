"""Send test data through a model and back, and see what comes out: x -> z -> x."""

from __future__ import annotations

import argparse

from torch import Tensor

from .. import _checks
from ..data import DataSet
from ..models import ImageReconstruction, IResNetClassifier, Reconstruction
from ..training import pictures
from ..training.batches import test_batch
from ..training.recipes import Model
from ..training.tasks import flow_of, task_of
from ._options import (
    add_data_options,
    add_machine_options,
    add_output_option,
    add_run_argument,
    check_file,
    machine,
    open_data,
    open_run,
)

N_SAMPLES = 32


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_argument(parser)
    add_data_options(parser, None)
    parser.add_argument("--n", type=int, default=N_SAMPLES, help=f"number of test samples (default: {N_SAMPLES})")
    add_output_option(parser, "reconstructions.png")
    add_machine_options(parser)


def run(options: argparse.Namespace) -> None:
    """Print how exact the inverse is, and draw images beside what it makes of them."""
    _checks.check_count("--n", options.n, 1)
    check_file("--out", options.out)
    with machine(options) as device:
        model, metadata = open_run(options, device)
        dataset = open_data(options, model, metadata)
        x, found = reconstruct(model, dataset, options.n)
        print(describe(found))
        if dataset.is_image:
            print(pictures.reconstructions(x, found.x, found.error, options.out))


def reconstruct(model: Model, dataset: DataSet, n: int) -> tuple[Tensor, Reconstruction | ImageReconstruction]:
    """Return the first n test data [n, *event_shape] as the model takes them, and after x -> z -> x."""
    task = task_of(model)
    device = next(model.parameters()).device
    x, _, context, _ = test_batch(dataset)
    inputs = task.inputs(x[:n].to(device))
    if isinstance(model, IResNetClassifier):
        return inputs, model.reconstruct(inputs)
    flow = flow_of(model)
    assert flow is not None  # all other models have one
    return inputs, flow.reconstruct(inputs, None if context is None else task.context(context[:n].to(device)))


def describe(found: Reconstruction | ImageReconstruction) -> str:
    """Return how exact reconstructions are, in three lines."""
    what = "a pixel" if isinstance(found, ImageReconstruction) else "a sample, after preprocessing"
    mean, most = float(found.iterations.double().mean()), int(found.iterations.max())
    return (
        f"error of {what}: at most {float(found.error.max()):.2e}, measured\n"
        f"error of the inverse of a block: at most {float(found.block_error.max()):.2e}, certified\n"
        f"evaluations of branches for a sample: {mean:.0f} on average, {most} at most"
    )
