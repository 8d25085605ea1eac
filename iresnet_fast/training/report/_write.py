"""From the folder of a run to a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...data import DataSet
from .. import checkpoint
from ..files import writing
from ..metadata import require
from ..tasks import task_of
from ._measure import measure
from ._page import render

NAME = "report.html"


def write_report(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    dataset: DataSet | None = None,
    device: Any = "cpu",
    notes: Sequence[str] = (),
    show_progress: bool = False,
) -> Path:
    """Write a page of HTML about a run that needs no other file and no network.

    Args:
        run: its folder, finished or not, or a file in it.
        out: file to write; None: report.html in the folder.
        dataset: of the run; None: what needs data is left out, and the page says so.
        device: of the computations.
        notes: sentences about the data: what was done to them, or why there are none.
        show_progress: a bar on a terminal.

    Returns:
        The path of the page.

    Raises:
        CheckpointError: the run has no model that can be read.
        ValueError: the data set does not fit the model.
        WriteError: the page cannot be written.
    """
    run = Path(run)
    metadata = checkpoint.read_metadata(run)
    require(
        run, metadata, "model", "model_config", "train_config", "data.name", "step", "minutes", "version", "backend"
    )
    model: Any = checkpoint.load_model(run)
    if dataset is not None:
        task_of(model).check(dataset)
    folder = (run if run.is_dir() else run.parent).resolve()
    facts = measure(model.to(device), metadata, folder, run.resolve(), dataset, tuple(notes), show_progress)
    path = folder / NAME if out is None else Path(out)
    with writing(path) as file:
        file.write(render(facts).encode())
    return path
