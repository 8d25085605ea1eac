"""What a run shows while it goes on: a progress bar on a terminal with rich, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

from .log import Row

_SECONDS = 10.0  # between lines, where there is no terminal
_TICKS = 1000  # of the bar

# Told how a piece of work goes on: the fraction that is done, and a few words.
OnProgress = Callable[[float, str], None]


class Progress(Protocol):
    """Where a run reports to."""

    def update(self, row: Row, progress: float, minutes: float) -> None:
        """Show a row of the log.

        Args:
            row: the newest.
            progress: fraction of the budget used.
            minutes: spent on it.
        """

    def say(self, sentence: str) -> None:
        """Show a sentence, which stays."""

    def close(self) -> None:
        """Leave the last state on the screen."""


def make_progress(show: bool, progress: float) -> Progress:
    """Return a bar on a terminal, lines elsewhere, nothing if `show` is False; `progress`: where the run starts."""
    if not show:
        return _Silent()
    return _Bar(progress) if _has_bar() else _Lines()


@contextmanager
def working(show: bool) -> Iterator[OnProgress]:
    """Yield what takes the fraction done of a piece of work and a few words: for a bar on a terminal if `show`."""
    if not (show and _has_bar()):
        yield lambda progress, words: None
        return
    bar, task = _rich_bar("")
    try:
        yield lambda progress, words: bar.update(task, completed=_ticks(progress), description=words)
    finally:
        bar.stop()


def describe(row: Row) -> str:
    """Return what is most important of a row of the log, in one line; what it does not hold is left out."""
    parts = [f"step {row['step']}"]
    if row["loss"] is not None:
        parts.append(f"loss {row['loss']:.4g}")
    for name, value in row.items():
        of, _, metric = name.partition("_")
        if of in ("validation", "test") and value is not None:
            parts.append(f"{metric.replace('_', ' ').replace(' per ', '/')} {value:.4g} ({of})")
    if row["lipschitz"] is not None:
        parts.append(f"Lipschitz {row['lipschitz']:.4f}")
    if row["samples_per_second"] is not None:
        parts.append(f"{row['samples_per_second']:.0f}/s")
    return ", ".join(parts)


class _Silent:
    def update(self, row: Row, progress: float, minutes: float) -> None:
        pass

    def say(self, sentence: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines:
    def __init__(self) -> None:
        self._latest = -_SECONDS

    def update(self, row: Row, progress: float, minutes: float) -> None:
        """Print the row if it is the last or the one before is some time ago."""
        if progress >= 1.0 or time.monotonic() - self._latest >= _SECONDS:
            self._latest = time.monotonic()
            print(f"{describe(row)}{_left(progress, minutes)}", flush=True)

    def say(self, sentence: str) -> None:
        """Print it."""
        print(sentence, flush=True)

    def close(self) -> None:
        pass


class _Bar:
    """A bar whose line also shows the newest test metric and Lipschitz constant, from whatever row they are."""

    def __init__(self, progress: float) -> None:
        self._rich, self._task = _rich_bar("starting", _ticks(progress))
        self._newest: dict[str, Any] = {}

    def update(self, row: Row, progress: float, minutes: float) -> None:
        """Move the bar."""
        self._newest.update({name: value for name, value in row.items() if value is not None})
        self._rich.update(
            self._task,
            completed=_ticks(progress),
            description=describe({**row, **self._newest}),
            left=_left(progress, minutes).removeprefix(", "),
        )

    def say(self, sentence: str) -> None:
        """Print it above the bar."""
        self._rich.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._rich.stop()


def _has_bar() -> bool:
    """Return whether there is a terminal to show a bar on, and rich to draw it."""
    return sys.stdout.isatty() and find_spec("rich") is not None


def _rich_bar(words: str, completed: int = 0) -> tuple[Any, Any]:
    """Return a bar that is on the screen, and its task."""
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Rich

    bar = Rich(
        BarColumn(20),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[left]}"),
        console=Console(),  # rich's shared one keeps what the environment said when it was first asked for
    )
    task = bar.add_task(words, total=_TICKS, completed=completed, left="")
    bar.start()
    return bar, task


def _ticks(progress: float) -> int:
    return min(int(_TICKS * progress), _TICKS)


def _left(progress: float, minutes: float) -> str:
    """Return the time left, as if the run went on at the same pace."""
    if not 0.0 < progress < 1.0:
        return ""
    seconds = round(60.0 * minutes * (1.0 - progress) / progress)
    hours, seconds = divmod(seconds, 3600)
    return f", {hours}:{seconds // 60:02d}:{seconds % 60:02d} left"
