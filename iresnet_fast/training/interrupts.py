"""Ctrl-C and SIGTERM as a question a run can ask between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupts:
    """Notes the first SIGINT or SIGTERM inside a with block, in the main thread; the second ends the process as ever.

    Attributes:
        name: of the signal that came, None if none has.
    """

    def __init__(self) -> None:
        """Hear nothing yet."""
        self.name: str | None = None
        self._before: dict[int, Any] = {}
        self._is_noted = True

    def __enter__(self) -> Interrupts:
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the handlers back."""
        self._restore()

    def allow(self, work: Callable[[], None]) -> bool:
        """Do what may be ended where it is by a signal, or left out after one; returns whether it was done."""
        if self.name is not None:
            return False
        try:
            self._is_noted = False
            work()
        except KeyboardInterrupt:
            if self.name is None:
                raise
            return False
        finally:
            self._is_noted = True
        return True

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self._restore()
        if not self._is_noted:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
