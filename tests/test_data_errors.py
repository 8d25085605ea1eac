"""Bad data ends in one sentence that names the file, what was expected and what was got."""

import functools
import gzip
import os
import pickle
import re
import shutil

import data_files
import numpy as np
import pytest

from iresnet_fast import data

IMAGES, LABELS, TEST_IMAGES, _ = data_files.IDX
BATCH = "data_batch_2"


def put(name, content):
    """Put bytes in the place of a file; an array becomes an idx file."""
    return lambda folder: data_files.write(
        folder / name, content if isinstance(content, bytes) else data_files.idx(np.asarray(content))
    )


def edit(name, change):
    def damage(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def remove(name):
    return lambda folder: (folder / name).unlink()


def to_folder(name):
    def damage(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def batch(**changes):
    """Another pickle in place of a batch: entries are changed, or left out where None."""

    def damage(folder):
        entries = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], **changes}
        entries = {key.encode(): value for key, value in entries.items() if value is not None}
        data_files.pickle_batch(folder / BATCH, entries)

    return damage


def mat(**changes):
    """Another .mat file in place of the one to train on."""

    def damage(folder):
        arrays = {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.arange(1, 5)[:, None], **changes}
        arrays = {key: value for key, value in arrays.items() if value is not None}
        data_files.write_mat(folder / "train_32x32.mat", **arrays)

    return damage


def archive(change=lambda content: content, without=None):
    """The archive instead of its folder, after a change of its bytes, or without a batch."""

    def damage(folder):
        source = folder / "cifar-10-batches-bin"
        source.mkdir()
        for path in folder.glob("*.bin"):
            if path.stem != without:
                shutil.move(path, source)
            else:
                path.unlink()
        path = folder / "cifar-10-binary.tar.gz"
        data_files.write_archive(path, source)
        path.write_bytes(change(path.read_bytes()))
        shutil.rmtree(source)

    return damage


