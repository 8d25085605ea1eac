"""Batches of images as CIFAR and the downsampled ImageNet keep them: a dictionary of flat images and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ._files import AGAIN, Array
from ._labels import N_CLASSES, labels_of
from .dataset import DataError


def read_batch(
    where: str, batch: Any, n_pixels: int, key: str = "labels", n_classes: int = N_CLASSES, first: int = 0
) -> tuple[Array, Tensor]:
    """Return the images [N, n_pixels], uint8, and the labels [N], int64, of a batch.

    Args:
        where: what the sentence of an error calls the file.
        batch: what was in it.
        n_pixels: number of bytes of an image.
        key: where the labels are.
        n_classes: number of classes.
        first: the smallest label.

    Raises:
        DataError: it is no such dictionary, or images and labels are not as they should be.
    """
    # Python 2 pickled names as byte strings, Python 3 as text.
    entries = {_text(name): value for name, value in batch.items()} if isinstance(batch, dict) else {}
    missing = [name for name in ("data", key) if name not in entries]
    if missing:
        got = f"no {', '.join(missing)}" if isinstance(batch, dict) else type(batch).__name__
        raise DataError(f"{where} must hold a dictionary with data and {key}, got {got}; {AGAIN}.")
    pixels, labels = entries["data"], entries[key]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (n_pixels,):
        got = f"{pixels.dtype} of shape {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DataError(f"{where} must hold bytes of shape (N, {n_pixels}) as data, got {got}; {AGAIN}.")
    if isinstance(labels, list) and all(isinstance(label, int) for label in labels):
        labels = np.array(labels)
    if not isinstance(labels, np.ndarray):
        raise DataError(f"{where} must hold whole numbers as {key}, got something else; {AGAIN}.")
    return pixels, labels_of(where, labels, len(pixels), first, n_classes)


def _text(name: object) -> object:
    return name.decode("latin1") if isinstance(name, bytes) else name
