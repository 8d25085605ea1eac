"""What TensorBoard shows: records in a file of events, each written whole, at once and by the thread that has it.

SummaryWriter of torch writes in another thread, where a full disk ends in a traceback and half a record.
"""

from __future__ import annotations

import io
import os
import socket
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .files import WriteError, append, is_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def make_board(folder: Path, first_step: int) -> Board | NoBoard:
    """Begin a Board; without TensorBoard say that there is none."""
    if find_spec("tensorboard") is not None:
        return Board(folder, first_step)
    warnings.warn(
        "iresnet_fast: the run is logged in log.csv alone, since TensorBoard is not installed; "
        "pip install 'iresnet_fast[tensorboard]' to see its curves there.",
        RuntimeWarning,
        stacklevel=2,
    )
    return NoBoard()


class NoBoard:
    """What takes the place of a Board without TensorBoard: nothing is written."""

    def add_scalars(self, values: dict[str, float], step: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Board:
    """A file of events.

    Args:
        folder: made if it is not there; TensorBoard shows all files of events in it as one run.
        first_step: of this file; what files from before hold of it and later steps is not shown.

    Raises:
        WriteError: the folder cannot be written to, also of the methods.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        """Begin a file; the arguments are those of the class."""
        self._path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._begin(first_step)

    def add_scalars(self, values: dict[str, float], step: int) -> None:
        """Add numbers."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        found = [_summaries().scalar(name, value).value[0] for name, value in values.items()]
        self._write(step, summary=Summary(value=found))

    def add_images(self, name: str, images: Tensor, step: int) -> None:
        """Add images [N, C, H, W] with values from 0 to 1, in one picture."""
        self._write(step, summary=_summaries().image(name, images, dataformats="NCHW"))

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        """Add a figure of matplotlib."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        self._write(step, summary=_summaries().image(name, pixels, dataformats="HWC"))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _begin(self, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog  # type: ignore[import-untyped]

        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise WriteError(self._path, error) from error
        try:
            self._write(first_step, file_version="brain.Event:2")
            self._write(first_step, session_log=SessionLog(status=SessionLog.START))
        except BaseException:
            self._file.close()
            raise

    def _write(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        record = io.BytesIO()
        event = Event(wall_time=time.time(), step=step, **content)
        RecordWriter(record).write(event.SerializeToString())
        if not is_at(self._path, self._file.fileno()):  # it was removed while the run was going on
            self._file.close()
            self._begin(step)
        append(self._file, self._path, record.getvalue())


def _summaries() -> Any:
    """Return torch's functions from values to what TensorBoard stores; only who logs needs TensorBoard."""
    from torch.utils.tensorboard import summary

    return summary