ZEROS = np.zeros((20, 28, 28))
WRITERS = {
    "mnist": data_files.write_mnist,
    "mnist.gz": lambda folder: data_files.write_mnist(folder, gz=True),
    "bin": data_files.write_cifar_binary,
    "py": data_files.write_cifar_python,
    "svhn": data_files.write_svhn,
}
NAMES = {"mnist.gz": "mnist", "bin": "cifar10", "py": "cifar10"}
# what is there, how it is damaged, the file named, words of the sentence
DAMAGES = {
    "idx: images for labels": ("mnist", put(LABELS, ZEROS), LABELS, ["magic number 2049", "got 00 00 08 03"]),
    "idx: floats": ("mnist", edit(IMAGES, lambda b: b"\0\0\r\3" + b[4:]), IMAGES, ["2051", "got 00 00 0d 03"]),
    "idx: empty": ("mnist", put(IMAGES, b""), IMAGES, ["magic number 2051", "got an empty file"]),
    "idx: packed, named plain": ("mnist", edit(IMAGES, gzip.compress), IMAGES, ["2051", "got 1f 8b 08 00"]),
    "idx: cut in the header": ("mnist", edit(IMAGES, lambda b: b[:10]), IMAGES, ["sizes above zero", "[20, 0, 0]"]),
    "idx: no images": ("mnist", put(IMAGES, ZEROS[:0]), IMAGES, ["sizes above zero", "[0, 28, 28]"]),
    "idx: truncated": ("mnist", edit(IMAGES, lambda b: b[:-1]), IMAGES, ["15696 bytes", "got 15695"]),
    "idx: trailing": ("mnist", edit(IMAGES, lambda b: b + b"\0"), IMAGES, ["15696 bytes", "got 15697"]),
    "idx: truncated labels": ("mnist", edit(LABELS, lambda b: b[:-1]), LABELS, ["28 bytes", "got 27"]),
    "idx: too few labels": ("mnist", put(LABELS, np.arange(9)), LABELS, ["each of the 20 images", "shape (9,)"]),
    "idx: image size": ("mnist", put(IMAGES, np.zeros((20, 32, 32))), IMAGES, ["28 x 28 pixels", "got 32 x 32"]),
    "idx: label": ("mnist", put(LABELS, np.full(20, 10)), LABELS, ["labels from 0 to 9", "got 10"]),
    "idx: missing": ("mnist", remove(TEST_IMAGES), "", [f"got no {TEST_IMAGES} (plain or .gz)"]),
    "idx: folder": ("mnist", to_folder(IMAGES), IMAGES, ["must be a file", "got a folder"]),
    "gz: truncated": ("mnist.gz", edit(IMAGES + ".gz", lambda b: b[:-9]), IMAGES, ["whole gzip file", "ended before"]),
    "gz: plain": ("mnist.gz", edit(IMAGES + ".gz", gzip.decompress), IMAGES, ["gzip file", "Not a gzipped file"]),
    "gz: flipped": (
        "mnist.gz", edit(IMAGES + ".gz", lambda b: b[:-6] + bytes([b[-6] ^ 1]) + b[-5:]), IMAGES, ["gzip", "CRC"]
    ),
    "bin: truncated": ("bin", edit(BATCH + ".bin", lambda b: b[:-1]), BATCH, ["multiple of 3073", "got 6145"]),
    "bin: trailing": ("bin", edit(BATCH + ".bin", lambda b: b + b"\0"), BATCH, ["multiple of 3073", "got 6147"]),
    "bin: empty": ("bin", put(BATCH + ".bin", b""), BATCH, ["multiple of 3073", "got 0"]),
    "bin: label": ("bin", edit(BATCH + ".bin", lambda b: b"\xff" + b[1:]), BATCH, ["from 0 to 9", "got 255"]),
    "bin: missing": ("bin", remove("test_batch.bin"), "", ["got no test_batch.bin"]),
    "tar: truncated": ("bin", archive(lambda b: b[:-20]), "cifar-10-binary.tar.gz", ["whole gzip file"]),
    "tar: no tar": ("bin", archive(lambda b: gzip.compress(b"x" * 2000)), ".tar.gz", ["whole tar archive"]),
    "tar: missing": ("bin", archive(without="data_batch_3"), "cifar-10-binary.tar.gz", ["got no data_batch_3.bin"]),
    "py: truncated": ("py", edit(BATCH, lambda b: b[:-1]), BATCH, ["whole pickle", "damaged"]),
    "py: empty": ("py", put(BATCH, b""), BATCH, ["whole pickle", "it ends without a value"]),
    "py: of two lines": ("py", put(BATCH, b"\x89PNG" * 9), BATCH, ["pickle", "instruction PERSID is not needed"]),
    "py: a list": ("py", put(BATCH, pickle.dumps([1, 2])), BATCH, ["a dictionary with data and labels", "got list"]),
    "py: no labels": ("py", batch(labels=None), BATCH, ["a dictionary with data and labels", "got no labels"]),
    "py: floats": ("py", batch(data=np.zeros((2, 3072))), BATCH, ["(N, 3072)", "got float64 of shape (2, 3072)"]),
    "py: grey": ("py", batch(data=np.zeros((2, 1024), np.uint8)), BATCH, ["(N, 3072)", "got uint8 of shape (2, 1024)"]),
    "py: no array": ("py", batch(data=[1, 2]), BATCH, ["(N, 3072)", "got list"]),
    "py: labels of others": ("py", batch(labels=[b"a", b"b"]), BATCH, ["whole numbers as labels"]),
    "py: too few labels": ("py", batch(labels=[1]), BATCH, ["each of the 2 images", "shape (1,)"]),
    "py: label": ("py", batch(labels=[1, -1]), BATCH, ["from 0 to 9", "got -1"]),
    "py: huge label": ("py", batch(labels=[1, 2**70]), BATCH, ["a whole number as label", "got object"]),
    "svhn: no .mat": ("svhn", put("train_32x32.mat", b"not a matrix" * 50), "train_32x32", ["whole MATLAB 5 file"]),
    "svhn: truncated": ("svhn", edit("test_32x32.mat", lambda b: b[:-20]), "test_32x32", ["whole MATLAB 5 file"]),
    "svhn: empty": ("svhn", put("train_32x32.mat", b""), "train_32x32", ["whole MATLAB 5 file"]),
    "svhn: no X": ("svhn", mat(X=None), "train_32x32", ["arrays X and y", "got no X"]),
    "svhn: no y": ("svhn", mat(y=None), "train_32x32", ["arrays X and y", "got no y"]),
    "svhn: NaN": ("svhn", mat(X=np.full((32, 32, 3, 4), np.nan)), "train_32x32", ["bytes", "got float64"]),
    "svhn: channels": ("svhn", mat(X=np.zeros((32, 32, 1, 4), np.uint8)), "train_32x32", ["(32, 32, 3, 'N')", "1, 4)"]),
    "svhn: size": ("svhn", mat(X=np.zeros((28, 28, 3, 4), np.uint8)), "train_32x32", ["(32, 32, 3, 'N')", "(28, 28"]),
    "svhn: too few labels": ("svhn", mat(y=np.ones((3, 1), int)), "train_32x32", ["each of the 4 images", "(3,)"]),
    "svhn: label 0": ("svhn", mat(y=np.arange(4)[:, None]), "train_32x32", ["labels from 1 to 10", "got 0"]),
    "svhn: float labels": ("svhn", mat(y=np.ones((4, 1)) / 2), "train_32x32", ["a whole number", "got float64"]),
    "svhn: missing": ("svhn", remove("test_32x32.mat"), "", ["got no test_32x32.mat"]),
}  # fmt: skip


