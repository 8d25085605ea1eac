"""The faces of CelebA, aligned and cropped, from the JPEG files they are published as."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._optional import needed
from . import _files
from ._numpy import not_whole, open_zip, read_member
from .dataset import DataError, DataSet

IMAGES = "img_align_celeba"
PARTITIONS = "list_eval_partition.txt"
TRAIN, TEST = "0", "2"
PARTS = {TRAIN: "training", "1": "validation", TEST: "test"}
WIDTH, HEIGHT = 178, 218  # of the files
CROP, SIZE = 140, 64
MOST_LIST, MOST_ARCHIVE, MOST_IMAGE = 1 << 25, 1 << 33, 1 << 20  # bytes; published are 3e6, 1.5e9 and 2e4 or less


@dataclass(frozen=True)
class _Source:
    """An image that has not been read yet: what to call it, and its content."""

    where: str
    read: Callable[[], bytearray]


def load_celeba(name: str, root: _files.Root) -> DataSet:
    """Return CelebA as images [N, 3, 64, 64] of 256 levels, without labels.

    As is usual for 64 x 64, they are the square of 140 x 140 pixels at the centre, resized by bilinear filtering.
    Partition 0 is to train on, partition 2 to test on; partition 1, for validation, is left out. Reading the 182,732
    JPEG files takes minutes.
    """
    folder = _files.root_folder(root, name, f"{IMAGES} or {IMAGES}.zip, and {PARTITIONS}")
    (list_path,) = _files.find([folder / name, folder], [PARTITIONS])
    partitions = _partitions(list_path)
    place, archive = list_path.parent / IMAGES, list_path.parent / f"{IMAGES}.zip"
    if not os.path.isdir(place) and not os.path.exists(archive):
        raise DataError(
            f"{list_path.parent} must hold {IMAGES} or {IMAGES}.zip beside {PARTITIONS}, got neither; add one of them."
        )
    with _in_folder(place) if os.path.isdir(place) else _in_archive(archive) as images:
        _check_names(place if os.path.isdir(place) else archive, images, list_path, partitions)
        train, test = (
            _decoded([images[file] for file, partition in partitions.items() if partition == part])
            for part in (TRAIN, TEST)
        )
    return DataSet(name, train, test, n_levels=256)


def _partitions(path: Path) -> dict[str, str]:
    """Return the partition of each image: a line has the name of a file and "0", "1" or "2"."""
    partitions: dict[str, str] = {}
    for number, line in enumerate(_files.read(path, MOST_LIST).decode("latin1").splitlines(), 1):
        words = line.split()
        if len(words) != 2 or words[1] not in PARTS:
            raise DataError(
                f"{path} must have the name of an image and 0, 1 or 2 in line {number}, got {line[:40]!r}; "
                f"{_files.AGAIN}."
            )
        if words[0] in partitions:
            raise DataError(
                f"{path} must name an image once, got {_files.shown(words[0])} again in line {number}; {_files.AGAIN}."
            )
        partitions[words[0]] = words[1]
    for part in (TRAIN, TEST):
        if part not in partitions.values():
            raise DataError(f"{path} must name images of partition {part}, {PARTS[part]}, got none; {_files.AGAIN}.")
    return partitions


@contextmanager
def _in_folder(place: Path) -> Iterator[dict[str, _Source]]:
    """Yield the images of a folder by their names."""
    try:
        paths = [path for path in place.iterdir() if path.name.endswith(".jpg")]
    except OSError as error:
        raise DataError(f"{place} must be a folder that can be read, got: {error.strerror}; correct it.") from None
    yield {path.name: _Source(str(path), partial(_files.read, path, MOST_IMAGE)) for path in paths}


@contextmanager
def _in_archive(path: Path) -> Iterator[dict[str, _Source]]:
    """Yield the images of an archive by their names."""
    with _files.opened(path, MOST_ARCHIVE) as file, open_zip(path, file, "zip archive") as archive:
        images = {}
        for info in archive.infolist():
            folder, _, name = info.filename.rpartition("/")
            if folder == IMAGES and name.endswith(".jpg"):
                where = f"{path}/{_files.shown(info.filename)}"
                images[name] = _Source(where, partial(read_member, where, archive, info, "JPEG image", MOST_IMAGE))
        yield images


def _check_names(source: Path, images: dict[str, _Source], list_path: Path, partitions: dict[str, str]) -> None:
    """Raise DataError unless the images are those that the list names."""
    missing, unnamed = sorted(partitions.keys() - images.keys()), sorted(images.keys() - partitions.keys())
    if missing:
        raise DataError(
            f"{source} must hold the {len(partitions)} images that {list_path} names, got no "
            f"{_files.shown(missing[0])}, {len(missing)} are missing; {_files.AGAIN}."
        )
    if unnamed:
        raise DataError(
            f"{list_path} must name the {len(images)} images of {source}, got no line for {_files.shown(unnamed[0])}, "
            f"{len(unnamed)} are missing; {_files.AGAIN}."
        )


def _decoded(sources: list[_Source]) -> Tensor:
    """Return images [N, 3, 64, 64] from their files."""
    images = np.empty((len(sources), 3, SIZE, SIZE), np.uint8)
    for image, source in zip(images, sources, strict=True):
        image[:] = _pixels(source.where, source.read()).transpose(2, 0, 1)
    return torch.from_numpy(images)


def _pixels(where: str, content: bytearray) -> _files.Array:
    """Return the pixels [64, 64, 3] of a file, cropped and resized."""
    with needed(f"reading {where}"):
        from PIL import Image, UnidentifiedImageError
    left, top = (WIDTH - CROP) // 2, (HEIGHT - CROP) // 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the size, which is looked at next
            image = Image.open(io.BytesIO(content), formats=["JPEG"])
        with image:
            size, mode = image.size, image.mode
            if (size, mode) == ((WIDTH, HEIGHT), "RGB"):
                square = image.crop((left, top, left + CROP, top + CROP))
                return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    except UnidentifiedImageError:  # its own sentence names an object in memory
        raise DataError(f"{where} must be a JPEG image, got another file; {_files.AGAIN}.") from None
    except Exception as error:  # of a damaged file the reader raises whatever it stumbles over
        raise not_whole(where, "JPEG image", error) from None
    raise DataError(
        f"{where} must be an image of {WIDTH} x {HEIGHT} pixels in RGB, got {size[0]} x {size[1]} in {mode}; get the "
        f"images that are aligned and cropped."
    )
