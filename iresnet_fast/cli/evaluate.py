"""Measure a trained model on test data: bits/dim, nats or error, how exact that is, and the Lipschitz constants.

Of a file of a table every row is taken.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from torch import nn

from .. import _checks
from ..certify.certificate import rounded_up
from ..models import certified_lipschitz
from ..training.batches import permutation
from ..training.evaluate import Evaluation, evaluate
from ..training.table_of_run import schema_of
from ..training.tasks import flow_of
from ._options import add_data_options, add_machine_options, add_run_argument, machine, open_rows, open_run


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_argument(parser)
    add_data_options(parser, None)
    parser.add_argument("--samples", type=int, metavar="N", help="so many test samples, drawn at random (default: all)")
    parser.add_argument("--batch-size", type=int, default=200, metavar="N", help="samples at a time (default: 200)")
    parser.add_argument(
        "--probes",
        type=probes,
        default=1,
        metavar="N|auto",
        help="estimates of each log-determinant to average, or as many as --standard-error takes (default: 1)",
    )
    parser.add_argument(
        "--standard-error",
        type=float,
        metavar="E",
        help="with --probes auto: how large that of the density may be for its probes, in its unit (default: 0.001)",
    )
    add_machine_options(parser)


def run(options: argparse.Namespace) -> None:
    """Print what is measured; errors as of `evaluate`."""
    with machine(options) as device:
        model, metadata = open_run(options, device)
        test = open_rows(options, model, metadata)
        if options.samples is not None:
            _checks.check_count("--samples", options.samples, 1)
            test = test.rows(permutation(len(test.x), 0)[: options.samples])
        x, labels, context, _ = test
        found = evaluate(
            model,
            x,
            labels,
            options.batch_size,
            context=context,
            probes=options.probes,
            standard_error=options.standard_error,
            show_progress=True,
        )
        print(describe(model, in_units_of_file(found, metadata)))


def in_units_of_file(found: Evaluation, metadata: dict[str, Any]) -> Evaluation:
    """Return what was found with nats of the columns as they are in the files: the loader may have scaled some."""
    schema = schema_of(metadata)
    if schema is None or "nats" not in found.metrics:
        return found
    return dataclasses.replace(found, metrics={**found.metrics, "nats": found.metrics["nats"] + schema.log_scale})


def probes(text: str) -> int | str:
    """Return the value of --probes."""
    return text if text == "auto" else int(text)


probes.__name__ = "number of probes, or auto"  # as argparse calls it in errors


def describe(model: nn.Module, found: Evaluation) -> str:
    """Return what was found, how exact it is, and how invertible the model, in three lines at most."""
    lines = [str(found)]
    if found.truncation_bound > 0.0:
        unit = next(iter(found.metrics)).replace("_per_", "/")
        lines.append(f"log-determinants: truncated, off by {found.truncation_bound:.1e} {unit} at most")
    elif flow_of(model) is not None:
        lines.append("log-determinants: exact")
    table = certified_lipschitz(model)
    constant, norm = rounded_up(table.worst), rounded_up(table.worst_layer)
    lines.append(f"certified: no branch has a Lipschitz constant above {constant}, no layer a norm above {norm}")
    return "\n".join(lines)