def sentence_of(name, root):
    with pytest.raises(data.DataError) as caught:
        data.load(name, root)
    assert caught.type is data.DataError
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert re.search(r"must .*, got .*; .*[.?]$", sentence)  # the advice may be: did you mean this one?
    return sentence


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(tmp_path, damage):
    kind, apply, file, words = DAMAGES[damage]
    WRITERS[kind](tmp_path)
    data.load(NAMES.get(kind, kind), tmp_path)  # the files are good but for the damage
    apply(tmp_path)
    sentence = sentence_of(NAMES.get(kind, kind), tmp_path)
    for word in (str(tmp_path), file, *words):
        assert word in sentence


def test_pickle_calls_nothing(tmp_path):
    """A pickle may name any function; none but those of arrays is looked up."""

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    data_files.write_cifar_python(tmp_path)
    data_files.write(tmp_path / BATCH, pickle.dumps({"data": Harm()}))
    assert f"{os.mkdir.__module__}.mkdir" in sentence_of("cifar10", tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", data_files.IDX),
        ("fashion_mnist", data_files.IDX),
        ("cifar10", ["cifar-10-batches-bin", "cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"]),
        ("cifar100", ["cifar-100-python", "cifar-100-python.tar.gz"]),
        ("svhn", ["train_32x32.mat", "test_32x32.mat"]),
        ("imagenet32", ["train_data_batch_1", "train_data_batch_10", ".npz"]),
        ("imagenet64", ["train_data_batch_1", "train_data_batch_10", ".npz"]),
        ("celeba", ["list_eval_partition.txt"]),
    ],
)
def test_no_files(tmp_path, name, files):
    """Without a folder, with an empty one, with none that exists, with a file: which files, where, what to do."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for root, got in ((None, "got None"), ("empty", "got none"), ("absent", "got no such folder"), ("file", "a file")):
        sentence = sentence_of(name, root and tmp_path / root)
        for word in (*files, got, "root"):
            assert word in sentence
        assert root is None or str(tmp_path / root) in sentence
        assert root != "empty" or str(tmp_path / root / name) in sentence


def test_unknown_name():
    for name in ("nist", "table.md", "MNIST", ""):
        sentence = sentence_of(name, None)
        for word in (*data.NAMES, ".npy", ".npz", ".csv", repr(name)):
            assert word in sentence


def test_bad_arguments():
    for call in (functools.partial(data.load, "digits"), functools.partial(data.sample_density, "moons", 9)):
        with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
            call(seed=-1)
        with pytest.raises(TypeError, match=r"seed must be an integer, got 0\.5"):
            call(seed=0.5)
    with pytest.raises(data.DataError, match=r"name must be one of swissroll, .*, got 'digits'; use one"):
        data.sample_density("digits", 3)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        data.sample_density("moons", 0)
