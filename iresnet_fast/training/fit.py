"""Train a model, from the data to the model file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .._inputs import check_path, described
from ..data import DataSet
from . import checkpoint, distributed
from .config import TrainConfig
from .distributed import TrainingInterrupted
from .evaluate import Evaluation, check_estimators
from .interrupts import Interrupts
from .lock import locked
from .log import Row
from .tasks import task_of
from .trainer import Trainer


@dataclass(frozen=True)
class Run:
    """What `fit` returns.

    Attributes:
        model: the trained model, in eval mode.
        average: the model with averaged weights, in eval mode; None if ema is None.
        history: the rows of log.csv, of the main process; empty elsewhere.
        folder: of the run.
        step: number of steps taken, before a resume too.
        minutes: wall-clock time of them and of what was in between.
        evaluation: of `best` on the whole test set, of the main process; None elsewhere.
    """

    model: nn.Module
    average: nn.Module | None
    history: list[Row]
    folder: Path
    step: int
    minutes: float
    evaluation: Evaluation | None

    @property
    def best(self) -> nn.Module:
        """The average if there is one, else the model."""
        return self.model if self.average is None else self.average


def fit(
    model: nn.Module,
    dataset: DataSet,
    config: TrainConfig,
    folder: str | os.PathLike[str],
    resume: bool = False,
    show_progress: bool = True,
) -> Run:
    """Train a model and keep a log, checkpoints and, at the end, the file of the best model in a folder.

    A new run begins by starting ActNorms, a learned prior and a standardising preprocessing from the data. Everything
    random in a step is a function of (config.seed, step, batch of the step, process), so that a run that was killed and
    resumed ends with the same bits as one that was not, at the same number of threads; only with max_minutes the clock
    has a part in the learning rate and the end. SIGINT and SIGTERM end a run after the step, with a checkpoint. Torch's
    global generator and the test set have no part in training; evaluations look at copies. Under torchrun all processes
    call `fit` with the same arguments.

    Args:
        model: an IResNetFlow, IResNetClassifier or HybridIResNet, trained in place, on its device.
        dataset: what on; its event_shape, n_levels, n_classes and context_features must be those of the model.
        config: how.
        folder: made if it is not there. It gets log.csv, the folder tensorboard, checkpoint-<step>.safetensors and
            model.safetensors; while the run is alive, a file .lock keeps others out.
        resume: go on from the newest checkpoint in the folder that can be read; start if there is none. Budgets and
            intervals may then be others, all else must be as it was.
        show_progress: a progress bar on a terminal, a line now and then elsewhere.

    Returns:
        The trained model and what became of it.

    Raises:
        ValueError: the model, the data and the config do not fit each other; the folder holds a run and resume is
            False, or another run, or one that is going on, or none but damaged checkpoints; a loss or a gradient was
            not finite.
        OSError: the disk is full, or the folder cannot be written to; the newest checkpoint is whole.
        TypeError: an argument is of another kind.
        TrainingInterrupted: SIGINT or SIGTERM came, or another process was lost.
    """
    if not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {described(config)}; pass one.")
    if not isinstance(dataset, DataSet):
        raise TypeError(f"dataset must be a data.DataSet, got {described(dataset)}; pass what data.load returned.")
    task_of(model).check(dataset)  # before anything is written
    check_estimators(model)  # now, not at the evaluation after hours of training
    check_path("folder", folder, "e.g. 'runs/first'")
    folder = Path(folder)
    devices = [parameter.device for parameter in model.parameters() if parameter.is_cuda][:1]
    with (
        Interrupts() as end,  # around the rest, which ends slowly where a process is lost, and must have its say
        distributed.setup(),
        distributed.translate_errors(folder),
        torch.random.fork_rng(devices),
        locked(folder) as keep_folder,
    ):
        found = _prepare(folder, resume)
        trainer = Trainer(model, dataset, config, folder, found, show_progress)
        try:
            with distributed.sharded_spectral_norms(model):
                while trainer.progress < 1.0:
                    trainer.advance()
                    interrupted = distributed.any_process(end.name is not None)
                    trainer.report(interrupted, keep_folder)
                    if interrupted:
                        raise TrainingInterrupted(
                            f"training was interrupted by {end.name or 'a signal'} after step {trainer.step}; "
                            f"{distributed.how_to_resume(folder)}"
                        )
            trainer.finish()
        finally:
            trainer.close()
        distributed.barrier()
    average = trainer.optimization.average
    return Run(
        model.eval(),
        None if average is None else average.eval(),
        [] if trainer.log is None else trainer.log.rows,
        folder,
        trainer.step,
        trainer.minutes,
        trainer.evaluation,
    )


def _prepare(folder: Path, resume: bool) -> checkpoint.Checkpoint | None:
    """Make the folder ready for a run, and return the checkpoint to go on from, None to start."""
    if not resume and checkpoint.paths(folder):
        raise ValueError(
            f"folder must hold no checkpoints, got some in {folder}; pass resume=True (--resume), or another folder."
        )
    found = checkpoint.read_newest(folder)
    distributed.barrier()  # all have read
    if distributed.is_main():
        checkpoint.clean(folder, None if found is None else found.path)
    return found
