"""MNIST and Fashion-MNIST, from the four idx files they are published as."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import _files
from ._labels import N_CLASSES, labels_of
from .dataset import DataError, DataSet

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# The first folders are those of one's own making and of torchvision. The files of both sets have the same names, so
# the root itself, which may hold those of the other set, comes last.
FOLDERS = {"mnist": ("mnist", "MNIST/raw", ""), "fashion_mnist": ("fashion_mnist", "FashionMNIST/raw", "")}
SIZE = (28, 28)
MOST_IMAGES = 1 << 19  # of a file; those published have 60,000, the digits of EMNIST 240,000


def load_idx(name: str, root: _files.Root) -> DataSet:
    """Return "mnist" or "fashion_mnist" from their files, plain or gzip: images [N, 1, 28, 28] of 256 levels."""
    folder = _files.root_folder(root, name, ", ".join(FILES) + ", plain or .gz")
    paths = _files.find([folder / sub for sub in FOLDERS[name]], FILES, ("", ".gz"))
    train, train_labels = _part(name, paths[0], paths[1])
    test, test_labels = _part(name, paths[2], paths[3])
    return DataSet(name, train, test, train_labels, test_labels, 256, N_CLASSES)


def _part(name: str, image_path: Path, label_path: Path) -> tuple[Tensor, Tensor]:
    """Return images [N, 1, 28, 28] and labels [N] that belong together."""
    images = read_idx(image_path, 3)
    if images.shape[1:] != SIZE:
        raise DataError(
            f"{image_path} must hold images of 28 x 28 pixels, got {' x '.join(map(str, images.shape[1:]))}; "
            f"pass the folder of {name}."
        )
    return torch.from_numpy(images[:, None]), labels_of(label_path, read_idx(label_path, 1), len(images))


def read_idx(path: Path, n_dims: int) -> _files.Array:
    """Return the bytes of an idx file as an array of n_dims dimensions; .gz is unpacked.

    The format: two zeros, 8 for bytes, the number of dimensions, then each size as a big-endian 32-bit number, then
    the bytes, the last index running fastest.

    Raises:
        DataError: the file is not there, is not such a file, or has the wrong length.
    """
    magic = bytes((0, 0, 8, n_dims))
    start = 4 + 4 * n_dims
    with _files.unpacked(path, start + MOST_IMAGES * math.prod(SIZE)) as source:
        header = _files.up_to(source, start)
        if header[:4] != magic:
            raise DataError(
                f"{path} must start with the magic number {int.from_bytes(magic, 'big')} of an idx file of bytes with "
                f"{n_dims} dimension{'s' * (n_dims > 1)}, got {header[:4].hex(' ') or 'an empty file'}; check that it "
                f"is the file its name says."
            )
        sizes = np.frombuffer(header[4:].ljust(4 * n_dims, b"\0"), ">u4").tolist()
        if 0 in sizes or sizes[0] > MOST_IMAGES or math.prod(sizes[1:]) > math.prod(SIZE) * 16:
            raise DataError(
                f"{path} must have sizes above zero in its header, {MOST_IMAGES} images at most, got {sizes}; "
                f"{_files.AGAIN}."
            )
        expected = math.prod(sizes)
        content = _files.up_to(source, expected + 1)
    if len(content) != expected:
        raise DataError(
            f"{path} must be {start + expected} bytes long for the sizes {sizes} of its header, got "
            f"{start + len(content)}{' or more' * (len(content) > expected)}; {_files.AGAIN}."
        )
    values: _files.Array = np.frombuffer(content, np.uint8).reshape(sizes)
    return values
