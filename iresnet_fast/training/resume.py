"""What a run is, and whether a checkpoint is one of it."""

from __future__ import annotations

import json
import warnings
import zlib
from typing import Any

import torch
from torch import Tensor, nn

from .. import _library
from ..data import DataSet
from .checkpoint import Checkpoint
from .config import TrainConfig
from .metadata import CheckpointError, model_config_of, require

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
    "patience",
)
# Of the data, what may differ since the fingerprint says more: files that moved, or got another name.
_NAMING = ("source", "table", "fingerprint")
_KNOWN_BY_FINGERPRINT = ("name", "n_train")


def identity(model: nn.Module, model_config: Any, dataset: DataSet, config: TrainConfig) -> dict[str, Any]:
    """Return what all checkpoints of a run have in their metadata, in the form in which JSON returns it.

    Args:
        model: of the run.
        model_config: that of the model in the run.
        dataset: of the run.
        config: of the run.
    """
    return {
        "model": type(model).__name__,
        "model_config": model_config.to_dict(),
        "train_config": config.to_dict(),
        "data": {
            "name": dataset.name,
            "event_shape": list(dataset.event_shape),
            "n_levels": dataset.n_levels,
            "n_classes": dataset.n_classes,
            "n_train": len(dataset.train),
            "context": list(dataset.context_names) or None,  # None of checkpoints that do not know of it
            "class_names": list(dataset.class_names) or None,
            "fingerprint": fingerprint(dataset),
            "source": None if dataset.source is None else _as_json(dataset.source.to_dict()),
            "table": None if dataset.table is None else _as_json(dataset.table.to_dict()),
        },
        "seed": config.seed,
        "backend": _library.backend(),
    }


def check_identity(found: Checkpoint, ours: dict[str, Any]) -> None:
    """Raise CheckpointError unless the checkpoint is of the same run; warn if its backend was another."""
    theirs = found.metadata
    require(found.path, theirs, *ours, "step", "minutes")
    # Fields that are newer than the checkpoint had their defaults.
    theirs = {
        **theirs,
        "model_config": model_config_of(theirs),
        "train_config": TrainConfig(max_steps=1).to_dict() | theirs["train_config"],
    }
    _check_equal(found, "a model of class", theirs["model"], ours["model"])
    # First, since a context that was forgotten changes the shape of events too, which would say less.
    _check_equal(found, "data with context =", theirs["data"].get("context"), ours["data"]["context"])
    known = theirs["data"].get("fingerprint") is not None  # older checkpoints have none
    left_out = (*_NAMING, *_KNOWN_BY_FINGERPRINT) if known else _NAMING
    for part, what in (("model_config", "a model with"), ("data", "data with"), ("train_config", "a TrainConfig with")):
        for name, value in ours[part].items():
            if name not in (_FREE if part == "train_config" else left_out):
                _check_equal(found, f"{what} {name} =", theirs[part].get(name), value)
    if known and theirs["data"]["fingerprint"] != ours["data"]["fingerprint"]:
        raise CheckpointError(
            f"{found.path} must be of the {ours['data']['n_train']} training samples in {_origin(ours['data'])} to go "
            f"on from, got others, {theirs['data']['n_train']} that were in {_origin(theirs['data'])}; pass what the "
            f"run began with, or another folder."
        )
    if theirs["backend"] != ours["backend"]:
        warnings.warn(
            f"iresnet_fast: {found.path} was written with backend {theirs['backend']!r}, this is {ours['backend']!r}: "
            f"the run goes on, but not with the same bits.",
            RuntimeWarning,
            stacklevel=2,
        )


def means_of(log: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
    """Return the last losses [n] and gradient norms [n] of a checkpoint, and how many norms were unsettled before it.

    Raises:
        ValueError: they are not there, or of another shape or type; the sentence lacks the file.
    """
    for name in ("loss", "grad_norm"):
        value = log.get(name)
        if value is None or value.dim() != 1 or len(value) == 0 or not value.is_floating_point():
            got = "none" if value is None else f"{value.dtype} of shape {tuple(value.shape)}"
            raise ValueError(f"numbers of shape (n,) as log.{name}, got {got}")
    if len(log["loss"]) != len(log["grad_norm"]):
        raise ValueError(f"a gradient norm for each loss, got {len(log['grad_norm'])} for {len(log['loss'])}")
    unsettled = log.get("unsettled_norms", torch.tensor(0))  # older versions did not count them
    if unsettled.dim() != 0 or unsettled.is_floating_point() or int(unsettled) < 0:
        raise ValueError(f"a count as log.unsettled_norms, got {unsettled.dtype} of shape {tuple(unsettled.shape)}")
    return log["loss"], log["grad_norm"], int(unsettled)


def fingerprint(dataset: DataSet) -> int:
    """Return the crc32 of the bytes of the training samples, their labels, context and weights."""
    total = 0
    for part in (dataset.train, dataset.train_labels, dataset.train_context, dataset.train_weights):
        if part is not None:
            total = zlib.crc32(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def _as_json(values: dict[str, Any]) -> Any:
    """Return a dictionary in the form in which JSON returns it."""
    return json.loads(json.dumps(values))


def _origin(data: dict[str, Any]) -> str:
    """Return the files that data come from, or their name."""
    source = data.get("source")
    return ", ".join(source["names"]) if source else str(data["name"])


def _check_equal(found: Checkpoint, what: str, theirs: object, ours: object) -> None:
    if theirs != ours:
        raise CheckpointError(
            f"{found.path} must be of {what} {ours!r} to go on from, got {theirs!r}; pass what the run began with, or "
            f"another folder."
        )
