"""Draw samples from a trained model, as a picture, as numbers, or both."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from torch import Tensor

from .. import _checks
from ..models import IResNetFlow
from ..training import pictures
from ..training.files import writing
from ..training.tasks import flow_of
from ._options import add_machine_options, add_output_option, add_run_argument, check_file, machine, open_run

N_SAMPLES = 64


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_argument(parser)
    parser.add_argument("--n", type=int, default=N_SAMPLES, help=f"number of samples (default: {N_SAMPLES})")
    add_output_option(parser, "samples.png")
    parser.add_argument("--npy", type=Path, help="file for the samples as an array [n, ...] (default: none)")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="factor of the prior's standard deviations (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    add_machine_options(parser)


def run(options: argparse.Namespace) -> None:
    """Write the samples.

    Raises:
        ValueError: the model has no samples, or they cannot be drawn and there is no --npy.
    """
    _checks.check_count("--n", options.n, 1)
    check_file("--out", options.out)
    if options.npy is not None:
        check_file("--npy", options.npy)
    with machine(options) as device:
        flow = flow_of(open_run(options, device)[0])
        if flow is None:
            raise ValueError("a classifier has no samples; train a flow or a hybrid.")
        if options.npy is None and not can_draw(flow):
            shape = flow.config.event_shape
            raise ValueError(f"samples of shape {shape} have no picture, got no --npy; name a file for the numbers.")
        samples = draw_samples(flow, options.n, options.temperature, options.seed)
        if options.npy is not None:
            with writing(options.npy) as file:  # np.save would add a suffix to another name
                np.save(file, samples.numpy())
            print(options.npy)
        if can_draw(flow):
            print(write_picture(flow, samples, options.out))


def draw_samples(flow: IResNetFlow, n: int = N_SAMPLES, temperature: float = 1.0, seed: int = 0) -> Tensor:
    """Return n samples [n, *event_shape] of a seed, on the CPU; torch's global generator is not touched."""
    return flow.sample(n, temperature=temperature, seed=seed).cpu()


def can_draw(flow: IResNetFlow) -> bool:
    """Return whether there are pictures of samples: they are images or points of the plane."""
    return flow.config.is_image or flow.config.event_shape == (2,)


def write_picture(flow: IResNetFlow, samples: Tensor, path: Path) -> Path:
    """Draw images or points of the plane."""
    if flow.config.is_image:
        return pictures.image_grid(samples, path, flow.config.n_levels)
    return pictures.points(samples, path)
