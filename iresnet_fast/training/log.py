"""The log of a run: rows in memory, in log.csv and in TensorBoard."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from torch import nn

from .checkpoint import TEMPORARY
from .tasks import flow_of

Row = dict[str, float | int | None]

_IMAGES, _POINTS = 16, 1000  # samples of a picture
_COLUMNS = (
    "step",
    "epoch",
    "minutes",
    "loss",
    "grad_norm",
    "learning_rate",
    "samples_per_second",
    "lipschitz",
    "worst_norm",
    "unsettled_norms",
)


class Log:
    """The rows of one run.

    Args:
        folder: of the run; log.csv and the folder tensorboard are written there.
        metrics: names of the test metrics, which get columns test_<name>.
        step: that the run goes on from: later rows are dropped.

    Attributes:
        rows: dictionaries with a key for each column; None where nothing was measured.
    """

    def __init__(self, folder: Path, metrics: tuple[str, ...], step: int) -> None:
        """Open the log; the arguments are those of the class."""
        from torch.utils.tensorboard import SummaryWriter

        self._columns = (*_COLUMNS, *(f"test_{name}" for name in metrics))
        path = folder / "log.csv"
        self.rows = [row for row in _read(path) if row["step"] <= step] if step else []  # type: ignore[operator]
        # In one piece: a run killed here finds the old file or the new one.
        temporary = path.with_name(path.name + TEMPORARY)
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, path)
        self._file = path.open("a", newline="")
        self._csv = csv.DictWriter(self._file, self._columns)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, row: dict[str, Any]) -> None:
        """Add a row; columns left out are None."""
        full: Row = {name: row.get(name) for name in self._columns}
        self.rows.append(full)
        self._csv.writerow(full)
        self._file.flush()
        for name, value in full.items():
            if value is not None and name != "step":
                self._board.add_scalar(name, value, full["step"])
        self._board.flush()

    def add_samples(self, model: nn.Module, step: int) -> None:
        """Add samples of a model in eval mode to TensorBoard, if they are pictures or points of the plane."""
        flow = flow_of(model)
        if flow is None or flow.config.event_shape[0] not in ((1, 3) if flow.config.is_image else (2,)):
            return
        samples = flow.sample(_IMAGES if flow.config.is_image else _POINTS, seed=0).cpu()  # the same latents each time
        if flow.config.is_image:
            white = 1.0 if flow.config.n_levels is None else flow.config.n_levels - 1.0
            self._board.add_images("samples", (samples / white).clamp(0.0, 1.0), step)
            return
        from matplotlib.figure import Figure

        figure = Figure((5.0, 5.0), layout="constrained")
        figure.subplots().scatter(samples[:, 0].numpy(), samples[:, 1].numpy(), s=4.0, linewidths=0.0)
        self._board.add_figure("samples", figure, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._board.close()


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: _value(name, text) for name, text in row.items()} for row in csv.DictReader(file)]


def _value(name: str, text: str) -> float | int | None:
    if not text:
        return None
    return int(text) if name in ("step", "unsettled_norms") else float(text)
