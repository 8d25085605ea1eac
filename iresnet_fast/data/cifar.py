"""CIFAR-10 and CIFAR-100, from their Python versions or CIFAR-10's binary one, unpacked or as published archives."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import _files
from ._batch import read_batch
from ._labels import N_CLASSES, labels_of
from ._pickle import Content, loads
from ._tar import read_members
from .dataset import DataError, DataSet

SHAPE = (3, 32, 32)
N_PIXELS = 3072
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
MOST = 1 << 29  # bytes of a file, of an archive after unpacking: what is published has a third


def _records(where: str, content: Content) -> tuple[Tensor, Tensor]:
    """Return the images and labels of the binary version: for each image a byte of label, then its pixels."""
    if len(content) == 0 or len(content) % (1 + N_PIXELS) != 0:
        raise DataError(
            f"{where} must be a multiple of {1 + N_PIXELS} bytes long, a label and 3 x 32 x 32 pixels for each image, "
            f"got {len(content)}; {_files.AGAIN}."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + N_PIXELS)
    return _images(records[:, 1:]), labels_of(where, records[:, 0], len(records))


def _pickled(where: str, content: Content, key: str = "labels", n_classes: int = N_CLASSES) -> tuple[Tensor, Tensor]:
    """Return the images and labels of the Python version: a pickled dictionary."""
    pixels, labels = read_batch(where, loads(where, content), N_PIXELS, key, n_classes)
    return _images(pixels), labels


def _images(pixels: _files.Array) -> Tensor:
    return torch.from_numpy(pixels.reshape(-1, *SHAPE).copy())


@dataclass(frozen=True)
class _Version:
    folder: str
    archive: str
    files: Sequence[str]  # the last is the one to test on
    decode: Callable[[str, Content], tuple[Tensor, Tensor]]


CLASSES = {"cifar10": N_CLASSES, "cifar100": 100}
# The binary version first: it is read without a pickle.
VERSIONS = {
    "cifar10": (
        _Version("cifar-10-batches-bin", "cifar-10-binary.tar.gz", [f"{batch}.bin" for batch in BATCHES], _records),
        _Version("cifar-10-batches-py", "cifar-10-python.tar.gz", BATCHES, _pickled),
    ),
    "cifar100": (
        _Version(
            "cifar-100-python",
            "cifar-100-python.tar.gz",
            ("train", "test"),
            partial(_pickled, key="fine_labels", n_classes=CLASSES["cifar100"]),
        ),
    ),
}


def load_cifar(name: str, root: _files.Root) -> DataSet:
    """Return "cifar10", or "cifar100" with its fine labels, from its files: images [N, 3, 32, 32] of 256 levels."""
    versions = VERSIONS[name]
    expected = " or ".join(f"{version.folder} or {version.archive}" for version in versions)
    folder = _files.root_folder(root, name, expected)
    for place in (folder / name, folder):
        for version in versions:
            if os.path.isfile(place / version.archive):
                return _load(name, version, _unpack(place / version.archive, version))
            for source in (place / version.folder, place):
                if os.path.exists(source / version.files[0]):
                    paths = _files.find([source], version.files)
                    return _load(name, version, [(str(path), _files.read(path, MOST)) for path in paths])
    raise DataError(
        f"{folder} or {folder / name} must hold {expected}, got none of them; get the files and pass their folder as "
        f"root (--data-root on the command line)."
    )


def _load(name: str, version: _Version, contents: list[tuple[str, Content]]) -> DataSet:
    *parts, (test, test_labels) = (version.decode(where, content) for where, content in contents)
    train, train_labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return DataSet(name, train, test, train_labels, test_labels, 256, CLASSES[name])


def _unpack(archive: Path, version: _Version) -> list[tuple[str, Content]]:
    """Return (what to call it, content) of every batch in an archive, of which nothing is written anywhere."""
    with _files.unpacked(archive, MOST) as source:
        found = read_members(archive, source, version.files, MOST)
    missing = [file for file in version.files if file not in found]
    if missing:
        raise DataError(f"{archive} must hold {', '.join(version.files)}, got no {', '.join(missing)}; {_files.AGAIN}.")
    return [(f"{file} in {archive}", found[file]) for file in version.files]
