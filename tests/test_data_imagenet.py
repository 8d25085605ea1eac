"""Downsampled ImageNet from its batches; what is wrong with them is said in one sentence."""

import os
import pickle

import data_files
import numpy as np
import pytest
from test_data_errors import edit, put, remove, sentence_of, to_folder
from test_data_files import check

from iresnet_fast import data

TRAIN = [f"train_data_batch_{number}" for number in range(1, 11)]
BATCH = TRAIN[1]
SIZES = {"imagenet32": 32, "imagenet64": 64}


def entries(x, y, npz, **changes):
    """What a batch has, a list of labels if it is pickled; entries are changed, or left out where None."""
    flat = x.reshape(len(x), -1)
    batch = {"data": flat, "labels": y if npz else y.tolist(), "mean": flat.mean(0), **changes}
    return {key: value for key, value in batch.items() if value is not None}


def write_batch(path, batch, npz=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    if npz:
        np.savez_compressed(path.with_name(path.name + ".npz"), **batch)
    else:
        path.write_bytes(pickle.dumps(batch, protocol=3))  # the scripts that made the published files ran in Python 3


def write_imagenet(train, val, size=32, npz=False, seed=0):
    """Write ten batches of 2 images, but 3 in the last, and 10 to test on; labels of the files are 1, 112, ... 1000."""
    expected = data_files.images((3, size, size), 21, 10, seed)
    for labels in (expected.train_labels, expected.test_labels):
        labels *= 111
    bounds = [*range(0, 20, 2), 21]
    for name, start, end in zip(TRAIN, bounds, bounds[1:], strict=False):
        write_batch(
            train / name, entries(expected.train[start:end], expected.train_labels[start:end] + 1, npz), npz=npz
        )
    write_batch(val / "val_data", entries(expected.test, expected.test_labels + 1, npz, mean=None), npz=npz)
    return expected


@pytest.mark.parametrize("npz", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_imagenet(tmp_path, name, npz):
    """Pickled or .npz, in the root or in folders; labels 1 .. 1000 become 0 .. 999."""
    size = SIZES[name]
    own = [f"Imagenet{size}_{part}" for part in ("train", "val")]
    layouts = [("", ""), (name, name), own, [f"{name}/{folder}" for folder in own]]
    for number, (train, val) in enumerate(layouts):
        root = tmp_path / str(number)
        expected = write_imagenet(root / train, root / val, size, npz)
        assert {0, 999} <= set(expected.train_labels)
        check(data.load(name, root), expected, name, 1000)


def test_own_folders_before_the_root(tmp_path):
    """The files of both sizes have the same names: one in its folder is not taken for the other beside it."""
    small = write_imagenet(tmp_path, tmp_path, 32)
    large = write_imagenet(tmp_path / "Imagenet64_train", tmp_path / "Imagenet64_val", 64)
    check(data.load("imagenet64", tmp_path), large, "imagenet64", 1000)
    check(data.load("imagenet32", tmp_path), small, "imagenet32", 1000)


def test_the_memory_is_that_of_the_images(tmp_path):
    """The images are bytes that can be written to, without room beside them."""
    write_imagenet(tmp_path, tmp_path)
    train = data.load("imagenet32", tmp_path).train
    assert train.untyped_storage().nbytes() == 21 * 3072
    train[0] = 7
    assert int(train[0].sum()) == 7 * 3072


def batch(npz=False, **changes):
    """Another batch in place of one, of two images."""
    values = entries(np.zeros((2, 3, 32, 32), np.uint8), np.array([1, 1000]), npz, **changes)
    return lambda folder: write_batch(folder / BATCH, values, npz)


NPZ = BATCH + ".npz"
# whether .npz, how it is damaged, the file named, words of the sentence
DAMAGES = {
    "truncated": (False, edit(BATCH, lambda b: b[:-1]), BATCH, ["whole pickle", "damaged"]),
    "cut in half": (False, edit(BATCH, lambda b: b[: len(b) // 2]), BATCH, ["whole pickle", "damaged"]),
    "empty": (False, put("val_data", b""), "val_data", ["whole pickle", "it ends without a value"]),
    "no pickle": (False, put(BATCH, b"\x89PNG" * 9), BATCH, ["whole pickle", "damaged"]),
    "folder": (False, to_folder(BATCH), BATCH, ["must be a file", "got a folder"]),
    "missing": (False, remove(TRAIN[9]), "", ["must hold train_data_batch_1,", f"got no {TRAIN[9]}"]),
    "no val": (False, remove("val_data"), "", ["must hold val_data (plain or .npz)", "got none"]),
    "a list": (False, put(BATCH, pickle.dumps([1, 2])), BATCH, ["a dictionary with data and labels", "got list"]),
    "no labels": (False, batch(labels=None), BATCH, ["a dictionary with data and labels", "got no labels"]),
    "no data": (False, batch(data=None), BATCH, ["a dictionary with data and labels", "got no data"]),
    "floats": (False, batch(data=np.zeros((2, 3072))), BATCH, ["(N, 3072)", "got float64"]),
    "grey": (False, batch(data=np.zeros((2, 1024), np.uint8)), BATCH, ["(N, 3072)", "shape (2, 1024)"]),
    "other size": (False, batch(data=np.zeros((2, 12288), np.uint8)), BATCH, ["(N, 3072)", "shape (2, 12288)"]),
    "too few labels": (False, batch(labels=[1]), BATCH, ["each of the 2 images", "shape (1,)"]),
    "label 0": (False, batch(labels=[0, 1]), BATCH, ["labels from 1 to 1000", "got 0"]),
    "label 1001": (False, batch(labels=[1, 1001]), BATCH, ["labels from 1 to 1000", "got 1001"]),
    "words": (False, batch(labels=["a", "b"]), BATCH, ["whole numbers as labels"]),
    "npz: truncated": (True, edit(NPZ, lambda b: b[:-9]), NPZ, ["whole .npz file"]),
    "npz: flipped": (
        True, edit(NPZ, lambda b: b[:1000] + bytes([b[1000] ^ 255]) + b[1001:]), NPZ, ["whole .npz file"]
    ),
    "npz: empty": (True, put(NPZ, b""), NPZ, ["whole .npz file"]),
    "npz: a pickle": (True, put(NPZ, pickle.dumps({"data": 1})), NPZ, ["whole .npz file"]),
    "npz: objects": (True, batch(True, labels=np.array([1, "a"], object)), NPZ, ["real numbers", "dtype object"]),
    "npz: no labels": (True, batch(True, labels=None), NPZ, ["data and labels", "got no labels"]),
    "npz: floats": (True, batch(True, data=np.zeros((2, 3072))), NPZ, ["(N, 3072)", "got float64"]),
    "npz: float labels": (True, batch(True, labels=np.ones(2)), NPZ, ["a whole number as label", "got float64"]),
    "npz: label 0": (True, batch(True, labels=np.array([0, 1])), NPZ, ["labels from 1 to 1000", "got 0"]),
    "npz: missing": (True, remove("train_data_batch_7.npz"), "", ["got no train_data_batch_7 (plain or .npz)"]),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(tmp_path, damage):
    npz, apply, file, words = DAMAGES[damage]
    write_imagenet(tmp_path, tmp_path, npz=npz)
    data.load("imagenet32", tmp_path)  # the files are good but for the damage
    apply(tmp_path)
    sentence = sentence_of("imagenet32", tmp_path)
    for word in (str(tmp_path / file), *words):
        assert word in sentence


def test_pickle_calls_nothing(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    write_imagenet(tmp_path, tmp_path)
    data_files.write(tmp_path / BATCH, pickle.dumps({"data": Harm()}))
    assert f"{os.mkdir.__module__}.mkdir" in sentence_of("imagenet32", tmp_path)
    assert not (tmp_path / "harm").exists()
