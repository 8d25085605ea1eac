"""Train a model, from the data to the model file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .._inputs import check_path, described
from ..data import DataSet
from . import checkpoint, distributed, run_file
from .baseline import Baseline
from .batches import check_batches
from .config import TrainConfig
from .distributed import TrainingInterrupted
from .evaluate import Evaluation, check_estimators
from .interrupts import Interrupts
from .lock import locked
from .log import Row
from .selection import class_weights
from .tasks import task_of
from .trainer import Trainer


@dataclass(frozen=True)
class Run:
    """What `fit` returns.

    Attributes:
        model: the trained model as the last step left it, in eval mode.
        average: the model with averaged weights, in eval mode; None if ema is None.
        history: the rows of log.csv, of the main process; empty elsewhere.
        folder: of the run.
        step: number of steps taken, before a resume too.
        minutes: wall-clock time of them and of what was in between.
        evaluation: of `best` on the whole test set, of the main process; None elsewhere.
        kept: the model that was best on the validation part, in eval mode; None without one.
        best_step: number of steps that `best` has taken.
        stopped: the sentence about a run that ended for want of patience; None: its budget was used.
        baseline: how `best` compares with a Gaussian on the test set, of the main process and a density of vectors;
            None elsewhere.
    """

    model: nn.Module
    average: nn.Module | None
    history: list[Row]
    folder: Path
    step: int
    minutes: float
    evaluation: Evaluation | None
    kept: nn.Module | None = None
    best_step: int = 0
    stopped: str | None = None
    baseline: Baseline | None = None

    @property
    def best(self) -> nn.Module:
        """The model that was best on the validation part if there is one, else the average, else the model."""
        last = self.model if self.average is None else self.average
        return last if self.kept is None else self.kept


def fit(
    model: nn.Module,
    dataset: DataSet,
    config: TrainConfig,
    folder: str | os.PathLike[str],
    resume: bool = False,
    show_progress: bool = True,
    initial_seed: int | None = None,
) -> Run:
    """Train a model and keep a log, checkpoints and, at the end, the file of the best model in a folder.

    A new run begins by starting ActNorms, a learned prior and a standardising preprocessing from the data. Everything
    random in a step is a function of (config.seed, step, batch of the step, process), so that a run that was killed and
    resumed ends with the same bits as one that was not, at the same number of threads; only with max_minutes the clock
    has a part in the learning rate and the end. SIGINT and SIGTERM end a run after the step, with a checkpoint. Torch's
    global generator and the test set have no part in training; evaluations look at copies. Under torchrun all processes
    call `fit` with the same arguments.

    With `config.validation` the model that is kept is the one that was best on the samples held out: `Run.best`, its
    evaluation and model.safetensors are of that.

    Args:
        model: an IResNetFlow, IResNetClassifier or HybridIResNet, trained in place, on its device.
        dataset: what on; its event_shape, n_levels, n_classes and context_features must be those of the model.
        config: how.
        folder: made if it is not there. It gets run.yaml, log.csv, the folder tensorboard,
            checkpoint-<step>.safetensors, with validation best.safetensors, and at the end model.safetensors; while
            the run is alive, a file .lock keeps others out.
        resume: go on from the newest checkpoint in the folder that can be read; start if there is none. Budgets and
            intervals may then be others, all else must be as it was.
        show_progress: a progress bar on a terminal, a line now and then elsewhere.
        initial_seed: what torch.manual_seed got before the model was made, for run.yaml; None: that is not known.

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
    # Before anything is made or written, and not at the evaluation after hours of training.
    task_of(model).check(dataset)
    check_estimators(model)
    check_path("folder", folder, "e.g. 'runs/first'")
    folder = Path(folder).absolute()  # where that is does not change with the working directory
    devices = [parameter.device for parameter in model.parameters() if parameter.is_cuda][:1]
    with (
        Interrupts() as end,  # around the rest, which ends slowly where a process is lost, and must have its say
        distributed.setup(),
        distributed.translate_errors(folder),
        torch.random.fork_rng(devices),
        _checked(model, dataset, config),
        locked(folder) as keep_folder,
    ):
        found = _prepare(folder, resume)
        trainer = Trainer(model, dataset, config, folder, found, show_progress)
        try:
            if distributed.is_main():
                keep_folder()
                run_file.write(folder, trainer.identity, initial_seed)
            trainer.start(keep_folder)
            with distributed.sharded_spectral_norms(model):
                while not trainer.is_over:
                    trainer.advance()
                    interrupted = distributed.any_process(end.name is not None)
                    trainer.report(interrupted, keep_folder)
                    if interrupted:
                        raise TrainingInterrupted(
                            f"training was interrupted by {end.name or 'a signal'} after step {trainer.step}; "
                            f"{distributed.how_to_resume(folder)}"
                        )
            # The last checkpoint is there: what is left may be ended, and done later.
            is_whole = end.allow(lambda: trainer.finish(keep_folder))
            if distributed.any_process(not is_whole):  # which also waits for the main process
                raise TrainingInterrupted(
                    f"training was interrupted by {end.name or 'a signal'} after its last step, {trainer.step}, before "
                    f"its evaluation; {distributed.how_to_resume(folder)}"
                )
            kept = trainer.kept
        finally:
            trainer.close()
    average = trainer.optimization.average
    return Run(
        model.eval(),
        None if average is None else average.eval(),
        [] if trainer.log is None else trainer.log.rows,
        folder,
        trainer.step,
        trainer.minutes,
        trainer.evaluation,
        None if kept is None else kept.eval(),
        trainer.step_of_best,
        trainer.stopped,
        trainer.baseline,
    )


def _prepare(folder: Path, resume: bool) -> checkpoint.Checkpoint | None:
    """Make the folder ready for a run, and return the checkpoint to go on from, None to start."""
    models = [path.name for path in (folder / checkpoint.BEST_FILE, folder / checkpoint.MODEL_FILE) if path.exists()]
    found_there = "checkpoints" if checkpoint.paths(folder) else next(iter(models), None)
    if not resume and found_there is not None:
        raise ValueError(
            f"folder must hold no {found_there}, got some in {folder}; pass resume=True (--resume), or another folder: "
            f"the first goes on with the run, or returns what it has reached if it is over, the second, such as "
            f"{free_folder(folder)}, begins a new one."
        )
    found = checkpoint.read_newest(folder)
    distributed.barrier()  # all have read
    if distributed.is_main():
        checkpoint.clean(folder, None if found is None else found.path)
    return found


@contextmanager
def _checked(model: nn.Module, dataset: DataSet, config: TrainConfig) -> Iterator[None]:
    """Raise ValueError unless the data can be used as the config asks for, by as many processes as there are."""
    check_batches(dataset, config)
    task = task_of(model)
    class_weights(task, dataset.train_labels if task.needs_labels else None, config)
    run_file.check_available()
    yield


def free_folder(folder: Path) -> Path:
    """Return the folder, or the first of <folder>-2, <folder>-3, ... that is not there."""
    stem, number = folder, 1
    while folder.exists():
        number += 1
        folder = stem.with_name(f"{stem.name}-{number}")
    return folder
