"""Normalised weights that are at hand for the calls inside a block of code, in the thread that runs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from .._torch_private import saved_tensor_hooks
from ..geometry import ConvGeometry
from ._layer import SpectralLayer

Normalized = tuple["ConvGeometry | None", Tensor]  # the operator whose norm the weight was divided by, and the weight


class AtHand(threading.local):
    """The weights of some layers, for a while.

    A checkpoint that begins meanwhile takes none of them: it runs again in the backward pass, where they are no more,
    and must do the same as before.
    """

    def __init__(self) -> None:
        """Begin with nothing, in every thread."""
        self._entries: Mapping[SpectralLayer, Normalized] = {}
        self._hooks: object = None

    def now(self) -> Mapping[SpectralLayer, Normalized]:
        """Return what is at hand here."""
        return self._entries if self._entries and self._hooks == saved_tensor_hooks() else {}

    @contextmanager
    def more(self, entries: Mapping[SpectralLayer, Normalized]) -> Iterator[None]:
        """Have these at hand too, inside the block."""
        before = self._entries, self._hooks
        self._entries, self._hooks = {**self.now(), **entries}, saved_tensor_hooks()
        try:
            yield
        finally:
            self._entries, self._hooks = before
