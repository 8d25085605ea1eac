"""The files of the model that a run keeps: its weights, and the scores of training samples beside them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import checkpoint
from .batches import Batch
from .config import TrainConfig
from .selection import Selection, loaded
from .tasks import flow_of
from .typicality import NAME as SCORES
from .typicality import training_scores


def write(
    path: Path, config: TrainConfig, model: nn.Module, metadata: dict[str, Any], scores: dict[str, Tensor]
) -> None:
    """Write a file of a model; errors as of `checkpoint.write`.

    Args:
        path: of the file.
        config: of the run, by which the weights are averaged or not.
        model: whose weights.
        metadata: as of a checkpoint.
        scores: what is beside the weights.
    """
    checkpoint.write(path, {**named(_kind(config), model), **scores}, metadata)


def read(folder: Path, config: TrainConfig, model: nn.Module) -> nn.Module:
    """Return a copy of a model, in eval mode, with the weights that were best on the validation part, from the file."""
    path = folder / checkpoint.BEST_FILE
    return loaded(model, checkpoint.read(path).part(_kind(config)), path)


def scores_of(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return the scores of training samples, "scores.<name>"; none of a model without a density."""
    if flow_of(model) is None:
        return {}
    scores = training_scores(copy.deepcopy(model), batch)
    return {SCORES: scores} if len(scores) else {}


def of_best(metadata: dict[str, Any], selection: Selection | None) -> dict[str, Any]:
    """Return the metadata of a run with the steps and minutes of the best model."""
    return metadata if selection is None else {**metadata, "step": selection.step, "minutes": selection.minutes}


def named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """Return the state_dict of a module as a checkpoint names it."""
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


def _kind(config: TrainConfig) -> str:
    return "model" if config.ema is None else "average"
