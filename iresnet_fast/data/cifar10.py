"""CIFAR-10, from its binary or its Python version, each unpacked or as the archive it is published as."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import _files
from ._labels import N_CLASSES, labels_of
from ._pickle import loads
from .dataset import DataError, DataSet

SHAPE = (3, 32, 32)
N_PIXELS = 3072
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


def _records(where: str, content: bytes) -> tuple[Tensor, Tensor]:
    """Return the images and labels of the binary version: for each image a byte of label, then its pixels."""
    if len(content) == 0 or len(content) % (1 + N_PIXELS) != 0:
        raise DataError(
            f"{where} must be a multiple of {1 + N_PIXELS} bytes long, a label and 3 x 32 x 32 pixels for each image, "
            f"got {len(content)}; {_files.AGAIN}."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + N_PIXELS)
    return _images(records[:, 1:]), labels_of(where, records[:, 0], len(records))


def _pickled(where: str, content: bytes) -> tuple[Tensor, Tensor]:
    """Return the images and labels of the Python version: a pickled dictionary."""
    batch = loads(where, content)
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= set(batch):
        raise DataError(f"{where} must hold a dictionary with data and labels, got something else; {_files.AGAIN}.")
    pixels, labels = batch[b"data"], batch[b"labels"]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (N_PIXELS,):
        got = f"{pixels.dtype} of shape {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DataError(f"{where} must hold bytes of shape (N, {N_PIXELS}) as data, got {got}; {_files.AGAIN}.")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataError(f"{where} must hold a list of whole numbers as labels, got something else; {_files.AGAIN}.")
    return _images(pixels), labels_of(where, np.array(labels), len(pixels))


def _images(pixels: _files.Array) -> Tensor:
    return torch.from_numpy(pixels.reshape(-1, *SHAPE).copy())


@dataclass(frozen=True)
class _Version:
    folder: str
    archive: str
    ending: str
    decode: Callable[[str, bytes], tuple[Tensor, Tensor]]

    @property
    def files(self) -> list[str]:
        return [batch + self.ending for batch in BATCHES]


# The binary version first: it is read without a pickle.
VERSIONS = (
    _Version("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", _records),
    _Version("cifar-10-batches-py", "cifar-10-python.tar.gz", "", _pickled),
)


def load_cifar10(name: str, root: _files.Root) -> DataSet:
    """Return CIFAR-10 from its files: images [N, 3, 32, 32] of 256 levels."""
    expected = " or ".join(f"{version.folder} or {version.archive}" for version in VERSIONS)
    folder = _files.root_folder(root, name, expected)
    for place in (folder / name, folder):
        for version in VERSIONS:
            if (place / version.archive).is_file():
                return _load(name, version, _unpack(place / version.archive, version))
            for source in (place / version.folder, place):
                if (source / version.files[0]).exists():
                    paths = _files.find([source], version.files)
                    return _load(name, version, [(str(path), _files.read(path)) for path in paths])
    raise DataError(
        f"{folder} or {folder / name} must hold {expected}, got none of them; get the files and pass their folder as "
        f"root (--data-root on the command line)."
    )


def _load(name: str, version: _Version, contents: list[tuple[str, bytes]]) -> DataSet:
    *parts, (test, test_labels) = (version.decode(where, content) for where, content in contents)
    train, train_labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return DataSet(name, train, test, train_labels, test_labels, 256, N_CLASSES)


def _unpack(archive: Path, version: _Version) -> list[tuple[str, bytes]]:
    """Return (what to call it, content) of every batch in an archive, of which nothing is written anywhere."""
    try:
        with tarfile.open(fileobj=io.BytesIO(_files.read(archive)), mode="r:") as tar:
            members = {Path(member.name).name: tar.extractfile(member) for member in tar if member.isfile()}
            found = {file: member.read() for file, member in members.items() if file in version.files and member}
    except tarfile.TarError as error:
        raise DataError(
            f"{archive} must be a whole tar archive, got a damaged one ({error}); {_files.AGAIN}."
        ) from None
    missing = [file for file in version.files if file not in found]
    if missing:
        raise DataError(f"{archive} must hold {', '.join(version.files)}, got no {', '.join(missing)}; {_files.AGAIN}.")
    return [(f"{file} in {archive}", found[file]) for file in version.files]
