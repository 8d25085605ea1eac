"""The log of a run: rows in memory, in log.csv and in TensorBoard."""

from __future__ import annotations

import csv
import io
import os
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .._optional import MissingModuleError, needed
from .._regular import open_regular
from .board import NoBoard, make_board
from .files import WriteError, append, is_at, writing
from .samples import can_draw, samples_at
from .tasks import flow_of

Row = dict[str, float | int | None]

_NEWLINE = "\r\n"  # as csv writes it
_MOST_BYTES = 1 << 28  # of a log: some million rows
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
        validates: whether the metrics are measured of held out samples too, and get columns validation_<name>.

    Raises:
        ValueError: log.csv is no log, or damaged.
        WriteError: the disk is full, or the folder cannot be written to.

    Attributes:
        rows: dictionaries with a key for each column; None where nothing was measured.
    """

    def __init__(self, folder: Path, metrics: tuple[str, ...], step: int, validates: bool = False) -> None:
        """Open the log; the arguments are those of the class."""
        parts = ("validation", "test") if validates else ("test",)
        self._columns = (*_COLUMNS, *(f"{part}_{name}" for part in parts for name in metrics))
        self._path = folder / "log.csv"
        self.rows = [row for row in _read(self._path, self._columns) if row["step"] <= step] if step else []  # type: ignore[operator]
        self._file = self._begin()
        try:
            self._board = make_board(folder / "tensorboard", step + 1)
        except BaseException:
            self._file.close()
            raise

    def write(self, row: dict[str, Any]) -> None:
        """Add a row; columns left out are None.

        Raises:
            WriteError: the disk is full; the row is not there then.
        """
        full: Row = {name: row.get(name) for name in self._columns}
        if not is_at(self._path, self._file.fileno()):  # an editor has put another in its place, or it was removed
            self._file.close()
            self._file = self._begin()
        append(self._file, self._path, self._line(full))
        self.rows.append(full)
        self._board.add_scalars(
            {name: value for name, value in full.items() if value is not None and name != "step"}, row["step"]
        )

    def complete(self, values: dict[str, float]) -> None:
        """Add values to the last row, of columns that it has none in: what was measured after it was written.

        Raises:
            WriteError: the disk is full; the row is as it was then, in the file.
        """
        if not self.rows or all(self.rows[-1][name] == value for name, value in values.items()):
            return
        self.rows[-1] |= values
        self._file.close()
        self._file = self._begin()
        self._board.add_scalars(values, int(self.rows[-1]["step"] or 0))

    def add_samples(self, model: nn.Module, step: int, contexts: Tensor | None = None) -> None:
        """Add samples of a model in eval mode to TensorBoard, if they are pictures, signals or points of the plane.

        Args:
            model: in eval mode.
            step: number of steps it has taken.
            contexts: [n, context_features] that samples are drawn at, from the first on, for a model that takes one.
        """
        flow = flow_of(model)
        if isinstance(self._board, NoBoard):
            return
        if flow is None or not can_draw(flow.config.event_shape):
            return
        n = _POINTS if len(flow.config.event_shape) == 1 else _IMAGES
        samples = samples_at(flow, n, contexts, seed=0).cpu()  # the same latents each time
        if flow.config.is_image:
            white = 1.0 if flow.config.n_levels is None else flow.config.n_levels - 1.0
            self._board.add_images("samples", (samples / white).clamp(0.0, 1.0), step)
            return
        try:
            with needed("a picture of samples in TensorBoard"):
                from matplotlib.figure import Figure
        except MissingModuleError as error:
            warnings.warn(f"iresnet_fast: {error}", RuntimeWarning, stacklevel=2)
            return
        figure = Figure((5.0, 5.0), layout="constrained")
        axes = figure.subplots()
        if samples.dim() == 3:  # a line for each channel of each signal
            axes.plot(samples.flatten(0, 1).T.numpy(), linewidth=0.5)
        else:
            axes.scatter(samples[:, 0].numpy(), samples[:, 1].numpy(), s=4.0, linewidths=0.0)
        self._board.add_figure("samples", figure, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._board.close()

    def _begin(self) -> io.FileIO:
        """Write the file with the rows that there are, and return it open for more."""
        # In one piece: a run killed here finds the old file or the new one.
        with writing(self._path) as file:
            file.write((",".join(self._columns) + _NEWLINE).encode())
            file.writelines(map(self._line, self.rows))
        try:
            return self._path.open("ab", buffering=0)
        except OSError as error:
            raise WriteError(self._path, error) from error

    def _line(self, row: Row) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator=_NEWLINE).writerow(row)
        return text.getvalue().encode()


def _read(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """Return the rows of a log; a last line that a killed run has not finished is left out.

    Raises:
        ValueError: the file is no log, or damaged.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _MOST_BYTES:
                raise _damaged(path, 1, f"more than {_MOST_BYTES} bytes")
            *lines, _ = file.read().decode("utf-8", "replace").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(f"{path} must be a file that can be read, got {error}; move it away to go on.") from error
    rows = csv.reader(lines)
    try:
        names = next(rows, [])
        if "step" not in names or not set(names) <= set(columns):
            raise _damaged(path, 1, ",".join(names))
        return [_row(path, rows.line_num, names, cells) for cells in rows]
    except csv.Error as error:
        raise _damaged(path, rows.line_num, str(error)) from None


def _row(path: Path, number: int, names: list[str], cells: list[str]) -> Row:
    try:
        row = {name: _value(name, text) for name, text in zip(names, cells, strict=True)}
        if row["step"] is None:
            raise ValueError
    except ValueError:
        raise _damaged(path, number, ",".join(cells)) from None
    return row


def _damaged(path: Path, number: int, line: str) -> ValueError:
    return ValueError(
        f"{path} must be the log of this run, got {line[:60]!r} in line {number}; put the file back, or move it "
        f"away to go on without its rows."
    )


def _value(name: str, text: str) -> float | int | None:
    if not text:
        return None
    return int(text) if name in ("step", "unsettled_norms") else float(text)
