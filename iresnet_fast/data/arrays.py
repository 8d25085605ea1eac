"""Images and signals from .npy and .npz files, for arrays of three or four axes; two axes are a table."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._regular import half_of_memory
from . import _files
from ._files import Array
from ._notes import note
from ._numpy import read_npy, read_npz
from ._pixels import Images, arranged, channels_first, classes_of, levels_of, split_order
from .dataset import DataError, DataSet
from .source import ImageOptions

# Names of the arrays of a .npz file: events to train on, their labels, events to test on, their labels. Keras, MedMNIST
# and torch each have their own.
_SPLIT = (
    ("train", "train_labels", "test", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "y_train", "X_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("train_x", "train_y", "test_x", "test_y"),
)
_WHOLE = (("x", "y"), ("X", "y"), ("x", "labels"), ("images", "labels"), ("data", "labels"))

Rows = slice | Tensor

_MANY_CHANNELS = 8  # of a signal, from which on an array may have been meant for images


class _Events(NamedTuple):
    """Arrays by what to call them: events, and labels or None."""

    where: str
    x: Array
    labels: Array | None


def load_arrays(name: str, path: Path, seed: int | None, options: ImageOptions) -> DataSet:
    """Return the images or signals of a file.

    Images are [N, H, W] of whole numbers, [N, H, W, C] or [N, C, H, W]; signals are floats [N, C, L]. A .npz file has
    one array, or arrays by the names of `_SPLIT` or `_WHOLE`, labels where it has some. A tenth, drawn by the seed, is
    for testing unless the file is split.

    Args:
        name: of the data set.
        path: of the file.
        seed: of the split; None: where the file has one part, both parts are all of it.
        options: how images are changed; none are for signals.

    Raises:
        DataError: the file is damaged, its arrays are no images and no signals, or their parts do not fit.
    """
    parts = _npz(path) if path.suffix.lower() == ".npz" else _npy(path)
    if any(part.x.ndim != parts[0].x.ndim or part.x.ndim not in (3, 4) for part in parts):
        shapes = " and ".join(str(part.x.shape) for part in parts)
        raise DataError(
            f"{path} must hold arrays of three axes or of four, the same in all parts, got {shapes}; correct it."
        )
    first = parts[0].x
    for part in parts[1:]:
        if part.x.dtype != first.dtype or part.x.shape[1:] != first.shape[1:]:
            raise DataError(
                f"{path} must hold events to test on like those to train on, {first.dtype} of shape {first.shape[1:]}, "
                f"got {part.x.dtype} of shape {part.x.shape[1:]}; correct it."
            )
    train, test = _rows(parts, seed)
    # Both parts are looked at together: the levels and the colours of the one are those of the other.
    array = first if len(parts) == 1 else np.concatenate([part.x for part in parts])
    x, n_levels = _events(str(path), array, options)
    labels = _labels(path, parts)
    if labels is None:
        return DataSet(name, x[train], x[test], n_levels=n_levels)
    return DataSet(name, x[train], x[test], labels[train], labels[test], n_levels, 1 + int(labels.max()))


def _rows(parts: list[_Events], seed: int | None) -> tuple[Rows, Rows]:
    """Return the rows to train on and those to test on, of all parts one after the other."""
    n = len(parts[0].x)
    if len(parts) > 1:
        return slice(0, n), slice(n, None)
    if seed is None:
        return slice(None), slice(None)
    if n < 2:
        raise DataError(f"{parts[0].where} must hold at least 2 events, one to test on, got {n}; add some.")
    train, test = split_order(n, seed)
    return torch.from_numpy(train), torch.from_numpy(test)


def _labels(path: Path, parts: list[_Events]) -> Tensor | None:
    """Return the labels of all parts one after the other; None if there are none."""
    found = [classes_of(part.where, part.labels, len(part.x)) for part in parts if part.labels is not None]
    if len(found) not in (0, len(parts)):
        raise DataError(f"{path} must hold labels for both parts or for neither, got them for one; add the others.")
    return torch.cat(found) if found else None


def _events(where: str, array: Array, options: ImageOptions) -> Images:
    """Return an array as the events of a DataSet; raises DataError if it can be neither images nor signals."""
    if array.size == 0:
        raise DataError(f"{where} must hold events, got the shape {array.shape}; save others.")
    if array.ndim == 3 and array.dtype.kind == "f":
        if options != ImageOptions():
            raise DataError(
                f"{where} must hold images to change their size or mode, got signals, floats of shape {array.shape}; "
                f"leave the size and the mode out, or save grey images as [N, 1, H, W]."
            )
        if array.shape[1] >= _MANY_CHANNELS and array.min() >= 0.0 and array.max() <= 1.0:
            note(
                f"{where} was taken for signals of {array.shape[1]} channels and length {array.shape[2]}, as floats of "
                f"three axes are; save grey images as [N, 1, H, W], or as whole numbers."
            )
        with np.errstate(over="ignore"):  # becomes infinite, which DataSet looks for
            return Images(torch.from_numpy(np.ascontiguousarray(array, np.float32)), None)
    if array.ndim == 3 and array.dtype.kind == "i" and array.min() < 0:
        raise DataError(
            f"{where} must hold floats [N, C, L] for signals or whole numbers from 0 on [N, H, W] for images, got "
            f"{array.dtype} with negative numbers; convert signals to float32."
        )
    if array.ndim == 3:
        array = array[:, None]
    elif not channels_first(where, array.shape):
        array = array.transpose(0, 3, 1, 2)
    levels, n_levels = levels_of(where, array)
    x = torch.from_numpy(np.ascontiguousarray(levels))
    return arranged(where, Images(x, n_levels), options)


def _npy(path: Path) -> list[_Events]:
    return [_Events(str(path), read_npy(str(path), _files.read(path, half_of_memory())), None)]


def _npz(path: Path) -> list[_Events]:
    """Return the events of a .npz file, in one part or two."""
    layout: list[tuple[str, str]] = []
    left: list[str] = []

    def wanted(names: list[str]) -> list[str]:
        for x, y, test_x, test_y in _SPLIT:
            if {x, test_x} <= set(names):
                layout.extend(((x, y), (test_x, test_y)))
                break
        else:
            known = [pair for pair in _WHOLE if set(names) == set(pair)]
            if not known and len(names) != 1:
                raise DataError(
                    f"{path} must hold one array, or arrays called train and test or x and y, got "
                    f"{_files.shown(', '.join(names))}; save it anew."
                )
            layout.append(known[0] if known else (names[0], ""))
        chosen = [name for pair in layout for name in pair if name in names]
        left.extend(name for name in names if name not in chosen)
        return chosen

    arrays = read_npz(path, half_of_memory(), wanted)
    parts = [_Events(f"{_files.shown(x)} in {path}", arrays[x], arrays.get(y)) for x, y in layout]
    if left:
        note(f"the arrays {_files.shown(', '.join(left))} of {path} were left out.")
    return parts
