"""Data sets in the manner of torchvision as a DataSet: anything with a length whose items are an image and a label."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _checks
from .._inputs import described
from ._files import Array, shown
from ._notes import note
from ._pixels import Images, arranged, channels_first, classes_of, levels_of, split_order
from .dataset import DataError, DataSet
from .source import ImageOptions


def from_torchvision(
    train: Any, test: Any = None, name: str | None = None, seed: int = 0, images: ImageOptions | None = None
) -> DataSet:
    """Return a data set of torchvision, or another of its kind, as a DataSet.

    Every item is asked for once, so transforms are applied as they are then. Floats that are multiples of 1/255, as
    ToTensor makes them, become the bytes that they were; others are continuous. torchvision is not imported.

    Args:
        train: has `len` and items (image, label) or images alone: PIL images, tensors [C, H, W] or [H, W], arrays
            [H, W] or [H, W, C], all of one shape. Vectors [d] and signals [C, L] of floats are events as well. A
            TensorDataset is one too.
        test: the same of other events; None: a tenth, drawn by the seed, is for testing.
        name: of the data set; None: the name of the class of `train`.
        seed: of the split.
        images: size and colours; None: as they are.

    Returns:
        With labels if all of them are whole numbers, and with the names in `train.classes` if there are some. Other
        labels are left out, which a warning says.

    Raises:
        DataError: an item is no image, or shapes differ.
        TypeError: train or test has no length or no items.
    """
    for what, given in (("train", train), ("test", test)):
        if (what, given) != ("test", None) and not all(hasattr(given, method) for method in ("__len__", "__getitem__")):
            raise TypeError(f"{what} must have a length and items, got {described(given)}; pass a map-style data set.")
    _checks.check_count("seed", seed, 0)
    called = type(train).__name__ if name is None else name
    parts = [_items(called, train)] + ([] if test is None else [_items(f"test of {called}", test)])
    if any(part[0].shape[1:] != parts[0][0].shape[1:] or part[0].dtype != parts[0][0].dtype for part in parts):
        shapes = " and ".join(f"{part[0].dtype} of shape {part[0].shape[1:]}" for part in parts)
        raise DataError(f"test of {called} must hold events like those of train, got {shapes}; use one transform.")
    array = parts[0][0] if len(parts) == 1 else np.concatenate([part[0] for part in parts])
    x, n_levels = _events(called, array, images or ImageOptions())
    given = [part[1] for part in parts]
    labels = None if any(part is None for part in given) else _labels(called, given)
    if len(parts) == 1:
        if len(x) < 2:
            raise DataError(f"{called} must hold at least 2 events, one to test on, got {len(x)}; pass more.")
        rows = [torch.from_numpy(order) for order in split_order(len(x), seed)]
    else:
        rows = list(torch.split_with_sizes(torch.arange(len(x)), [len(parts[0][0]), len(parts[1][0])]))
    names = _names(train, labels)
    n_classes = None if labels is None else len(names) or int(labels.max()) + 1
    train_labels, test_labels = (None if labels is None else labels[part] for part in rows)
    return DataSet(called, x[rows[0]], x[rows[1]], train_labels, test_labels, n_levels, n_classes, class_names=names)


def _items(called: str, dataset: Any) -> tuple[Array, list[Any] | None]:
    """Return the events of a data set in one array, images with channels first, and their labels, None if none are."""
    n = len(dataset)
    if n == 0:
        raise DataError(f"{called} must hold events, got none; pass another data set.")
    events: Array | None = None
    labels: list[Any] = []
    for i in range(n):
        item = dataset[i]
        if isinstance(item, (tuple, list)):
            labels += item[1:2]
            item = item[0] if item else None
        event = _event(f"item {i} of {called}", item)
        if events is None:
            events = np.empty((n, *event.shape), event.dtype)
        if event.shape != events.shape[1:] or event.dtype != events.dtype:
            raise DataError(
                f"{called} must hold events of one shape and dtype, got {events.dtype} of shape {events.shape[1:]} "
                f"first and {event.dtype} of shape {event.shape} as item {i}; resize them, e.g. by its transform."
            )
        events[i] = event
    assert events is not None  # there is an item
    return events, labels if len(labels) == n else None


def _event(where: str, item: Any) -> Array:
    """Return an item as an array: [C, H, W], [C, L] or [d]."""
    if isinstance(item, Tensor):
        item = item.detach().cpu()
        return _checked(where, (item.float() if item.dtype == torch.bfloat16 else item).numpy())
    if not isinstance(item, np.ndarray) and hasattr(item, "mode") and hasattr(item, "convert"):
        item = item.convert("RGBA") if item.mode in ("P", "PA") and item.has_transparency_data else item
        plain = item.mode in ("1", "L", "RGB", "RGBA", "F") or item.mode.startswith("I")
        item = np.asarray(item if plain else item.convert("RGB"))
    if not isinstance(item, np.ndarray):
        raise DataError(f"{where} must be an image, a tensor or an array, got {described(item)}; use its transform.")
    array = _checked(where, item)
    if array.ndim == 3 and not channels_first(where, (1, *array.shape)):
        array = array.transpose(2, 0, 1)
    return array


def _checked(where: str, array: Array) -> Array:
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2, 3):
        raise DataError(
            f"{where} must hold numbers [C, H, W], [H, W], [C, L] or [d], got {array.dtype} of shape {array.shape}; "
            f"use its transform."
        )
    return array


def _events(where: str, array: Array, options: ImageOptions) -> Images:
    """Return stacked events as those of a DataSet: two axes of whole numbers are a grey image, of floats a signal."""
    if array.ndim == 3 and array.dtype.kind != "f":
        array = array[:, None]
    if array.ndim == 4:
        levels, n_levels = levels_of(where, array)
        return arranged(where, Images(torch.from_numpy(levels), n_levels), options)
    if options != ImageOptions():
        raise DataError(
            f"{where} must hold images to change their size or mode, got shape {array.shape}; leave it out."
        )
    return Images(torch.from_numpy(np.ascontiguousarray(array, np.float32)), None)


def _labels(called: str, parts: list[Any]) -> Tensor | None:
    """Return the labels of all parts, [N]; None, with a warning, if they are no whole numbers."""
    flat = [label for part in parts for label in part]
    try:
        return classes_of(called, np.array([np.asarray(label) for label in flat]), len(flat))
    except ValueError:  # of several shapes, or no classes
        first = shown(str(flat[0]))
        note(f"the labels of {called} are no whole numbers from 0 on and were left out, the first is {first}.")
        return None


def _names(dataset: Any, labels: Tensor | None) -> tuple[str, ...]:
    """Return the names of the classes if the data set has one for each."""
    names = getattr(dataset, "classes", None)
    known = isinstance(names, (list, tuple)) and labels is not None and int(labels.max()) < len(names)
    return tuple(map(str, names)) if known and names is not None else ()
