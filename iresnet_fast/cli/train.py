"""Train a model, and write its checkpoints, log and pictures into a folder.

Every data set has a recipe for the models that suit it; the options change it.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import data
from .._optional import MissingModuleError
from ..models import IResNetFlow
from ..training import checkpoint, distributed, pictures
from ..training.checkpoint import MODEL_FILE
from ..training.distributed import TrainingInterrupted
from ..training.fit import Run, fit, free_folder
from ..training.recipes import MODELS
from ..training.tasks import flow_of
from . import evaluate, reconstruct, sample
from ._options import add_data_options, add_machine_options, machine
from ._plan import DATA, MODEL, plan
from ._recipe import add_recipe_options, given_of, naming_fields, recipes_table, show_values

# Whose absence means what a run.yaml says, or else the default: so that one that is given is told from one that is not.
_FROM_CONFIG = ("context", "columns", "categorical", "one_hot", "continuous", "weights", "missing")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("-h", "--help", action="store_true", help="show this and the values of the recipe, and exit")
    add_data_options(parser, DATA)
    parser.add_argument("--model", choices=list(MODELS), help=f"kind of model (default: {MODEL})")
    parser.add_argument("--preset", help="named configuration of that kind (default: the one for the data)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="another value, in JSON, of a field of the model's configuration: blocks=[4], or activation=lipswish; as "
        "often as needed (default: none)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the run.yaml of a run, which is done again, but for what other options say (default: none)",
    )
    parser.add_argument(
        "--folder", type=Path, help="where to write (default: runs/<data>-<model>, with a number if that is there)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in the folder, without --folder the newest one (default: no)",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress (default: show it)")
    add_machine_options(parser)
    add_recipe_options(parser)
    parser.set_defaults(data=None, own_parser=parser, **dict.fromkeys(_FROM_CONFIG))


def run(options: argparse.Namespace) -> None:
    """Train; errors as of `fit` and `plan`."""
    if options.help:
        _print_help(options)
        return
    with distributed.setup(), machine(options) as device:
        planned = plan(options)
        model, dataset = planned.model, planned.dataset
        if distributed.is_main():
            n_parameters = sum(parameter.numel() for parameter in model.parameters())
            n = len(dataset.train)
            print(f"{type(model).__name__} of {n_parameters} parameters on {n} samples of {dataset.name}")
            for note in planned.notes:
                print(note)
        with _naming_options(options), _own_folder(options, planned.folder) as folder:
            done = fit(
                model.to(device),
                dataset,
                planned.training,
                folder,
                resume=options.resume,
                show_progress=not options.quiet,
                initial_seed=planned.seed,
            )
        if distributed.is_main():
            if options.quiet and done.stopped is not None:
                print(done.stopped)
            try:
                _report(done, dataset)
            except KeyboardInterrupt:
                raise TrainingInterrupted(
                    f"the run is whole in {done.folder}, but its pictures are not, since drawing was interrupted; the "
                    f"same command with --resume draws them."
                ) from None


@contextmanager
def _own_folder(options: argparse.Namespace, chosen: Path) -> Iterator[Path]:
    """Yield a new folder for a run without --folder, also where another one that began just now took the name."""
    if options.folder is not None or options.resume or distributed.world_size() > 1:
        yield chosen
        return
    folder, is_first = chosen, not chosen.parent.exists()
    while True:
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if not folder.exists():  # a file is in the place of a folder above it
                raise
            folder = free_folder(folder)
    if folder != chosen:
        print(f"folder: {folder}, since another run has just begun in {chosen}")
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()  # if nothing was written
            if is_first:
                folder.parent.rmdir()


@contextmanager
def _naming_options(options: argparse.Namespace) -> Iterator[None]:
    """Let errors of `fit` name options instead of its arguments."""
    try:
        with naming_fields(given_of(options), "--{}"):
            yield
    except ValueError as error:
        said = str(error)
        if type(error) is not ValueError or not said.startswith("folder must"):
            raise
        said = said.replace("pass resume=True (--resume), or another folder", "pass --resume, or another --folder")
        raise ValueError(f"--{said}") from error


def _print_help(options: argparse.Namespace) -> None:
    """Print the help with the values of the recipe for the data that are given, else a table of all recipes."""
    parser: argparse.ArgumentParser = options.own_parser
    if options.data is None and options.config is None:
        parser.print_help()
        print(f"\n{recipes_table()}")
        return
    planned = plan(options)
    show_values(parser, planned.training, planned.dataset.name)
    parser.print_help()
    print("\n" + "\n".join(planned.notes))


def _report(done: Run, dataset: data.DataSet) -> None:
    """Say what has been reached, draw the pictures, and say where everything is."""
    model: Any = done.best
    print(f"{done.step} steps in {done.minutes:.2f} minutes")
    if done.kept is not None:
        start = ", as it began: the data held out gave no reason to leave that" * (done.best_step == 0)
        print(f"kept: the model of step {done.best_step}, the best on the data held out{start}")
    if done.evaluation is not None:
        metadata = checkpoint.read_metadata(done.folder / MODEL_FILE)
        print(evaluate.describe(model, evaluate.in_units_of_file(done.evaluation, metadata)))
    if done.baseline is not None:
        print(done.baseline)
    x, found = reconstruct.reconstruct(model, dataset, reconstruct.N_SAMPLES)
    print(reconstruct.describe(found))
    drawings = _drawings(done, dataset)
    if dataset.is_image:
        drawings["reconstructions.png"] = lambda path: pictures.reconstructions(x, found.x, found.error, path)
    drawn, left_out = [], []
    for name, draw in drawings.items():
        try:
            draw(done.folder / name)
            drawn.append(done.folder / name)
        except MissingModuleError as error:
            left_out.append(name)
            reason = error
    print(f"model: {done.folder / MODEL_FILE}")
    board = done.folder / "tensorboard"
    print(f"log: {done.folder / 'log.csv'}" + f", and for TensorBoard {board}" * board.is_dir())
    print(f"report: iresnet-fast report {shlex.quote(str(done.folder))} writes a page with all of this")
    if drawn:
        print(f"pictures: {', '.join(map(str, drawn))}")
    if left_out:
        print(f"pictures left out: {', '.join(left_out)}; {reason}")


def _drawings(done: Run, dataset: data.DataSet) -> dict[str, Callable[[Path], object]]:
    """Return what draws each picture of a run, by its name."""
    model: Any = done.best
    drawings: dict[str, Callable[[Path], object]] = {
        "curves.png": lambda path: pictures.curves(done.folder / "log.csv", path)
    }
    flow, contexts = flow_of(model), dataset.test_context
    if flow is not None and sample.can_draw(flow):
        drawings["samples.png"] = lambda path: sample.write_picture(flow, sample.draw_samples(flow, contexts), path)
    if isinstance(model, IResNetFlow) and dataset.event_shape == (2,):
        at = None if contexts is None else contexts[0]
        drawings["density.png"] = lambda path: pictures.density(model, dataset.test, path, at)
    if isinstance(model, IResNetFlow) and len(dataset.event_shape) == 1:
        drawings["pairs.png"] = lambda path: pictures.compare(model, dataset, path)
        drawings["calibration.png"] = lambda path: pictures.calibration(model, dataset.test, path, contexts)
    return drawings
