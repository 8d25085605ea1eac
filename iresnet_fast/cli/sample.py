"""Draw samples from a trained model, as a picture, as numbers, or both."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import _checks
from ..models import IResNetFlow
from ..training import pictures
from ..training.files import writing
from ..training.samples import samples_at
from ..training.tasks import flow_of
from ._options import add_machine_options, add_output_option, add_run_argument, check_file, machine, numbers, open_run

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
    parser.add_argument(
        "--context",
        type=numbers,
        metavar="NUMBERS",
        help="values of the context of all samples, separated by commas, in the units of the data; write "
        "--context=-1,2 if the first is negative (default: none)",
    )
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
        model, metadata = open_run(options, device)
        flow = flow_of(model)
        if flow is None:
            raise ValueError("a classifier has no samples; train a flow or a hybrid.")
        if options.npy is None and not can_draw(flow):
            shape = flow.config.event_shape
            raise ValueError(f"samples of shape {shape} have no picture, got no --npy; name a file for the numbers.")
        contexts = _contexts(flow, options.context, metadata["data"].get("context"))
        samples = draw_samples(flow, contexts, options.n, options.temperature, options.seed)
        if options.npy is not None:
            with writing(options.npy) as file:  # np.save would add a suffix to another name
                np.save(file, samples.numpy())
            print(options.npy)
        if can_draw(flow):
            print(write_picture(flow, samples, options.out))


def draw_samples(
    flow: IResNetFlow, contexts: Tensor | None, n: int = N_SAMPLES, temperature: float = 1.0, seed: int = 0
) -> Tensor:
    """Return n samples [n, *event_shape] of a seed, on the CPU, at contexts as `samples_at` takes them.

    Torch's global generator is not touched.
    """
    return samples_at(flow, n, contexts, temperature, seed).cpu()


def _contexts(flow: IResNetFlow, given: tuple[float, ...] | None, names: list[str] | None) -> Tensor | None:
    """Return the context of all samples, [1, context_features]."""
    width = flow.config.context_features
    if len(given or ()) != width:
        expected = f"{width} numbers, of {', '.join(names)}," if names else f"{width} numbers" if width else "left out"
        got = "none" if given is None else len(given)
        advice = f"pass e.g. --context={','.join(['0.5'] * width)}" if width else "this model has no context"
        raise ValueError(f"--context must be {expected} for this model, got {got}; {advice}.")
    if given is None:
        return None
    contexts = torch.tensor([given])
    if not bool(contexts.isfinite().all()):
        raise ValueError(f"--context must be finite numbers, got {', '.join(map(str, given))}; correct it.")
    return contexts


def can_draw(flow: IResNetFlow) -> bool:
    """Return whether there are pictures of samples: images of 1 or 3 channels, signals, points of the plane."""
    shape = flow.config.event_shape
    return shape[0] in (1, 3) if flow.config.is_image else len(shape) == 2 or shape == (2,)


def write_picture(flow: IResNetFlow, samples: Tensor, path: Path) -> Path:
    """Draw images, signals or points of the plane."""
    if flow.config.is_image:
        return pictures.image_grid(samples, path, flow.config.n_levels)
    return pictures.signals(samples, path) if samples.dim() == 3 else pictures.points(samples, path)
