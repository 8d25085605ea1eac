"""Train a model, and write its checkpoints, log and pictures into a folder.

Every data set has a recipe for the models that suit it; the options change it.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import data
from ..models import IResNetFlow
from ..training import distributed, pictures
from ..training.checkpoint import MODEL_FILE
from ..training.config import DECAYS, OPTIMIZERS, SHIFT_PADDINGS
from ..training.fit import Run, fit
from ..training.recipes import MODELS, recipe
from ..training.tasks import flow_of
from . import evaluate, reconstruct, sample
from ._options import add_data_options, add_machine_options, load_data, machine, numbers

_BUDGETS = ("max_minutes", "max_steps", "max_epochs")


def _or_none(text: str) -> float | None:
    return None if text == "none" else float(text)


_or_none.__name__ = "number, or none"  # as argparse calls it in errors

_OF_RECIPE = "that of the recipe"
# Field of TrainConfig: the type of its option, what it is, and its default.
_RECIPE: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "max_minutes": (float, "budget in minutes; any of the three budgets replaces that of the recipe", _OF_RECIPE),
    "max_steps": (int, "budget in steps", _OF_RECIPE),
    "max_epochs": (int, "budget in passes over the training data", _OF_RECIPE),
    "batch_size": (int, "samples of a backward pass, over all processes together", _OF_RECIPE),
    "accumulate": (int, "backward passes whose gradients are averaged for a step", _OF_RECIPE),
    "learning_rate": (float, "of the optimizer, after the warm-up and before the decay", _OF_RECIPE),
    "betas": (numbers, "of adam, adamw and adamax, such as 0.9,0.99; another optimizer has torch's", _OF_RECIPE),
    "weight_decay": (float, "of the optimizer", _OF_RECIPE),
    "clip": (_or_none, "largest norm of the whole gradient, or none", _OF_RECIPE),
    "warmup_steps": (int, "steps over which the learning rate rises", _OF_RECIPE),
    "decay_start": (float, "fraction of the budget from which linear and cosine fall to 0; 1: never", _OF_RECIPE),
    "decay_at": (numbers, "fractions of the budget at which steps lowers the rate, such as 0.5,0.8", _OF_RECIPE),
    "decay_factor": (float, "what steps multiplies the rate by", _OF_RECIPE),
    "restarts": (int, "equal periods of cosine", _OF_RECIPE),
    "ema": (_or_none, "decay of the moving average of the weights, or none", _OF_RECIPE),
    "shift": (int, "move training images by up to so many pixels, at random", _OF_RECIPE),
    "seed": (int, "of everything random", "0"),
    "eval_minutes": (float, "minutes from one evaluation on test data to the next", "only at the end"),
    "checkpoint_minutes": (float, "minutes from one checkpoint to the next", "1"),
    "checkpoint_steps": (int, "and steps from one checkpoint to the next", "only by minutes"),
    "keep": (int, "number of checkpoints to keep", "3"),
}
# And those with a choice.
_CHOICES: dict[str, tuple[tuple[str, ...], str]] = {
    "optimizer": (OPTIMIZERS, "method; sgd has momentum 0.9"),
    "decay": (DECAYS, "how the learning rate falls"),
    "shift_padding": (SHIFT_PADDINGS, "what fills up the images that shift moves"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_data_options(parser, "digits")
    parser.add_argument("--model", choices=list(MODELS), default="flow", help="kind of model (default: flow)")
    parser.add_argument("--preset", help="named configuration of that kind (default: the one for the data)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="another value, in JSON, of a field of the model's configuration: blocks=[4], or "
        "'activation=\"lipswish\"'; as often as needed (default: none)",
    )
    parser.add_argument("--folder", type=Path, help="where to write (default: runs/<data>-<model>)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint there (default: no)")
    parser.add_argument("--quiet", action="store_true", help="show no progress (default: show it)")
    add_machine_options(parser)
    group = parser.add_argument_group("recipe", "How to train: the data and the model have a recipe.")
    for field, (kind, text, default) in _RECIPE.items():
        option, text = f"--{field.replace('_', '-')}", f"{text} (default: {default})"
        group.add_argument(option, type=kind, default=argparse.SUPPRESS, metavar="N", help=text)
    for field, (choices, text) in _CHOICES.items():
        option, text = f"--{field.replace('_', '-')}", f"{text} (default: {_OF_RECIPE})"
        group.add_argument(option, choices=choices, default=argparse.SUPPRESS, help=text)
    text = f"mirror training images at random (default: {_OF_RECIPE})"
    group.add_argument("--flip", action="store_true", default=argparse.SUPPRESS, help=text)


def run(options: argparse.Namespace) -> None:
    """Train; errors as of `fit` and `recipe`."""
    with distributed.setup(), machine(options) as device:
        dataset = load_data(options)
        changes = dict(map(_change, options.set))
        given = {field: getattr(options, field) for field in (*_RECIPE, *_CHOICES, "flip") if hasattr(options, field)}
        with torch.random.fork_rng([]):
            torch.manual_seed(given.get("seed", 0))
            model, training = recipe(dataset, options.model, options.preset, changes)
        if any(budget in given for budget in _BUDGETS):
            given = {**dict.fromkeys(_BUDGETS), **given}
        if given.get("optimizer", training.optimizer) != training.optimizer:  # the recipe's betas are not for it
            given = {"betas": None, **given}
        training = training.replace(**given)
        folder = options.folder or Path("runs", f"{Path(options.data[0]).stem}-{options.model}")
        if distributed.is_main():
            n_parameters = sum(parameter.numel() for parameter in model.parameters())
            print(
                f"{type(model).__name__} of {n_parameters} parameters on {len(dataset.train)} samples of {dataset.name}"
            )
        done = fit(model.to(device), dataset, training, folder, resume=options.resume, show_progress=not options.quiet)
        if distributed.is_main():
            _report(done, dataset)


def _change(text: str) -> tuple[str, Any]:
    """Return field and value of a --set."""
    field, equals, value = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return field, json.loads(value)
    except ValueError as error:
        raise ValueError(
            f"--set must be FIELD=VALUE with a value in JSON, got {text!r}; write e.g. --set blocks=[4], or for text "
            f"--set 'activation=\"lipswish\"'."
        ) from error


def _report(done: Run, dataset: data.DataSet) -> None:
    """Draw the pictures, and say what has been reached and where everything is."""
    model: Any = done.best
    print(f"{done.step} steps in {done.minutes:.2f} minutes")
    if done.evaluation is not None:
        print(evaluate.describe(model, done.evaluation))
    drawn = [pictures.curves(done.folder / "log.csv", done.folder / "curves.png")]
    flow, contexts = flow_of(model), dataset.test_context
    if flow is not None and sample.can_draw(flow):
        drawn.append(sample.write_picture(flow, sample.draw_samples(flow, contexts), done.folder / "samples.png"))
    if isinstance(model, IResNetFlow) and dataset.event_shape == (2,):
        at = None if contexts is None else contexts[0]
        drawn.append(pictures.density(model, dataset.test, done.folder / "density.png", at))
    if isinstance(model, IResNetFlow) and len(dataset.event_shape) == 1:
        pictures.compare(model, dataset, done.folder / "pairs.png")
        pictures.calibration(model, dataset.test, done.folder / "calibration.png", contexts)
        drawn += [done.folder / "pairs.png", done.folder / "calibration.png"]
    x, found = reconstruct.reconstruct(model, dataset, reconstruct.N_SAMPLES)
    print(reconstruct.describe(found))
    if dataset.is_image:
        drawn.append(pictures.reconstructions(x, found.x, found.error, done.folder / "reconstructions.png"))
    print(f"model: {done.folder / MODEL_FILE}")
    print(f"log: {done.folder / 'log.csv'}, and for TensorBoard {done.folder / 'tensorboard'}")
    print(f"report: iresnet-fast report {shlex.quote(str(done.folder))} writes a page with all of this")
    print(f"pictures: {', '.join(map(str, drawn))}")
