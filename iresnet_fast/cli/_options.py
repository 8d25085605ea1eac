"""What several commands share: options, the machine they run on, and the run they look at."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import _checks, _library, data
from ..training import checkpoint
from ..training.metadata import require
from ..training.recipes import Model
from ..training.tasks import task_of


def add_run_argument(parser: argparse.ArgumentParser, **options: Any) -> None:
    """Add the run to look at."""
    parser.add_argument(
        "run_path", metavar="RUN", type=Path, help="folder of a run (its newest checkpoint), or a file in it", **options
    )


def add_data_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add the data; without a default they are those of the run."""
    said = "those the run was trained on" if default is None else default
    names = ", ".join(data.NAMES)
    parser.add_argument("--data", default=default, help=f"{names}, or a .npy, .npz or .csv file (default: {said})")
    parser.add_argument("--data-root", help="folder of the files of a data set that is not built in (default: none)")


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


numbers.__name__ = "numbers, separated by commas"  # as argparse calls it in errors


@contextmanager
def machine(options: argparse.Namespace) -> Iterator[torch.device]:
    """Use the threads and the backend asked for, and yield the device.

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
    with _library.use_backend(options.backend or _library.backend()):
        yield _device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def open_run(options: argparse.Namespace, device: torch.device) -> tuple[Model, dict[str, Any]]:
    """Return the model of a run, in eval mode with its averaged weights if there are some, and the metadata."""
    metadata = checkpoint.read_metadata(options.run_path)
    require(options.run_path, metadata, "model", "data.name", "step", "minutes")
    model: Any = checkpoint.load_model(options.run_path)
    return model.to(device), metadata


def open_data(options: argparse.Namespace, model: Model, metadata: dict[str, Any]) -> data.DataSet:
    """Return the data asked for, else those of the run; raises ValueError if they do not fit the model.

    The columns of the context are those of the run.
    """
    context = metadata["data"].get("context") or ()
    dataset = data.load(options.data or metadata["data"]["name"], options.data_root, context=context)
    task_of(model).check(dataset)
    return dataset


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
