"""Write a page about a run that a browser shows without a network: curves, samples, errors, certificates, settings."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

from ..data import DataSet
from ..training.report import NAME, write_report
from ._options import add_data_options, add_machine_options, add_run_argument, check_file, machine, open_data, open_run


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_argument(parser)
    add_data_options(parser, None)
    parser.add_argument("--out", type=Path, help=f"page to write (default: {NAME} in the folder of the run)")
    add_machine_options(parser)


def run(options: argparse.Namespace) -> None:
    """Write the page and say where it is and how large.

    Raises:
        ValueError: --out is no page, or the data asked for do not fit the model.
    """
    if options.out is not None:
        check_file("--out", options.out)
        if options.out.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--out must end in .html or .htm, got {str(options.out)!r}; name it e.g. {NAME}.")
    with machine(options) as device:
        model, metadata = open_run(options, device)
        dataset, notes = _data(options, model, metadata)
        path = write_report(options.run_path, options.out, dataset, device, notes, show_progress=True)
    print(f"{path} ({_size(path.stat().st_size)}, one file that needs no network)")


def _data(options: argparse.Namespace, model: Any, metadata: dict[str, Any]) -> tuple[DataSet | None, list[str]]:
    """Return the data asked for, else those of the run if they can be had, and what is to be said of them.

    Raises:
        ValueError: the data asked for cannot be used.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            dataset = open_data(options, model, metadata, say_again=True)
        except (ValueError, OSError) as error:
            if options.data is not None:
                raise
            return None, [f"The data could not be loaded, so that what needs them is left out: {error}"]
    return dataset, list(dict.fromkeys(str(warning.message).removeprefix("iresnet_fast: ") for warning in caught))


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.0f} kB"
