"""What several commands share: options, the machine they run on, and the run they look at."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import _checks, _library, data
from ..data import DataError
from ..data.source import MISSING, MODES, Source
from ..training import checkpoint
from ..training.metadata import require
from ..training.recipes import Model
from ._rows import image_options, table_options
from ._rows import open_data as open_data
from ._rows import open_rows as open_rows

_READING = (
    ("--separator", "MARK", "of the cells of a text file, or tab, or space (default: found out)"),
    ("--encoding", "NAME", "of its bytes, such as latin-1 (default: UTF-8, UTF-16 with a mark, else Windows-1252)"),
)
_COLUMNS = (
    ("--columns", "whose density is modelled, in this order (default: all that are nothing else)"),
    (
        "--context",
        "columns that the density of the others depends on: names, or numbers from 1 if the file has none (default: "
        "none)",
    ),
    ("--categorical", "categories, made continuous by noise on their codes (default: none)"),
    ("--one-hot", "categories, with an entry for each (default: none, and texts of the context)"),
    ("--continuous", "whole numbers that are left without noise (default: none)"),
)
_ARGUMENTS = {
    "name": "--data",
    "root": "--data-root",
    "size": "--image-size",
    "mode": "--image-mode",
}  # of data.load; others have the names of their options


def add_run_argument(parser: argparse.ArgumentParser, **options: Any) -> None:
    """Add the run to look at."""
    parser.add_argument(
        "run_path", metavar="RUN", type=Path, help="folder of a run (its newest checkpoint), or a file in it", **options
    )


def add_data_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add the data; without a default they are those of the run, whose columns are known."""
    said = "the test part of those of the run" if default is None else default
    names = ", ".join(data.NAMES)
    parser.add_argument(
        "--data",
        nargs="+",
        default=None if default is None else [default],
        metavar="FILE",
        help=f"{names}, files of a table ({', '.join(data.SUFFIXES)}), a folder of images, or a .npy or .npz file of "
        f"images or signals (default: {said})",
    )
    parser.add_argument("--data-root", help="folder of the files of a data set that is not built in (default: none)")
    group = parser.add_argument_group(
        "tables", "How the files of a table are read; names of columns are separated by ,"
    )
    for option, metavar, text in _READING:
        group.add_argument(option, metavar=metavar, help=text)
    group.add_argument("--decimal", choices=[".", ","], help="mark of fractions (default: found out)")
    group.add_argument(
        "--header", choices=["auto", "yes", "no"], help="whether the first line has names (default: auto)"
    )
    add_image_options(parser)
    if default is None:
        return
    for option, text in _COLUMNS:
        group.add_argument(option, type=columns, default=(), metavar="COLUMNS", help=text)
    group.add_argument(
        "--weights", default="", metavar="COLUMN", help="how much each row counts (default: all the same)"
    )
    text = "what becomes of rows with a missing cell: mean fills it (default: error)"
    group.add_argument("--missing", choices=MISSING, default="error", help=text)


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add how images of a folder or an array are read."""
    said = "(default: as they are, and for a trained model as in training)"
    group = parser.add_argument_group("images", "How the images of a folder or an array are read.")
    text = f"side, or height and width such as 32x48, to which they are cropped and resized {said}"
    group.add_argument("--image-size", type=image_size, metavar="SIZE", help=text)
    text = f"their colours; auto: grey if all are {said}"
    group.add_argument("--image-mode", choices=MODES, help=text)


def load_data(options: argparse.Namespace, known: Source) -> data.DataSet:
    """Return the data to train on: what the options say, else what is known."""
    names = known.names if options.data is None else tuple(options.data)
    root = options.data_root if options.data_root is not None else known.root or None
    return data.load(
        names if len(names) > 1 else names[0],
        root,
        known.seed,
        known.context if options.context is None else options.context,
        table_options(options, known.table),
        image_options(options, known.images),
    )


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add where and with what to compute."""
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own number)")
    parser.add_argument(
        "--device", help="device of torch, such as cpu or cuda (default: cuda if there is one, else cpu)"
    )
    parser.add_argument(
        "--backend",
        choices=["kernels", "reference"],
        help="compiled kernels or plain torch (default: kernels if built)",
    )


def add_output_option(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the picture to write."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(default),
        help=f"picture to write: PNG, JPEG, SVG, PDF or WebP by its suffix (default: {default})",
    )


def numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of an option."""
    return tuple(map(float, text.split(",")))


def image_size(text: str) -> tuple[int, int]:
    """Return the height and width of an option: one number, or two with an x between them."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"must be a side such as 32, or height and width such as 32x48, got {text!r}")
    return int(sides[0]), int(sides[-1])


numbers.__name__ = "numbers, separated by commas"  # as argparse calls it in errors


def columns(text: str) -> tuple[str, ...]:
    """Return the names of columns of an option; one with a comma is in quotation marks."""
    return tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), []))


columns.__name__ = "names of columns, separated by commas"


@contextmanager
def naming_options() -> Iterator[None]:
    """Let errors about an argument of `data.load` name the option instead."""
    try:
        yield
    except DataError as error:
        if not error.argument:
            raise
        option = _ARGUMENTS.get(error.argument, f"--{error.argument.replace('_', '-')}")
        raise DataError(f"{option}{str(error).removeprefix(error.argument)}") from error


@contextmanager
def machine(options: argparse.Namespace) -> Iterator[torch.device]:
    """Use the threads and the backend asked for, and yield the device; errors of the block name options.

    Raises:
        ValueError: there is no such device, no such number of threads, or no kernels.
    """
    if options.threads is not None:
        _checks.check_count("--threads", options.threads, 1)
        torch.set_num_threads(options.threads)
    if options.backend == "kernels" and not _library.HAS_EXTENSION:
        raise ValueError(
            f"--backend must be reference where the kernels are unavailable ({_library.EXTENSION_ERROR}), got kernels; "
            f"install the package again."
        )
    with naming_options(), _library.use_backend(options.backend or _library.backend()):
        yield _device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def open_run(options: argparse.Namespace, device: torch.device) -> tuple[Model, dict[str, Any]]:
    """Return the model of a run, in eval mode with its averaged weights if there are some, and the metadata."""
    metadata = checkpoint.read_metadata(options.run_path)
    require(options.run_path, metadata, "model", "data.name", "step", "minutes")
    model: Any = checkpoint.load_model(options.run_path)
    return model.to(device), metadata


def _device(name: str) -> torch.device:
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter of a torch without CUDA
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"--device must be a device of torch, got {name!r} ({reason}); use cpu.") from error
    if device.type == "meta":
        raise ValueError("--device must be a device that computes, got 'meta'; use cpu.")
    return device


def check_file(option: str, path: Path) -> None:
    """Raise ValueError if a file cannot have this name since a folder has it."""
    if path.is_dir():
        raise ValueError(f"{option} must be a file, got the folder {path}; name a file in it.")
