"""CIFAR-100 from its folder and its archive; what is wrong with them is said in one sentence."""

import os
import pickle

import data_files
import numpy as np
import pytest
from test_data_errors import edit, put, remove, sentence_of, to_folder
from test_data_files import check

from iresnet_fast import data

FOLDER, ARCHIVE = "cifar-100-python", "cifar-100-python.tar.gz"


def part(x, fine, **changes):
    """The entries of a file as published; they are changed, or left out where None."""
    entries = {
        "filenames": [b"a.png"] * len(x),
        "batch_label": b"training batch 1 of 1",
        "fine_labels": fine.tolist(),
        "coarse_labels": (fine // 5).tolist(),
        "data": x.reshape(len(x), -1),
        **changes,
    }
    return {key.encode(): value for key, value in entries.items() if value is not None}


def write_cifar100(folder):
    """Write the three files; labels are 0, 11, ... 99."""
    expected = data_files.images((3, 32, 32), 20, 10)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        labels = getattr(expected, f"{name}_labels")
        labels *= 11
        data_files.pickle_batch(folder / name, part(getattr(expected, name), labels))
    data_files.pickle_batch(folder / "meta", {b"fine_label_names": [b"apple"], b"coarse_label_names": [b"fruit"]})
    return expected


@pytest.mark.parametrize("folder", ["", "cifar100"])
def test_cifar100(tmp_path, folder):
    """Fine labels, from the archive, from its folder, or from the root."""
    expected = write_cifar100(tmp_path / "source" / FOLDER)
    assert {0, 99} <= set(expected.train_labels)
    place = tmp_path / "packed" / folder
    place.mkdir(parents=True)
    data_files.write_archive(place / ARCHIVE, tmp_path / "source" / FOLDER)
    check(data.load("cifar100", tmp_path / "packed"), expected, "cifar100", 100)
    unpacked = tmp_path / "unpacked" / folder / FOLDER
    write_cifar100(unpacked)
    check(data.load("cifar100", tmp_path / "unpacked"), expected, "cifar100", 100)
    check(data.load("cifar100", unpacked), expected, "cifar100", 100)
    assert sorted(path.name for path in place.iterdir()) == [ARCHIVE]  # nothing was unpacked there


def test_both_sets_in_one_folder(tmp_path):
    hundred = write_cifar100(tmp_path / FOLDER)
    ten = data_files.write_cifar_python(tmp_path / "cifar-10-batches-py")
    check(data.load("cifar100", tmp_path), hundred, "cifar100", 100)
    check(data.load("cifar10", tmp_path), ten, "cifar10")


def train(**changes):
    """Another file in place of the one to train on."""
    entries = part(np.zeros((2, 3, 32, 32), np.uint8), np.array([0, 99]), **changes)
    return lambda folder: data_files.pickle_batch(folder / "train", entries)


def archive(change=lambda content: content, without=None):
    """The archive beside the folder, read in its place, after a change of its bytes, or without a file."""

    def damage(folder):
        source = folder / "packed" / FOLDER
        write_cifar100(source)
        if without:
            (source / without).unlink()
        data_files.write_archive(folder / ARCHIVE, source)
        (folder / ARCHIVE).write_bytes(change((folder / ARCHIVE).read_bytes()))

    return damage


# how it is damaged, the file named, words of the sentence
DAMAGES = {
    "truncated": (edit("train", lambda b: b[:-1]), "train", ["whole pickle", "damaged"]),
    "empty": (put("test", b""), "test", ["whole pickle", "it ends without a value"]),
    "folder": (to_folder("train"), "train", ["must be a file", "got a folder"]),
    "missing": (remove("test"), "", ["got no test"]),
    "a list": (put("train", pickle.dumps([1])), "train", ["a dictionary with data and fine_labels", "got list"]),
    "CIFAR-10": (train(fine_labels=None, labels=[0, 1]), "train", ["data and fine_labels", "got no fine_labels"]),
    "grey": (train(data=np.zeros((2, 1024), np.uint8)), "train", ["(N, 3072)", "got uint8 of shape (2, 1024)"]),
    "floats": (train(data=np.zeros((2, 3072))), "train", ["(N, 3072)", "got float64 of shape (2, 3072)"]),
    "too few labels": (train(fine_labels=[1]), "train", ["each of the 2 images", "shape (1,)"]),
    "label 100": (train(fine_labels=[1, 100]), "train", ["labels from 0 to 99", "got 100"]),
    "label -1": (train(fine_labels=[1, -1]), "train", ["labels from 0 to 99", "got -1"]),
    "words": (train(fine_labels=[b"a", b"b"]), "train", ["whole numbers as fine_labels"]),
    "tar: truncated": (archive(lambda b: b[:-20]), ARCHIVE, ["whole gzip file"]),
    "tar: missing": (archive(without="test"), ARCHIVE, ["must hold train, test", "got no test"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(tmp_path, damage):
    apply, file, words = DAMAGES[damage]
    write_cifar100(tmp_path)
    data.load("cifar100", tmp_path)  # the files are good but for the damage
    apply(tmp_path)
    sentence = sentence_of("cifar100", tmp_path)
    for word in (str(tmp_path / file), *words):
        assert word in sentence


def test_pickle_calls_nothing(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    write_cifar100(tmp_path)
    data_files.write(tmp_path / "train", pickle.dumps({"data": Harm()}))
    assert f"{os.mkdir.__module__}.mkdir" in sentence_of("cifar100", tmp_path)
    assert not (tmp_path / "harm").exists()
