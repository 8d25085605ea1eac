"""What a model takes from the data before its first step."""

from __future__ import annotations

import torch
from torch import nn

from .batches import Batches, seed_initial
from .tasks import Task, flow_of


@torch.no_grad()
def start(model: nn.Module, task: Task, batches: Batches, seed: int) -> None:
    """Start preprocessing, ActNorms and a learned prior from training data, the same in all processes."""
    seed_initial(seed)
    flow = flow_of(model)
    if flow is not None and flow.standardizes:
        # The validation part chooses among models that share these statistics, so they may be of all samples: a
        # Gaussian of fewer would be worse by more than a small table lets a flow gain.
        batch = batches.whole()
        flow.fit_preprocessing(task.inputs(batch.x), task.context(batch.context), batch.weights)
    batch = batches.initial()
    task.initialize(task.inputs(batch.x), task.context(batch.context))
