"""A folder of image files as a DataSet; subfolders say which part an image belongs to, and its class."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._regular import half_of_memory
from ._files import shown
from ._notes import note
from ._picture_file import SUFFIXES, Head, read_head, read_pixels
from ._pixels import Images, arranged, resized, split_order
from .dataset import DataError, DataSet
from .source import ImageOptions

_TRAIN = ("train", "training")
_TESTS = ("test", "testing", "val", "valid", "validation")  # the first that is there is taken
_MOST_DEEP = 8  # folders that hold nothing but one folder
_ADVICE = "pass images=ImageOptions(size=(H, W)), --image-size HxW on the command line, to bring them to one"


class _Files(NamedTuple):
    """Images by their class, "" if there are no classes."""

    of_class: dict[str, list[Path]]

    @property
    def has_classes(self) -> bool:
        return "" not in self.of_class


def load_folder(name: str, folder: Path, seed: int | None, options: ImageOptions) -> DataSet:
    """Return the images of a folder, [N, C, H, W].

    The folder holds images, or a subfolder of images for each class, whose names are sorted and become `class_names`;
    with subfolders train and test (or val) these hold the one or the other, else a tenth, drawn by the seed, is for
    testing. Images are read in the order of their paths, upright, opaque on white, of several frames the first.

    Args:
        name: of the data set.
        folder: its path.
        seed: of the split; None: where the folder has no parts, both are all images, in the order of their paths.
        options: size and colours; images of several sizes need a size.

    Raises:
        DataError: the folder holds no images, or something between these layouts; an image is damaged; sizes differ.
    """
    skipped: Counter[str] = Counter()
    train, test = _parts(folder, skipped)
    if skipped:
        kinds = ", ".join(f"{count} {shown(kind)}" for kind, count in sorted(skipped.items()))
        note(f"{sum(skipped.values())} entries of {folder} were left out ({kinds}): what is no image, or of no part.")
    classes = tuple(train.of_class) if train.has_classes else ()
    _check_classes(folder, train, test)
    of_train, of_test = _numbered(train), [] if test is None else _numbered(test, classes)
    if test is None and seed is not None:
        if len(of_train) < 2:
            raise DataError(f"{folder} must hold at least 2 images, one to test on, got {len(of_train)}; add some.")
        kept, left = split_order(len(of_train), seed)
        of_train, of_test = [of_train[i] for i in sorted(kept)], [of_train[i] for i in sorted(left)]
    start, n_train = (0 if test is None and seed is None else len(of_train)), len(of_train)
    every = of_train + of_test
    x, n_levels = arranged(str(folder), _read(folder, [path for path, _ in every], options), options)
    labels = torch.tensor([number for _, number in every]) if classes else None
    return DataSet(
        name,
        x[:n_train],
        x[start:],
        None if labels is None else labels[:n_train],
        None if labels is None else labels[start:],
        n_levels,
        len(classes) or None,
        class_names=classes,
    )


def names_of_files(folder: Path) -> list[str]:
    """Return the paths in a folder, with /, of the images that `load_folder` has for testing without a seed."""
    train, test = _parts(folder, Counter())
    return [path.relative_to(folder).as_posix() for path, _ in _numbered(train if test is None else test)]


def _numbered(files: _Files, classes: Sequence[str] = ()) -> list[tuple[Path, int]]:
    """Return every image with the number of its class, 0 if there are none."""
    names = list(classes or files.of_class)
    return [(path, names.index(name)) for name, paths in files.of_class.items() for path in paths]


def _check_classes(folder: Path, train: _Files, test: _Files | None) -> None:
    if test is None:
        return
    if train.has_classes != test.has_classes:
        raise DataError(
            f"{folder} must have subfolders for classes both in the part to train on and in that to test on, or in "
            f"neither, got them in one; move the images."
        )
    unknown = [name for name in test.of_class if name not in train.of_class]
    if unknown:
        raise DataError(
            f"{folder} must have the classes of the part to train on in that to test on, got {shown(unknown[0])} "
            f"beside {shown(', '.join(train.of_class))}; rename or remove it."
        )


def _parts(folder: Path, skipped: Counter[str]) -> tuple[_Files, _Files | None]:
    """Return the images to train on and those to test on, None if they are not split."""
    images, folders = _entries(folder, Counter())
    for _ in range(_MOST_DEEP):  # an archive often unpacks to a folder in a folder
        if images or len(folders) != 1:
            break
        _entries(folder, skipped)
        folder = folders[0]
        images, folders = _entries(folder, Counter())
    by_name = {path.name.lower(): path for path in folders}
    trains = [by_name[name] for name in _TRAIN if name in by_name]
    tests = [by_name[name] for name in _TESTS if name in by_name]
    if not trains and tests and len(tests) == len(folders) and not images:
        raise DataError(f"{folder} must hold a folder train beside {tests[0].name}, got none; rename or add one.")
    if not trains or not tests:
        return _classes(folder, skipped), None
    _entries(folder, skipped)
    if images:
        skipped["outside the parts"] += len(images)
    for other in folders:
        if other not in (trains[0], tests[0]):
            skipped[f"folder {other.name}"] += 1
    return _classes(trains[0], skipped), _classes(tests[0], skipped)


def _classes(folder: Path, skipped: Counter[str]) -> _Files:
    """Return the images of a folder by their class; raises DataError unless they have classes all or none."""
    images, folders = _entries(folder, skipped)
    of_class = {path.name: found for path in folders if (found := _below(path, skipped))}
    for path in folders:
        if path.name not in of_class:
            skipped[f"folder {path.name} without images"] += 1
    if images and of_class:
        raise DataError(
            f"{folder} must hold either images or one subfolder of images for each class, got {len(images)} images "
            f"beside the subfolder {shown(next(iter(of_class)))}; move the ones or the others away."
        )
    if not images and not of_class:
        raise DataError(f"{folder} must hold images ({', '.join(SUFFIXES)}), got none; name the folder that has them.")
    return _Files(of_class or {"": images})


def _below(folder: Path, skipped: Counter[str]) -> list[Path]:
    """Return all images at any depth, sorted; links to folders are not followed, for they may go round."""
    found: list[Path] = []
    for where, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += _entries(Path(where), skipped)[0]
    return sorted(found)


def _entries(folder: Path, skipped: Counter[str]) -> tuple[list[Path], list[Path]]:
    """Return the images and the folders in a folder, sorted; counts everything else as skipped."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} must be a folder that can be read, got: {error.strerror}; correct it.") from None
    images, folders = [], []
    for path in entries:
        if path.name.startswith("."):
            skipped["hidden"] += 1
        elif path.is_dir():
            folders.append(path)
        elif path.suffix.lower() in SUFFIXES:
            images.append(path)
        else:
            skipped[path.suffix.lower() or "without a suffix"] += 1
    return images, folders


