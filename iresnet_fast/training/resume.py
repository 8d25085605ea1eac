"""What a run is, and whether a checkpoint is one of it."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from .. import _library
from ..data import DataSet
from .checkpoint import Checkpoint, CheckpointError
from .config import TrainConfig

# What may differ when a run goes on: none of it changes a step.
_FREE = (
    "max_steps",
    "max_epochs",
    "max_minutes",
    "eval_minutes",
    "eval_steps",
    "eval_samples",
    "log_steps",
    "checkpoint_minutes",
    "checkpoint_steps",
    "keep",
)


def identity(model: nn.Module, dataset: DataSet, config: TrainConfig) -> dict[str, Any]:
    """Return what all checkpoints of a run have in their metadata, in the form in which JSON returns it."""
    return {
        "model": type(model).__name__,
        "model_config": model.config.to_dict(),  # type: ignore[operator,union-attr]  # all models have one
        "train_config": config.to_dict(),
        "data": {
            "name": dataset.name,
            "event_shape": list(dataset.event_shape),
            "n_levels": dataset.n_levels,
            "n_classes": dataset.n_classes,
            "n_train": len(dataset.train),
        },
        "seed": config.seed,
        "backend": _library.backend(),
    }


def check_identity(found: Checkpoint, ours: dict[str, Any]) -> None:
    """Raise CheckpointError unless the checkpoint is of the same run; warn if its backend was another."""
    theirs = found.metadata
    # Fields that are newer than the checkpoint had their defaults.
    settings = TrainConfig(max_steps=1).to_dict() | theirs["train_config"]
    _check_equal(found, "a model of class", theirs["model"], ours["model"])
    for part, what in (("model_config", "a model with"), ("data", "data with"), ("train_config", "a TrainConfig with")):
        for name, value in ours[part].items():
            if part != "train_config" or name not in _FREE:
                value_then = (settings if part == "train_config" else theirs[part]).get(name)
                _check_equal(found, f"{what} {name} =", value_then, value)
    if theirs["backend"] != ours["backend"]:
        warnings.warn(
            f"iresnet_fast: {found.path} was written with backend {theirs['backend']!r}, this is {ours['backend']!r}: "
            f"the run goes on, but not with the same bits.",
            RuntimeWarning,
            stacklevel=2,
        )


def _check_equal(found: Checkpoint, what: str, theirs: object, ours: object) -> None:
    if theirs != ours:
        raise CheckpointError(
            f"{found.path} must be of {what} {ours!r} to go on from, got {theirs!r}; pass what the run began with, or "
            f"another folder."
        )
