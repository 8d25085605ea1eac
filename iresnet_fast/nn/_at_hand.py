"""Weights that are normalised already, for all calls inside a block of code."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from .._torch_private import saved_tensor_hooks
from ..geometry import ConvGeometry
from ._layer import SpectralLayer

Normalized = tuple[ConvGeometry | None, Tensor]  # the operator whose norm the weight was divided by, and the weight
_Held = dict[SpectralLayer, tuple[Tensor | None, Normalized]]  # by layer: its parameter, and what was made of it

# Of a thread and not of a group of layers: another thread may merge groups meanwhile.
_of_thread = threading.local()


@contextmanager
def held(layers: Sequence[SpectralLayer], entries: Sequence[Normalized]) -> Iterator[None]:
    """Have these entries at hand inside the block, beside those around it."""
    parameters = (layer._parameters.get("weight") for layer in layers)
    before = getattr(_of_thread, "held", None)
    more = dict(zip(layers, zip(parameters, entries, strict=True), strict=True))
    _of_thread.held = _held() | more, saved_tensor_hooks()
    try:
        yield
    finally:
        _of_thread.held = before


def entries_at_hand(layers: Sequence[SpectralLayer], image_size: Sequence[int] | None) -> list[Normalized] | None:
    """Return the entries of these layers for images of this size; None if one is missing, or is of other weights."""
    known = _held()
    entries = []
    for layer in layers:
        if layer not in known:
            return None
        parameter, entry = known[layer]
        # functional_call may have lent the layer another weight.
        if parameter is not layer._parameters.get("weight") or not fits(entry[0], image_size):
            return None
        entries.append(entry)
    return entries


def fits(geometry: ConvGeometry | None, image_size: Sequence[int] | None) -> bool:
    """Whether an operator is that of images of this size; a matrix is one for all sizes."""
    return geometry is None or image_size is None or geometry.image_size == tuple(image_size)


def _held() -> _Held:
    """Return what is at hand, of which a checkpoint that has begun since takes nothing."""
    found: tuple[_Held, object] | None = getattr(_of_thread, "held", None)
    return found[0] if found is not None and found[1] == saved_tensor_hooks() else {}