def _read(folder: Path, paths: list[Path], options: ImageOptions) -> Images:
    """Return all images as bytes, or as float32 if they have 16 bits."""
    heads = [read_head(path) for path in paths]
    size = options.size or _one_size(folder, heads)
    longs = sum(head.is_long for head in heads)
    if longs not in (0, len(heads)):
        raise DataError(
            f"{folder} must hold images of 8 or of 16 bits, got {longs} of 16 among {len(heads)}; convert them."
        )
    n_levels = 65536 if longs else 256
    grey = longs > 0 or options.mode == "grey" or (options.mode == "auto" and all(head.is_grey for head in heads))
    shape = (len(paths), 1 if grey else 3, *size)
    dtype = np.dtype(np.float32 if longs else np.uint8)
    needed, most = math.prod(shape) * dtype.itemsize, half_of_memory()
    if needed > most:
        raise DataError(
            f"{folder} must fit in half of the memory, {most} bytes, got {len(paths)} images of {size[0]} x {size[1]}, "
            f"{needed} bytes; make them smaller by a size, --image-size HxW on the command line."
        )
    pixels = np.empty(shape, dtype)
    done: Counter[str] = Counter()
    for path, place in zip(paths, pixels, strict=True):
        place[:] = _of_size(read_pixels(path, grey, done), size, n_levels)
    for what, count in done.items():
        if count:
            note(f"{count} of the {len(paths)} images of {folder} {what}.")
    return Images(torch.from_numpy(pixels), n_levels)


def _of_size(pixels: np.ndarray, size: tuple[int, ...], n_levels: int) -> np.ndarray:
    if pixels.shape[1:] == size:
        return pixels
    # torch has no operations on uint16.
    x: Tensor = torch.from_numpy(pixels.astype(np.float32))
    return resized(x[None], size, n_levels)[0].numpy()


def _one_size(folder: Path, heads: list[Head]) -> tuple[int, int]:
    """Return the size that all images have; raises DataError, with those that were met, if they differ."""
    sizes = Counter(head.size for head in heads)
    if len(sizes) > 1:
        met = ", ".join(f"{count} of {height} x {width}" for (height, width), count in sizes.most_common(4))
        more = f" and {len(sizes) - 4} more sizes" if len(sizes) > 4 else ""
        raise DataError(f"the images of {folder} must have one height and width, got {met}{more}; {_ADVICE}.")
    return next(iter(sizes))
