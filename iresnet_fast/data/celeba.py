"""The faces of CelebA, aligned and cropped, from the JPEG files they are published as."""

from __future__ import annotations

import io
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import _files
from .dataset import DataError, DataSet

IMAGES = "img_align_celeba"
PARTITIONS = "list_eval_partition.txt"
TRAIN, TEST = "0", "2"
PARTS = {TRAIN: "training", "1": "validation", TEST: "test"}
WIDTH, HEIGHT = 178, 218  # of the files
CROP, SIZE = 140, 64

Source = Path | zipfile.Path


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
    if not place.is_dir() and not archive.exists():
        raise DataError(
            f"{list_path.parent} must hold {IMAGES} or {IMAGES}.zip beside {PARTITIONS}, got neither; add one of them."
        )
    with nullcontext() if place.is_dir() else _open(archive) as opened:
        paths = _paths(place if opened is None else zipfile.Path(opened, f"{IMAGES}/"), list_path, partitions)
        train, test = (
            _decoded([paths[file] for file, partition in partitions.items() if partition == part])
            for part in (TRAIN, TEST)
        )
    return DataSet(name, train, test, n_levels=256)


def _partitions(path: Path) -> dict[str, str]:
    """Return the partition of each image: a line has the name of a file and "0", "1" or "2"."""
    partitions: dict[str, str] = {}
    for number, line in enumerate(_files.read(path).decode("latin1").splitlines(), 1):
        words = line.split()
        if len(words) != 2 or words[1] not in PARTS:
            raise DataError(
                f"{path} must have the name of an image and 0, 1 or 2 in line {number}, got {line[:40]!r}; "
                f"{_files.AGAIN}."
            )
        if words[0] in partitions:
            raise DataError(f"{path} must name an image once, got {words[0]} again in line {number}; {_files.AGAIN}.")
        partitions[words[0]] = words[1]
    for part in (TRAIN, TEST):
        if part not in partitions.values():
            raise DataError(f"{path} must name images of partition {part}, {PARTS[part]}, got none; {_files.AGAIN}.")
    return partitions


def _open(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except Exception as error:  # of a damaged file the reader raises whatever it stumbles over
        raise DataError(
            f"{archive} must be a whole zip archive, got one that is not ({_files.said(error)}); {_files.AGAIN}."
        ) from None


def _paths(source: Source, list_path: Path, partitions: dict[str, str]) -> dict[str, Source]:
    """Return the path of each image by its name; raises DataError unless they are those that the list names."""
    paths: dict[str, Source] = {path.name: path for path in source.iterdir() if path.name.endswith(".jpg")}
    missing, unnamed = sorted(partitions.keys() - paths.keys()), sorted(paths.keys() - partitions.keys())
    if missing:
        raise DataError(
            f"{source} must hold the {len(partitions)} images that {list_path} names, got no {missing[0]}, "
            f"{len(missing)} are missing; {_files.AGAIN}."
        )
    if unnamed:
        raise DataError(
            f"{list_path} must name the {len(paths)} images of {source}, got no line for {unnamed[0]}, "
            f"{len(unnamed)} are missing; {_files.AGAIN}."
        )
    return paths


def _decoded(paths: list[Source]) -> Tensor:
    """Return images [N, 3, 64, 64] from their files."""
    images = np.empty((len(paths), 3, SIZE, SIZE), np.uint8)
    for image, path in zip(images, paths, strict=True):
        image[:] = _pixels(path).transpose(2, 0, 1)
    return torch.from_numpy(images)


def _pixels(path: Source) -> _files.Array:
    """Return the pixels [64, 64, 3] of a file, cropped and resized."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError:
        raise DataError(f"Pillow must be installed to read {path}, got no module PIL; pip install pillow.") from None
    left, top = (WIDTH - CROP) // 2, (HEIGHT - CROP) // 2
    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=["JPEG"]) as image:
            size, mode = image.size, image.mode
            if (size, mode) == ((WIDTH, HEIGHT), "RGB"):
                square = image.crop((left, top, left + CROP, top + CROP))
                return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    except UnidentifiedImageError:  # its own sentence names an object in memory
        raise DataError(f"{path} must be a JPEG image, got another file; {_files.AGAIN}.") from None
    except Exception as error:  # of a damaged file or archive the reader raises whatever it stumbles over
        raise DataError(
            f"{path} must be a whole JPEG image, got one that is not ({_files.said(error)}); {_files.AGAIN}."
        ) from None
    raise DataError(
        f"{path} must be an image of {WIDTH} x {HEIGHT} pixels in RGB, got {size[0]} x {size[1]} in {mode}; get the "
        f"images that are aligned and cropped."
    )
