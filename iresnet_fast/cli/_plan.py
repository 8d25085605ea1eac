"""What `train` is asked to do: data, a new model and how to train it, from its options and perhaps a run.yaml."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from .. import data
from ..data import Source
from ..models import FlowConfig
from ..training import checkpoint, distributed, run_file
from ..training.batches import divided
from ..training.config import TrainConfig
from ..training.fit import free_folder
from ..training.recipes import MODELS, Model, recipe, sizes_of
from ..training.run_file import RUN_FILE
from ._options import load_data
from ._recipe import change_of, changed, given_of, naming_fields

DATA, MODEL = "digits", "flow"  # where none is given


@dataclass(frozen=True)
class Plan:
    """What to train.

    Attributes:
        dataset: what on.
        model: with its initial weights, on the CPU.
        training: how.
        seed: of the initial weights.
        folder: where to write.
        notes: sentences about what was chosen and why.
    """

    dataset: data.DataSet
    model: Model
    training: TrainConfig
    seed: int
    folder: Path
    notes: tuple[str, ...]


def plan(options: argparse.Namespace) -> Plan:
    """Return what the options of `train` ask for; errors as of `data.load`, `recipe`, TrainConfig and `run_file.read`.

    Nothing is written.
    """
    config = options.config or _config_of_folder(options)
    known = None if config is None else run_file.read(config)
    kind = options.model or (MODEL if known is None else _kind_of(known.model))
    presets = MODELS[kind].presets()
    if options.preset not in (None, *presets):
        raise ValueError(
            f"--preset must be one of {', '.join(presets)} for a {kind}, got {options.preset!r}; use one of them."
        )
    dataset = load_data(options, _source(options, known))
    given, changes = given_of(options), dict(change_of(text, kind) for text in options.set)
    notes: list[str] = []
    seed = _seed(given, known, notes)
    with torch.random.fork_rng([]), naming_fields(changes, "--set {}"):
        torch.manual_seed(seed)
        if known is None or options.preset is not None or MODELS[kind].__name__ != known.model:
            model, training = recipe(dataset, kind, options.preset, changes)
        else:
            model, training = _model(known, changes), known.train_config
    with naming_fields(given, "--{}"):
        training = changed(training if known is None else known.train_config, given)
    if known is None:
        with naming_fields(given, "--{}"):
            training = _fitting(training, given, dataset)
        sizes = sizes_of(dataset, kind, options.preset)
        if sizes is not None and not changes and not {"batch_size", "validation"} & given.keys():
            notes.append(f"sizes: {sizes.reason}")
    with naming_fields(given, "--{}"):
        _check_batch_size(training, dataset)
    folder = _folder(options, dataset, kind, notes)
    if options.resume and not checkpoint.paths(folder):
        notes.append(f"resume: nothing to go on with in {folder}, a new run begins there")
    return Plan(dataset, model, training, seed, folder, tuple(notes))


def _config_of_folder(options: argparse.Namespace) -> Path | None:
    """Return the run.yaml of a folder to go on in, if no other data are asked for."""
    if not options.resume or options.folder is None or options.data is not None:
        return None
    path = Path(options.folder, RUN_FILE)
    return path if path.is_file() else None


def _source(options: argparse.Namespace, known: run_file.RunFile | None) -> Source:
    if known is None:
        return Source((DATA,))
    if known.source is None and options.data is None:
        raise ValueError(
            f"--data must be given for {options.config}, whose data, {known.data}, were made in Python, got none; pass "
            f"the file or the name of a data set."
        )
    return known.source or Source((known.data,))


def _seed(given: Mapping[str, Any], known: run_file.RunFile | None, notes: list[str]) -> int:
    """Return the seed of the initial weights."""
    if "seed" in given or known is None:
        seed: int = given.get("seed", 0)
        return seed
    if known.initial_seed is None:
        notes.append("initial weights: drawn by the seed of the run, since those of its model were made in Python")
        return known.train_config.seed
    return known.initial_seed


def _kind_of(name: str) -> str:
    return next(kind for kind, model_class in MODELS.items() if model_class.__name__ == name)


def _model(known: run_file.RunFile, changes: dict[str, Any]) -> Model:
    """Return a new model of a run.yaml, with other values of some fields; of a hybrid, of its flow's too."""
    config, own = known.model_config, dict(changes)
    if hasattr(config, "flow"):
        names = {field.name for field in fields(FlowConfig)} & own.keys()
        own["flow"] = config.flow.replace(**{name: own.pop(name) for name in names})
    model_class: Any = MODELS[_kind_of(known.model)]
    model: Model = model_class(config.replace(**own))
    return model


def _n_fit(training: TrainConfig, dataset: data.DataSet) -> int:
    rest, _ = divided(len(dataset.train), training)
    return len(dataset.train) if rest is None else len(rest)


def _fitting(training: TrainConfig, given: Mapping[str, Any], dataset: data.DataSet) -> TrainConfig:
    """Return a recipe whose batches are no larger than the data, unless their size is given."""
    most = _n_fit(training, dataset) // training.accumulate
    most -= most % distributed.world_size()
    if "batch_size" in given or not 0 < most < training.batch_size:
        return training
    return training.replace(batch_size=most)


def _check_batch_size(training: TrainConfig, dataset: data.DataSet) -> None:
    of_step, most = training.batch_size * training.accumulate, _n_fit(training, dataset)
    if of_step > most:
        what = "--batch-size" if training.accumulate == 1 else "--batch-size times --accumulate"
        held_out = " that are not held out" if training.validation else ""
        raise ValueError(
            f"{what} must be at most {most}, the training samples of {dataset.name}{held_out}, got {of_step}; lower it."
        )


def _folder(options: argparse.Namespace, dataset: data.DataSet, kind: str, notes: list[str]) -> Path:
    """Return where to write: without --folder a new one, and to go on the newest there is."""
    if options.folder is not None:
        return Path(options.folder)
    if options.config is not None and options.resume:
        return Path(options.config).parent
    name = Path(dataset.name if dataset.source is None else dataset.source.names[0]).stem or dataset.name
    first = Path("runs", f"{name}-{kind}")
    folder = free_folder(first)
    if options.resume:
        number = int(folder.name.removeprefix(f"{first.name}-")) - 1 if folder != first else 1
        return first if number < 2 else first.with_name(f"{first.name}-{number}")
    if folder != first:
        notes.append(f"folder: {folder}, since {first} is there; --resume goes on with the newest")
    return folder
