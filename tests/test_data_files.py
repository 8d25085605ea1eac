"""Image sets read from the files they are published as: every byte arrives, in its place."""

import data_files
import numpy as np
import pytest
import torch

from iresnet_fast import data
from iresnet_fast.data import idx


def check(loaded, expected, name, n_classes=10):
    assert (loaded.name, loaded.n_levels, loaded.n_classes, loaded.is_image) == (name, 256, n_classes, True)
    assert loaded.event_shape == expected.train.shape[1:]
    for part in ("train", "test"):
        images, labels = getattr(loaded, part), getattr(loaded, f"{part}_labels")
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert images.is_contiguous()
        np.testing.assert_array_equal(images.numpy(), getattr(expected, part))
        np.testing.assert_array_equal(labels.numpy(), getattr(expected, f"{part}_labels"))


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "."),
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("fashion_mnist", "."),
        ("fashion_mnist", "fashion_mnist"),
        ("fashion_mnist", "FashionMNIST/raw"),
    ],
)
def test_idx(tmp_path, name, folder, gz):
    expected = data_files.write_mnist(tmp_path / folder, gz)
    check(data.load(name, tmp_path), expected, name)
    check(data.load(name, str(tmp_path)), expected, name)


def test_own_folders_before_the_root(tmp_path):
    """The files of the two sets have the same names: one in its folder is not taken for the other beside it."""
    data_files.write_mnist(tmp_path, seed=1)
    fashion = data_files.write_mnist(tmp_path / "fashion_mnist", seed=2)
    mnist = data_files.write_mnist(tmp_path / "mnist", seed=3)
    check(data.load("fashion_mnist", tmp_path), fashion, "fashion_mnist")
    check(data.load("mnist", tmp_path), mnist, "mnist")


def test_plain_and_packed_files_mixed(tmp_path):
    """A folder of the same name as the plain file, as some archives unpack to, does not hide the packed file."""
    expected = data_files.write_mnist(tmp_path)
    path = tmp_path / data_files.IDX[0]
    data_files.write(path.with_suffix(".gz"), path.read_bytes())
    path.unlink()
    path.mkdir()
    check(data.load("mnist", tmp_path), expected, "mnist")


VERSIONS = {
    "cifar-10-batches-bin": (data_files.write_cifar_binary, "cifar-10-binary.tar.gz"),
    "cifar-10-batches-py": (data_files.write_cifar_python, "cifar-10-python.tar.gz"),
}


@pytest.mark.parametrize("folder", ["", "cifar10"])
@pytest.mark.parametrize("version", VERSIONS)
def test_cifar10(tmp_path, version, folder):
    write, archive = VERSIONS[version]
    expected = write(tmp_path / "source" / version)
    place = tmp_path / "packed" / folder
    place.mkdir(parents=True)
    data_files.write_archive(place / archive, tmp_path / "source" / version)
    check(data.load("cifar10", tmp_path / "packed"), expected, "cifar10")
    unpacked = tmp_path / "unpacked" / folder / version
    write(unpacked)
    check(data.load("cifar10", tmp_path / "unpacked"), expected, "cifar10")
    check(data.load("cifar10", unpacked), expected, "cifar10")
    assert sorted(path.name for path in place.iterdir()) == [archive]  # nothing was unpacked there


def test_cifar10_binary_first(tmp_path):
    """No pickle is read where there is a version without one."""
    expected = data_files.write_cifar_binary(tmp_path / "cifar-10-batches-bin")
    data_files.write_cifar_python(tmp_path / "cifar-10-batches-py")
    for path in (tmp_path / "cifar-10-batches-py").iterdir():
        path.write_bytes(b"")
    check(data.load("cifar10", tmp_path), expected, "cifar10")


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("folder", ["", "svhn"])
def test_svhn(tmp_path, folder, compress):
    """Label 10 is the digit 0."""
    expected = data_files.write_svhn(tmp_path / folder, compress)
    assert 0 in expected.train_labels
    check(data.load("svhn", tmp_path), expected, "svhn")


def test_arrays_can_be_written_to(tmp_path):
    """Over bytes an array is read-only: torch warns, and writing to the tensor is undefined."""
    data_files.write_mnist(tmp_path)
    assert idx.read_idx(tmp_path / data_files.IDX[0], 3).flags.writeable
