"""ImageNet downsampled to 32 x 32 or 64 x 64 pixels, from the batches it is published as."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import _files
from ._batch import read_batch
from ._numpy import read_npz
from ._pickle import loads
from .dataset import DataSet

SIZES = {"imagenet32": 32, "imagenet64": 64}
N_CLASSES = 1000
TRAIN = tuple(f"train_data_batch_{number}" for number in range(1, 11))
VAL = "val_data"
MOST_IMAGES = 1 << 18  # of a file, twice as many as in those published


def load_imagenet(name: str, root: _files.Root) -> DataSet:
    """Return "imagenet32" or "imagenet64" from its files, pickled or .npz: images [N, 3, size, size] of 256 levels.

    These are the images of arXiv 1707.08819, which come with labels. The test part is the validation part of ImageNet.
    Papers on densities up to Residual Flows used another, earlier reduction, that of arXiv 1601.06759, without labels:
    its bits/dim and those of this one do not compare.
    """
    size = SIZES[name]
    files = f"{TRAIN[0]} to {TRAIN[-1]} and {VAL}, plain or .npz"
    folder = _files.root_folder(root, name, files)
    train, train_labels = _part(_find(folder, name, "train", TRAIN), size)
    test, test_labels = _part(_find(folder, name, "val", [VAL]), size)
    return DataSet(name, train, test, train_labels, test_labels, 256, N_CLASSES)


def _find(folder: Path, name: str, part: str, files: Sequence[str]) -> list[Path]:
    # The files of both sizes have the same names, so the root itself, which may hold the others, comes last.
    own = f"Imagenet{SIZES[name]}_{part}"
    return _files.find([folder / name / own, folder / own, folder / name, folder], files, ("", ".npz"))


def _part(paths: Sequence[Path], size: int) -> tuple[Tensor, Tensor]:
    """Return the images [N, 3, size, size] and the labels [N] of some batches."""
    shape = (3, size, size)
    images, labels = np.empty((0, *shape), np.uint8), []
    for path in paths:
        pixels, of_batch = read_batch(str(path), _decode(path, size), 3 * size * size, n_classes=N_CLASSES, first=1)
        start = len(images)
        # Grows where it is: ten batches of 64 x 64, 16 GB, take no second 16 GB to be joined.
        images.resize((start + len(pixels), *shape), refcheck=False)
        images[start:] = pixels.reshape(-1, *shape)
        labels.append(of_batch - 1)
    return torch.from_numpy(images), torch.cat(labels)


def _decode(path: Path, size: int) -> Any:
    """Return what a file holds, a dictionary if it is a batch."""
    most = MOST_IMAGES * 3 * size * size
    if path.suffix != ".npz":
        return loads(str(path), _files.read(path, most))
    return read_npz(path, most, lambda names: [name for name in ("data", "labels") if name in names])
