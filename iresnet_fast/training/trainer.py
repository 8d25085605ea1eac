"""The state of a run, and what a step, a report and a checkpoint do with it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data import DataSet
from . import checkpoint, distributed, kept, schedule
from .baseline import Baseline, compare
from .batches import Batches, seed_batch, test_batch, test_subset
from .checkpoint import Checkpoint
from .config import TrainConfig
from .evaluate import Evaluation, evaluate
from .log import Log
from .measures import Measures
from .metadata import naming
from .optimization import Optimization
from .progress import make_progress
from .resume import check_identity, identity
from .selection import Selection, class_weights, means_of
from .start import start
from .tasks import LossModule, task_of


class Trainer:
    """A run that can take steps, report and write checkpoints.

    Args:
        model: trained in place.
        dataset: what on.
        config: how.
        folder: of the run; it exists.
        found: the checkpoint to go on from; None: start.
        show_progress: whether to show it.

    Raises:
        ValueError: the parts do not fit each other, or the checkpoint is of another run.

    Attributes:
        identity: what all checkpoints of the run have in their metadata.
        step: number of steps taken.
        minutes: wall-clock time of them and of what was in between.
        log: of the main process, else None.
        evaluation: the one at the end, of the main process, else None.
        baseline: how the model compares with a Gaussian, of the main process, where that can be asked; else None.
        stopped: the sentence about a run that ended for want of patience; None: it did not.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: DataSet,
        config: TrainConfig,
        folder: Path,
        found: Checkpoint | None,
        show_progress: bool,
    ) -> None:
        """Start or go on; arguments and errors are those of the class."""
        self._model, self._dataset, self._config, self._folder = model, dataset, config, folder
        self._task = task_of(model, config.density_weight)
        self._batches = Batches(dataset, config, next(model.parameters()).device)
        self.identity = identity(model, self._task.adopted(dataset), dataset, config)
        if found is not None:
            check_identity(found, self.identity)
        self._task.class_weights = class_weights(self._task, self._batches.all().labels, config)
        held_out = self._batches.validation
        self._selection = None if held_out is None else Selection(config, held_out, self._batches.per_epoch)
        self._task.adopt(dataset)  # after the checks: an error leaves the model as it was
        model.train()
        if found is None:
            start(model, self._task, self._batches, config.seed)
        self.optimization = Optimization(model, config)
        self.step, self.minutes = 0, 0.0
        self._measures = Measures(model, config.log_steps, folder)
        self.stopped: str | None = None
        if found is not None:
            self._restore(found)
        self._loss = distributed.wrap(LossModule(model, self._task))
        self._rate, self._begin = 0.0, time.monotonic() - 60.0 * self.minutes
        self._evaluated = self._saved = self.minutes
        self._reported = (self.step, time.monotonic())
        is_main, validates = distributed.is_main(), held_out is not None
        self.log = Log(folder, self._task.metrics, self.step, validates) if is_main else None
        self._progress = make_progress(show_progress and is_main, self.progress)
        self.evaluation: Evaluation | None = None
        self.baseline: Baseline | None = None

    @property
    def is_over(self) -> bool:
        """Whether the budget is used, or patience is."""
        return self.progress >= 1.0 or self.stopped is not None

    @property
    def progress(self) -> float:
        """Fraction of the budget that is used, from 0; the run is over at 1."""
        return schedule.progress(self._config, self.step, self._batches.per_epoch, self.minutes)

    @property
    def average(self) -> nn.Module:
        """The model with averaged weights if there is one, else the model."""
        average = self.optimization.average
        return self._model if average is None else average

    @property
    def kept(self) -> nn.Module | None:
        """The model that was best on the validation part, in eval mode; None without one.

        Processes that did not evaluate read the file that the main one has written at the end of the run.
        """
        if self._selection is None:
            return None
        if self._selection.model is None or not distributed.is_main():
            return kept.read(self._folder, self._config, self._model)
        return self._selection.model

    @property
    def step_of_best(self) -> int:
        """Number of steps that the best model has taken."""
        return self.step if self._selection is None else self._selection.step

    def start(self, keep_folder: Callable[[], None]) -> None:
        """Evaluate the model that a run begins with, so that one which only gets worse ends with that."""
        if self._selection is not None and self.step == 0:
            keep_folder()
            measured = self._validate(self._selection)
            if self.log is not None:
                self.log.write({"step": 0, "epoch": 0.0, "minutes": 0.0, **measured})

    def advance(self) -> None:
        """Take a step."""
        self._rate = schedule.learning_rate(self._config, self.step, self.progress)
        self.optimization.optimizer.zero_grad(set_to_none=True)
        losses = [self._backward(part) for part in range(self._config.accumulate)]
        norm = self.optimization.step(self.step, self._rate)
        self._measures.add(torch.stack(losses).mean(), norm)
        self.step += 1
        self.minutes = distributed.agreed((time.monotonic() - self._begin) / 60.0)

    def report(self, interrupted: bool, keep_folder: Callable[[], None]) -> None:
        """Log, evaluate and write a checkpoint where that is due; `keep_folder` comes before.

        Of a run that is over, all but the evaluation on the test set, which is that of `finish`.

        Raises:
            ValueError: a loss or a gradient since the last report was not finite.
        """
        config, selection = self._config, self._selection
        is_due = _is_due(self.step, config.eval_steps, self.minutes - self._evaluated, config.eval_minutes)
        in_turn = selection is not None and selection.is_due(self.step, is_due)
        must_validate = selection is not None and (in_turn or self.is_over)
        must_save = (
            self.is_over
            or interrupted
            or _is_due(self.step, config.checkpoint_steps, self.minutes - self._saved, config.checkpoint_minutes)
        )
        if not (is_due or must_validate or must_save or self.step % config.log_steps == 0):
            return
        loss, norm = self._measures.means(self.step)
        keep_folder()
        measured = self._validate(selection, in_turn) if selection is not None and must_validate else {}
        must_save = must_save or self.is_over  # which may just have come out
        if self.log is not None:
            row = self._row(loss, norm)
            if is_due or must_save:
                row |= self._measures.of_model(self.is_over)
            row |= measured
            if is_due and not self.is_over:
                if selection is None:
                    row |= self._evaluate(test_subset(self._dataset, config))
                else:
                    self.log.add_samples(copy.deepcopy(self.average).eval(), self.step, self._dataset.test_context)
            self.log.write(row)
            if must_save:
                self._save()
            if not self.is_over:
                self._progress.update(self.log.rows[-1], self.progress, self.minutes)
        now = distributed.agreed((time.monotonic() - self._begin) / 60.0)  # the next reports too are due for all
        self._evaluated = now if is_due else self._evaluated
        self._saved = now if must_save else self._saved
        self._reported = (self.step, time.monotonic())

    def finish(self, keep_folder: Callable[[], None]) -> None:
        """Evaluate on the test set and write the files of the best model, at the end of a run; `keep_folder` before."""
        if self.log is None:
            return
        keep_folder()
        metrics = self._evaluate(None)
        self.log.complete(metrics)
        self._progress.update(self.log.rows[-1], 1.0, self.minutes)
        if self.stopped is not None:
            self._progress.say(self.stopped)
        scores = kept.scores_of(self.kept or self.average, self._batches.all())
        for name in (checkpoint.MODEL_FILE, *([checkpoint.BEST_FILE] if self._selection is not None else [])):
            self._write_best(name, scores)

    def close(self) -> None:
        """Close the log and the progress bar."""
        self._progress.close()
        if self.log is not None:
            self.log.close()

    def _backward(self, part: int) -> Tensor:
        """Add the share of a part of the step to the gradients; returns its loss [], without a graph."""
        n_parts = self._config.accumulate
        number = self.step * n_parts + part
        seed_batch(self._config.seed, number)
        x, labels, context, weights = self._batches(number)
        # Processes exchange gradients once a step: with the last part go those of the others.
        is_last, module = part == n_parts - 1, self._loss
        with nullcontext() if is_last or not isinstance(module, DistributedDataParallel) else module.no_sync():
            loss: Tensor = module(self._task.inputs(x), labels, self._task.context(context), weights)
            loss.backward(torch.full_like(loss, 1.0 / n_parts))  # type: ignore[no-untyped-call]
        return loss.detach()

    def _restore(self, found: Checkpoint) -> None:
        checkpoint.load_weights(self._model, found.part("model"), found.path)
        average = self.optimization.average
        if average is not None:
            checkpoint.load_weights(average, found.part("average"), found.path)
        self.step, self.minutes = found.metadata["step"], found.metadata["minutes"]
        with naming(found.path):
            self.optimization.restore(found.part("optimizer"))
            self._measures.restore(found.part("log"))
            if self._selection is not None:
                self._selection.restore(found, self._model)
                self.stopped = self._selection.stops(self._task.decisive, self.step)

    def _save(self) -> None:
        average = self.optimization.average
        tensors = {
            **kept.named("model", self._model),
            **({} if average is None else kept.named("average", average)),
            **{f"optimizer.{name}": value for name, value in self.optimization.state().items()},
            **self._measures.state(),
            **({} if self._selection is None else self._selection.state()),
        }
        checkpoint.write(checkpoint.path_of(self._folder, self.step), tensors, self._metadata())
        checkpoint.prune(self._folder, self._config.keep)

    def _metadata(self) -> dict[str, Any]:
        return {**self.identity, "step": self.step, "minutes": self.minutes}

    def _row(self, loss: float, norm: float) -> dict[str, Any]:
        steps, seconds = self.step - self._reported[0], time.monotonic() - self._reported[1]
        return {
            "step": self.step,
            "epoch": self.step / self._batches.per_epoch,
            "minutes": self.minutes,
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": self._rate,
            "samples_per_second": steps * self._config.accumulate * self._config.batch_size / seconds,
        }

    def _validate(self, selection: Selection, in_turn: bool = True) -> dict[str, float]:
        """Evaluate on the validation part, keep the model if it is the best so far, and stop if patience is used.

        Returns:
            What the log gets of the main process, which evaluates for all.
        """
        metrics: dict[str, float] = {}
        if self.log is not None:
            batch, model = selection.held_out, copy.deepcopy(self.average).eval()
            found = evaluate(model, batch.x, batch.labels, context=batch.context)
            metrics = means_of(found, batch.weights)
            if selection.add(model, metrics[self._task.decisive], self.step, self.minutes, in_turn):
                self._write_best(checkpoint.BEST_FILE, {})
        selection.agree()
        self.stopped = selection.stops(self._task.decisive, self.step)
        return {f"validation_{name}": value for name, value in metrics.items()}

    def _write_best(self, name: str, scores: dict[str, Tensor]) -> None:
        metadata = kept.of_best(self._metadata(), self._selection)
        kept.write(self._folder / name, self._config, self.kept or self.average, metadata, scores)

    def _evaluate(self, rows: Tensor | None) -> dict[str, float]:
        """Evaluate on some rows of the test set, or the best model on all of it: a copy, since training goes on."""
        test = test_batch(self._dataset)
        batch = test if rows is None else test.rows(rows)
        model = copy.deepcopy((self.kept if rows is None else None) or self.average).eval()
        evaluation = evaluate(model, batch.x, batch.labels, context=batch.context)
        if rows is None:
            self.evaluation = evaluation
            self.baseline = compare(self._model, self._dataset, evaluation)
        if self.log is not None:
            self.log.add_samples(model, self.step, self._dataset.test_context)
        return {f"test_{name}": value for name, value in evaluation.metrics.items()}


def _is_due(step: int, every: int | None, minutes: float, every_minutes: float | None) -> bool:
    return bool(every and step % every == 0) or bool(every_minutes and minutes >= every_minutes)
