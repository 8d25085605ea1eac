"""Which model of a run is kept, and when to stop looking for a better one: by samples that are held out."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from . import checkpoint, distributed
from .batches import Batch
from .config import TrainConfig
from .evaluate import Evaluation
from .tasks import Task

# An evaluation of n samples costs about as much as a step of n, so that one in so many steps' worth of samples takes
# a few per cent of the time. What it takes however small it is may be as long as a few steps.
_SHARE, _FEWEST_STEPS = 20, 50
_BEST = "best"  # of the tensors of a checkpoint


class Selection:
    """The best model so far by the smallest mean of a metric over the samples held out.

    Args:
        config: of the run.
        held_out: the samples, on the CPU.
        per_epoch: steps of an epoch.

    Attributes:
        held_out: the samples.
        model: the best one, a copy in eval mode; None before the first evaluation, and where nobody evaluates.
        value: the mean of the metric of it; infinite before the first evaluation.
        step: number of steps it has taken.
        minutes: wall-clock time of them.
        n_worse: evaluations since.
    """

    def __init__(self, config: TrainConfig, held_out: Batch, per_epoch: int) -> None:
        """Begin without a model; the arguments are those of the class."""
        self.held_out = held_out
        self.model: nn.Module | None = None
        self.value, self.step, self.minutes, self.n_worse = math.inf, 0, 0.0, 0
        self._patience = config.patience
        self._is_timed = config.eval_steps is not None or config.eval_minutes is not None
        of_step = config.batch_size * config.accumulate
        self._every = max(per_epoch, _FEWEST_STEPS, math.ceil(_SHARE * len(held_out.x) / of_step))

    def is_due(self, step: int, by_config: bool) -> bool:
        """Return whether to evaluate after a step; `by_config`: whether eval_steps or eval_minutes say so."""
        return by_config if self._is_timed else step % self._every == 0

    def add(self, model: nn.Module, value: float, step: int, minutes: float, counts: bool = True) -> bool:
        """Take note of an evaluation; returns whether the model is the best so far.

        Args:
            model: kept as it is if it is.
            value: mean of the metric.
            step: number of steps that it has taken.
            minutes: time of them.
            counts: whether an evaluation that finds no better model uses up patience.
        """
        if self.model is not None and not value < self.value:
            self.n_worse += counts
            return False
        self.model, self.value, self.step, self.minutes, self.n_worse = model, value, step, minutes, 0
        return True

    def agree(self) -> None:
        """Let all processes know what the main one, which evaluates, has found."""
        self.step, self.n_worse = (int(distributed.agreed(number)) for number in (self.step, self.n_worse))

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint that `restore` goes on from."""
        if self.model is None:
            return {}
        numbers = torch.tensor([self.value, self.step, self.minutes, self.n_worse], dtype=torch.float64)
        weights = {f"{_BEST}.{name}": value for name, value in self.model.state_dict().items()}
        return {"log.best": numbers, **weights}

    def restore(self, found: checkpoint.Checkpoint, model: nn.Module) -> None:
        """Go on from the tensors of a checkpoint.

        Args:
            found: the checkpoint.
            model: such a model as the best one is, which a copy of gets its weights.

        Raises:
            ValueError: the tensors are not there, or of another shape or type; the sentence lacks the file.
            CheckpointError: they are no weights of such a model.
        """
        numbers = found.tensors.get("log.best")
        if numbers is None or numbers.shape != (4,) or numbers.dtype != torch.float64:
            got = "none" if numbers is None else f"{numbers.dtype} of shape {tuple(numbers.shape)}"
            raise ValueError(f"four numbers of float64 as log.best, got {got}")
        value, step, minutes, n_worse = numbers.tolist()
        if not (math.isfinite(value) and math.isfinite(minutes) and 0 <= step <= found.metadata["step"]):
            raise ValueError(f"the metric of a step before as log.best, got {value} of step {step}")
        if not 0 <= n_worse <= found.metadata["step"] + 1:
            raise ValueError(f"a number of evaluations as log.best, got {n_worse}")
        self.value, self.step, self.minutes, self.n_worse = value, int(step), minutes, int(n_worse)
        self.model = loaded(model, found.part(_BEST), found.path)

    def stops(self, metric: str, step: int) -> str | None:
        """Return the sentence about a run that ends after a step for want of patience; None: it goes on."""
        if self._patience is None or self.n_worse < self._patience:
            return None
        words, times = metric.replace("_", " "), f"{self.n_worse} evaluation{'s' * (self.n_worse != 1)}"
        return (
            f"no better validation {words} for {times}: training ends after step {step}; the model of step {self.step} "
            f"is kept"
        )


def loaded(model: nn.Module, weights: dict[str, Tensor], path: Path) -> nn.Module:
    """Return a copy of a model in eval mode with weights from a file; raises CheckpointError if they do not fit."""
    result = copy.deepcopy(model)
    checkpoint.load_weights(result, weights, path)
    return result.eval()


def means_of(found: Evaluation, weights: Tensor | None) -> dict[str, float]:
    """Return the means of the metrics over the samples, each times its weight [n] if there are weights."""
    if weights is None:
        return found.metrics
    shares = weights.double() / weights.double().sum()
    return {name: float((values * shares).sum()) for name, values in found.values.items()}


def class_weights(task: Task, labels: Tensor | None, config: TrainConfig) -> Tensor | None:
    """Return the weights of the classes, [n_classes], 1 on average over the labels [n] of the training samples.

    Raises:
        ValueError: there is no cross-entropy, another number of classes, or no label of a class that has a weight.
    """
    wanted, n_classes = config.class_weights, task.n_classes
    if wanted == "equal":
        return None
    if labels is None or n_classes is None:
        raise ValueError(
            f"class_weights must be 'equal' for a model that does not classify, got {wanted!r}; leave them out, or "
            f"train a classifier or a hybrid."
        )
    counts = torch.bincount(labels.cpu(), minlength=n_classes).double()
    if isinstance(wanted, str):  # a class without samples needs no weight
        return torch.where(counts > 0, len(labels) / (n_classes * counts), 0.0).float()
    if len(wanted) != n_classes:
        raise ValueError(
            f"class_weights must hold {n_classes} numbers, one for each class, got {len(wanted)}; correct them."
        )
    weights = torch.tensor(wanted, dtype=torch.float64)
    mean = float((weights * counts).sum()) / len(labels)
    if mean == 0.0:
        raise ValueError(
            f"class_weights must be positive for a class that has training samples, got {wanted}; correct them."
        )
    return (weights / mean).float()
