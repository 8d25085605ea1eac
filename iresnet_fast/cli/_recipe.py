"""The options that say how to train, their defaults for given data, and fields of models as texts."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .. import _schema
from ..models import FlowConfig
from ..models._config import PARTS
from ..training.config import CLASS_WEIGHTS, DECAYS, OPTIMIZERS, SHIFT_PADDINGS, TrainConfig
from ..training.recipes import _TRAINING, MODELS
from ._options import numbers

BUDGETS = ("max_minutes", "max_steps", "max_epochs")


def _or_none(text: str) -> float | None:
    return None if text == "none" else float(text)


def _count_or_none(text: str) -> int | None:
    return None if text == "none" else int(text)


def _class_weights(text: str) -> str | tuple[float, ...]:
    return text if text in CLASS_WEIGHTS else numbers(text)


# As argparse calls them in errors.
_or_none.__name__ = "number, or none"
_count_or_none.__name__ = "number of evaluations, or none"
_class_weights.__name__ = "balanced, or numbers, separated by commas,"

OF_RECIPE = "that of the recipe"
# Field of TrainConfig: the type of its option, what it is, and its default.
RECIPE: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "max_minutes": (float, "budget in minutes; any of the three budgets replaces that of the recipe", OF_RECIPE),
    "max_steps": (int, "budget in steps", OF_RECIPE),
    "max_epochs": (int, "budget in passes over the training data", OF_RECIPE),
    "batch_size": (int, "samples of a backward pass, over all processes together", OF_RECIPE),
    "accumulate": (int, "backward passes whose gradients are averaged for a step", OF_RECIPE),
    "learning_rate": (float, "of the optimizer, after the warm-up and before the decay", OF_RECIPE),
    "betas": (numbers, "of adam, adamw and adamax, such as 0.9,0.99; another optimizer has torch's", OF_RECIPE),
    "weight_decay": (float, "of the optimizer", OF_RECIPE),
    "clip": (_or_none, "largest norm of the whole gradient, or none", OF_RECIPE),
    "warmup_steps": (int, "steps over which the learning rate rises", OF_RECIPE),
    "decay_start": (float, "fraction of the budget from which linear and cosine fall to 0; 1: never", OF_RECIPE),
    "decay_at": (numbers, "fractions of the budget at which steps lowers the rate, such as 0.5,0.8", OF_RECIPE),
    "decay_factor": (float, "what steps multiplies the rate by", OF_RECIPE),
    "restarts": (int, "equal periods of cosine", OF_RECIPE),
    "ema": (_or_none, "decay of the moving average of the weights, or none", OF_RECIPE),
    "shift": (int, "move training images by up to so many pixels, at random", OF_RECIPE),
    "validation": (float, "fraction of the training data held out to choose the model that is kept", OF_RECIPE),
    "patience": (
        _count_or_none,
        "end after so many evaluations on the held out data without a better one, or none",
        OF_RECIPE,
    ),
    "class_weights": (
        _class_weights,
        "how much each class counts in a cross-entropy: equal, balanced, or a number for each",
        "equal",
    ),
    "seed": (int, "of everything random", "0"),
    "eval_minutes": (
        float,
        "minutes from one evaluation to the next, on the held out data, else on test data",
        "only at the end, and with held out data every few epochs",
    ),
    "checkpoint_minutes": (float, "minutes from one checkpoint to the next", "1"),
    "checkpoint_steps": (int, "and steps from one checkpoint to the next", "only by minutes"),
    "keep": (int, "number of checkpoints to keep", "3"),
}
# And those with a choice.
CHOICES: dict[str, tuple[tuple[str, ...], str]] = {
    "optimizer": (OPTIMIZERS, "method; sgd has momentum 0.9"),
    "decay": (DECAYS, "how the learning rate falls"),
    "shift_padding": (SHIFT_PADDINGS, "what fills up the images that shift moves"),
}
_FIELDS = (*RECIPE, *CHOICES, "flip")


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that change the recipe, whose names are those of the fields of a TrainConfig."""
    group = parser.add_argument_group("recipe", "How to train: the data and the model have a recipe.")
    for field, (kind, text, default) in RECIPE.items():
        option, text = f"--{field.replace('_', '-')}", f"{text} (default: {default})"
        group.add_argument(option, type=kind, default=argparse.SUPPRESS, metavar="N", help=text)
    for field, (choices, text) in CHOICES.items():
        option, text = f"--{field.replace('_', '-')}", f"{text} (default: {OF_RECIPE})"
        group.add_argument(option, choices=choices, default=argparse.SUPPRESS, help=text)
    text = f"mirror training images at random (default: {OF_RECIPE})"
    group.add_argument("--flip", action="store_true", default=argparse.SUPPRESS, help=text)


