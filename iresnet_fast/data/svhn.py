"""The cropped house numbers of SVHN, from the two .mat files they are published as."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import _files
from ._labels import N_CLASSES, labels_of
from ._matlab import read_arrays
from .dataset import DataError, DataSet

FILES = ("train_32x32.mat", "test_32x32.mat")
MOST_IMAGES = 1 << 17  # of a file; those published have 73,257 and 26,032
SHAPE = (32, 32, 3)  # of the first three of four dimensions; the last runs over images


def load_svhn(name: str, root: _files.Root) -> DataSet:
    """Return SVHN from its files: images [N, 3, 32, 32] of 256 levels."""
    folder = _files.root_folder(root, name, ", ".join(FILES))
    train, test = (_part(path) for path in _files.find([folder / name, folder], FILES))
    return DataSet(name, train[0], test[0], train[1], test[1], 256, N_CLASSES)


def _part(path: Path) -> tuple[Tensor, Tensor]:
    """Return the images [N, 3, 32, 32] and the labels [N] of a file."""
    arrays = read_arrays(path, ("X", "y"), MOST_IMAGES * math.prod(SHAPE))
    if not {"X", "y"} <= set(arrays):
        names = ", ".join(key for key in ("X", "y") if key not in arrays)
        raise DataError(f"{path} must hold the arrays X and y, got no {names}; {_files.AGAIN}.")
    x, y = arrays["X"], arrays["y"]
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != SHAPE:
        raise DataError(
            f"{path} must hold bytes of shape {(*SHAPE, 'N')} as X, got {x.dtype} of shape {x.shape}; {_files.AGAIN}."
        )
    labels = labels_of(path, y.reshape(-1), x.shape[3], first=1)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(3, 2, 0, 1))), labels % N_CLASSES  # 10: the digit 0
