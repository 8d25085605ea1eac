"""One function for every data set there is a name for."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import _checks
from .._inputs import check_path
from ._files import Root
from ._numpy import axes_of
from ._tables import load_table
from .arrays import load_arrays
from .celeba import load_celeba
from .cifar import load_cifar
from .dataset import DataError, DataSet
from .densities import DENSITIES, load_density
from .digits import load_digits
from .folder import load_folder
from .idx import load_idx
from .imagenet import load_imagenet
from .source import ImageOptions, Source, TableOptions
from .svhn import load_svhn
from .tabular import SUFFIXES, is_table

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

_TABLE, _IMAGES = TableOptions(), ImageOptions()


def load(
    name: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    root: Root = None,
    seed: int = 0,
    context: Sequence[str] = (),
    table: TableOptions = _TABLE,
    images: ImageOptions = _IMAGES,
) -> DataSet:
    """Return a data set, split into a training and a test part.

    Args:
        name: one of NAMES, or the file of a table [N, d] whose rows are the vectors: .csv, .tsv, .txt, .parquet, .arff,
            .npy or .npz, also packed (.csv.gz) or alone in a .zip archive. A .npz file holds one array, or two called
            train and test. A list of files with the same columns is one table. An array of three axes holds signals
            [N, C, L] if it is of floats, and grey images [N, H, W] if it is of whole numbers; one of four axes holds
            images [N, C, H, W] or [N, H, W, C], with C = 1, 3 or 4, the fourth the opacity. A folder holds image files,
            in subfolders if they have classes, and in folders train and test (or val) if they are split.
        root: the folder with the files of an image set other than digits as they are published; nothing is
            downloaded. A relative path of a table starts there too.
        seed: of the points of a density and of the splits that are made here; data that come split stay as they are.
            The same seed gives the same data; no global generator is used.
        context: the columns of a table that the density of the others depends on: their names, or where the file has
            none their numbers from 1, as texts.
        table: how a table is read, and what its columns are.
        images: size and colours of the images of a folder or an array. To be brought to a size they lose what exceeds
            its proportions, the same on both sides, and the rest is resized with antialiasing.

    Raises:
        DataError: the name is unknown, a file is missing or damaged, or there is no such column.
        ValueError: seed is negative.
        TypeError: name or root is no path, seed not an integer, or context not names in a list or tuple.
    """
    names = tuple(name) if isinstance(name, (list, tuple)) else (name,)
    for path in names:
        check_path("name", path, "e.g. 'mnist' or 'table.csv'", "a name or a path")
    if root is not None:
        check_path("root", root, "the folder with the files")
    paths = tuple(map(os.fspath, names))
    _checks.check_count("seed", seed, 0)
    if not isinstance(context, (list, tuple)) or not all(isinstance(column, str) for column in context):
        raise TypeError(
            f"context must be a list or tuple of texts, the names or numbers of columns, got {context!r}; pass e.g. "
            f"('age', 'dose') or ('1', '3')."
        )
    if not paths:
        raise DataError(f"name must be one of {', '.join(NAMES)}, or files, got an empty list; name one.", "name")
    source = Source(
        tuple(path if path in NAMES else _absolute(path, root) for path in paths),
        "" if root is None else os.path.abspath(root),
        seed,
        tuple(context),
        table,
        images,
    )
    try:
        loaded = _load(paths, root, source)
    except MemoryError:
        raise DataError(
            f"{paths[0]} must fit in memory, got more than there is; free some, or make a DataSet of a part of it."
        ) from None
    return dataclasses.replace(loaded, source=source)


def _load(names: tuple[str, ...], root: Root, source: Source) -> DataSet:
    """Return the data set of names or files."""
    name = names[0]
    read = _reader_of_pictures(name, root) if len(names) == 1 else None
    if read is not None:
        _check_without_columns(name, source)
        return read(name, Path(name) if root is None else Path(root, name), source.seed, source.images)
    _check_without_images(name, source)
    if all(map(is_table, names)):
        paths = [Path(path) if root is None else Path(root, path) for path in names]
        title = name if len(names) == 1 else f"{name} and {len(names) - 1} more"
        return load_table(title, paths, source.seed, source.context, source.table)
    if len(names) > 1:
        odd = next(path for path in names if not is_table(path))
        raise DataError(f"name must be one data set, or several files of tables, got {odd!r} beside others.", "name")
    if name not in NAMES:
        near = difflib.get_close_matches(name.lower(), NAMES, 1)
        advice = f"did you mean {near[0]!r}?" if near else "use one of them."
        if os.path.isfile(name if root is None else Path(root, name)):
            advice = "rename it if it is such a file."
        raise DataError(
            f"name must be one of {', '.join(NAMES)}, a file ending in {', '.join(SUFFIXES)}, or a folder of images, "
            f"got {name!r}; {advice}",
            argument="name",
        )
    _check_without_columns(name, source)
    if name in DENSITIES:
        return load_density(name, source.seed)
    if name == "digits":
        return load_digits(source.seed)
    return _FROM_FILES[name](name, root)


def load_whole(name: str, root: Root, images: ImageOptions) -> DataSet | None:
    """Return the images or signals of a folder or a file unsplit: without a test part, both parts are all of them.

    None: the name is that of other data. Arguments and errors as of `load`.
    """
    read = _reader_of_pictures(name, root)
    return None if read is None else read(name, Path(name) if root is None else Path(root, name), None, images)


def _reader_of_pictures(name: str, root: Root) -> Callable[[str, Path, int | None, ImageOptions], DataSet] | None:
    """Return what reads a folder of images, or an array of images or signals; None: the name is that of other data."""
    path = Path(name) if root is None else Path(root, name)
    if name in NAMES or not name:
        return None
    if not is_table(name):
        return load_folder if os.path.isdir(path) else None
    return load_arrays if path.suffix.lower() in (".npy", ".npz") and axes_of(path) in (3, 4) else None


def _check_without_columns(name: str, source: Source) -> None:
    if source.context:
        raise DataError(
            f"context must be none for {name}, which has no columns, got {', '.join(source.context)}; use a table, "
            f"such as a .csv file.",
            argument="context",
        )
    given = [field.name for field in dataclasses.fields(TableOptions) if _is_given(source.table, field.name)]
    if given:
        raise DataError(f"{given[0]} must be left out for {name}, which is no table, got it; leave it out.", given[0])


def _check_without_images(name: str, source: Source) -> None:
    for field in dataclasses.fields(ImageOptions):
        if getattr(source.images, field.name) != getattr(_IMAGES, field.name):
            raise DataError(
                f"{field.name} must be left out for {name}, which has no images to change, got it; leave it out.",
                field.name,
            )


def _is_given(options: TableOptions, name: str) -> bool:
    return bool(getattr(options, name) != getattr(_TABLE, name))


def _absolute(path: str, root: Root) -> str:
    return os.path.abspath(path if root is None else os.path.join(root, path))
