"""One function for every data set there is a name for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import _checks
from .._inputs import check_path
from ._files import Root
from .arrays import load_arrays
from .celeba import load_celeba
from .cifar import load_cifar
from .dataset import DataError, DataSet
from .densities import DENSITIES, load_density
from .digits import load_digits
from .folder import load_folder
from .idx import load_idx
from .imagenet import load_imagenet
from .source import ImageOptions
from .svhn import load_svhn
from .tabular import SUFFIXES, load_table

_FROM_FILES: dict[str, Callable[[str, Root], DataSet]] = {
    "mnist": load_idx,
    "fashion_mnist": load_idx,
    "cifar10": load_cifar,
    "cifar100": load_cifar,
    "svhn": load_svhn,
    "imagenet32": load_imagenet,
    "imagenet64": load_imagenet,
    "celeba": load_celeba,
}

NAMES = (*DENSITIES, "digits", *_FROM_FILES)


def load(
    name: str | os.PathLike[str],
    root: Root = None,
    seed: int = 0,
    context: Sequence[str] = (),
    images: ImageOptions = ImageOptions(),  # noqa: B008  # frozen
) -> DataSet:
    """Return a data set, split into a training and a test part.

    Args:
        name: one of NAMES, or a .npy, .npz or .csv file: a table [N, d] whose rows are the vectors. A .csv file may
            start with a line of names. A .npz file holds one array, or two called train and test. An array of three
            axes holds signals [N, C, L] if it is of floats, and grey images [N, H, W] if it is of whole numbers; one
            of four axes holds images [N, C, H, W] or [N, H, W, C], with C = 1, 3 or 4, the fourth the opacity. A
            folder holds image files, in subfolders if they have classes, and in folders train and test (or val) if
            they are split.
        root: the folder with the files of an image set other than digits as they are published; nothing is
            downloaded. A relative path of a table starts there too.
        seed: of the points of a density and of the splits that are made here; data that come split stay as they are.
            The same seed gives the same data; no global generator is used.
        context: the columns of a table that the density of the others depends on: their names, or where the file has
            none their numbers from 1, as texts.
        images: size and colours of the images of a folder or an array. To be brought to a size they lose what exceeds
            its proportions, the same on both sides, and the rest is resized with antialiasing.

    Raises:
        DataError: the name is unknown, a file is missing or damaged, or there is no such column.
        ValueError: seed is negative.
        TypeError: name or root is no path, seed not an integer, or context not names in a list or tuple.
    """
    check_path("name", name, "e.g. 'mnist' or 'table.csv'", "a name or a path")
    if root is not None:
        check_path("root", root, "the folder with the files")
    name = os.fspath(name)
    _checks.check_count("seed", seed, 0)
    if not isinstance(context, (list, tuple)) or not all(isinstance(column, str) for column in context):
        raise TypeError(
            f"context must be a list or tuple of texts, the names or numbers of columns, got {context!r}; pass e.g. "
            f"('age', 'dose') or ('1', '3')."
        )
    if context and (name in NAMES or Path(name).suffix.lower() not in SUFFIXES):
        raise DataError(
            f"context must be none for {name}, which has no columns, got {', '.join(context)}; use a table, such as a "
            f".csv file."
        )
    try:
        if name not in NAMES and not context:
            pictures = _load_pictures(name, root, seed, images)
            if pictures is not None:
                return pictures
        if images != ImageOptions() and (name in NAMES or Path(name).suffix.lower() in SUFFIXES):
            raise DataError(
                f"images must be left out for {name}, which is no folder and no array of images, got {images}; leave "
                f"out --image-size and --image-mode on the command line."
            )
        if name in DENSITIES:
            return load_density(name, seed)
        if name == "digits":
            return load_digits(seed)
        if name in _FROM_FILES:
            return _FROM_FILES[name](name, root)
        if Path(name).suffix.lower() in SUFFIXES:
            return load_table(name, root, seed, tuple(context))
    except MemoryError:
        raise DataError(
            f"{name} must fit in memory, got more than there is; free some, or make a DataSet of a part of it."
        ) from None
    raise DataError(
        f"name must be one of {', '.join(NAMES)}, or a file ending in {', '.join(SUFFIXES)}, got {name!r}; use one of "
        f"them."
    )


def _load_pictures(name: str, root: Root, seed: int, images: ImageOptions) -> DataSet | None:
    """Return the images of a folder, or the images or signals of a file; None if that is something else."""
    path, suffix = Path(name) if root is None else Path(root, name), Path(name).suffix.lower()
    if name and suffix not in SUFFIXES and os.path.isdir(path):
        return load_folder(name, path, seed, images)
    return load_arrays(name, path, seed, images) if suffix in (".npy", ".npz") else None