def given_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a TrainConfig that the command line gives."""
    return {field: getattr(options, field) for field in _FIELDS if hasattr(options, field)}


def changed(training: TrainConfig, given: Mapping[str, Any]) -> TrainConfig:
    """Return a recipe with what is given; errors as of TrainConfig."""
    if any(budget in given for budget in BUDGETS):
        given = {**dict.fromkeys(BUDGETS), **given}
    if given.get("optimizer", training.optimizer) != training.optimizer:  # the recipe's betas are not for it
        given = {"betas": None, **given}
    if given.get("validation") == 0.0:  # nor is its patience for no validation
        given = {"patience": None, **given}
    return training.replace(**given)


@contextmanager
def naming_fields(given: Mapping[str, Any], option: str) -> Iterator[None]:
    """Let errors about a field that is given name its option, such as "--{}" or "--set {}"."""
    try:
        yield
    except (ValueError, TypeError) as error:
        field, _, rest = str(error).partition(" ")
        if field not in given or type(error) not in (ValueError, TypeError):
            raise
        shown = option.format(field.replace("_", "-") if option == "--{}" else field)
        raise type(error)(f"{shown} {rest}") from error


def show_values(parser: argparse.ArgumentParser, training: TrainConfig, of: str) -> None:
    """Let the help of the options say the values of a recipe in the place of words."""
    for action in parser._actions:
        if action.dest in _FIELDS and action.help is not None:
            value = getattr(training, action.dest)
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
            told = f"(for {of}: {shown})".replace("%", "%%")  # which argparse would fill in
            action.help = action.help.replace(f"(default: {OF_RECIPE})", told)


def recipes_table() -> str:
    """Return what the recipes begin with, a line for each model and preset."""
    rows = [("model", "preset", "batch", "optimizer", "rate", "budget")]
    for kind, presets in _TRAINING.items():
        for preset, training in presets.items():
            budgets = [
                f"{value:g} {name.removeprefix('max_')}"
                for name in BUDGETS
                if (value := getattr(training, name)) is not None
            ]
            rate = f"{training.learning_rate:g}"
            size = str(training.batch_size)
            rows.append((kind, preset or "others", size, training.optimizer, rate, " or ".join(budgets)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        ["recipes, where none is made for the size of the data", "(train --data DATA --help shows that of the data):"]
        + [f"  {line}" for line in lines]
    )


def change_of(text: str, kind: str) -> tuple[str, Any]:
    """Return field and value of a --set, for a kind of model: JSON, or a text as it is for a field of texts.

    Raises:
        ValueError: it is neither.
    """
    field, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set must be FIELD=VALUE, got {text!r}; write e.g. --set blocks=[4].")
    model_class = MODELS[kind]
    config = model_class.preset_config(model_class.presets()[0])
    hints = {**_schema.fields_of(FlowConfig)} if kind == "hybrid" else {}
    hints |= _schema.fields_of(type(config))
    if field not in hints:
        near = difflib.get_close_matches(field, hints, 1)
        advice = f"did you mean {near[0]!r}?" if near else "use one of them."
        raise ValueError(f"--set must name one of {', '.join(hints)} for a {kind}, got {field!r}; {advice}")
    hint = hints[field]
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        if str not in (hint, *typing.get_args(hint)):
            raise ValueError(
                f"--set {field} must be {_described(hint)} in JSON, got {value!r:.80}; write e.g. --set "
                f"{_example(config, field)}."
            ) from None
        return field, value
    if isinstance(found, dict) and "type" not in found:
        name, inner = next(iter(found.items()), ("Exact", {}))
        if name in PARTS and isinstance(inner, dict):
            advice = json.dumps({"type": name, **inner})
        else:
            advice = '{"type": "PowerSeries", "n_terms": 20}'
        raise ValueError(f"--set {field} must be an object that has a type, got {value:.80}; write '{field}={advice}'.")
    if isinstance(found, dict) and found["type"] not in _parts_of(hint):
        raise ValueError(
            f"--set {field} must be {_described(hint)} in JSON, got the type {found['type']!r:.60}; write e.g. "
            f"--set {_example(config, field)}."
        )
    if typing.get_origin(hint) is tuple and not isinstance(found, list):
        raise ValueError(
            f"--set {field} must be {_described(hint)} in JSON, got {value:.80}; write e.g. --set "
            f"{_example(config, field)}."
        )
    return field, found


def _parts_of(hint: Any) -> list[str]:
    """Return the names of the dataclasses that a field may have objects of."""
    parts = typing.get_args(hint) or (hint,)
    return [part.__name__ for part in parts if isinstance(part, type) and dataclasses.is_dataclass(part)]


def _described(hint: Any) -> str:
    names = _parts_of(hint)
    return f"an object of type {' or '.join(names)}" if names else _schema.described(hint)


def _example(config: Any, field: str) -> str:
    """Return what sets a field to its value in the configuration, or in its flow's, as a shell takes it."""
    values = config.to_dict()
    value = values[field] if field in values else values["flow"][field]
    hint = _schema.fields_of(type(config)).get(field) or _schema.fields_of(FlowConfig)[field]
    if value is None and "PowerSeries" in _parts_of(hint):
        value = {"type": "PowerSeries", "n_terms": 20}
    text = f"{field}={json.dumps(value)}"
    return f"'{text}'" if '"' in text else text
