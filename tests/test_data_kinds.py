"""Honest files of every kind that others may write are read."""

import io
import pickle
import shutil
import struct
import tarfile

import data_files
import numpy as np
import pytest
from data_formats import BATCH, MAT

from iresnet_fast import data


@pytest.mark.parametrize("labels", [list, np.array, lambda y: [np.int64(label) for label in y]])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_read(protocol, order, labels, tmp_path):
    expected = data_files.write_cifar_python(tmp_path)
    for name, (x, y) in zip(data_files.CIFAR, data_files.cifar_batches(expected), strict=True):
        flat = np.array(x.reshape(len(x), -1), order=order)
        batch = {"data": flat, "labels": labels(y.tolist()), "batch_label": b"one", "filenames": ["a", "\u00e9"]}
        (tmp_path / name).write_bytes(pickle.dumps(batch, protocol))
    loaded = data.load("cifar10", tmp_path)
    assert np.array_equal(loaded.train, expected.train)
    assert np.array_equal(loaded.test, expected.test)
    assert loaded.train_labels.tolist() == expected.train_labels.tolist()


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", ">i8", "u4"])
def test_labels_of_every_byte_order(dtype, tmp_path):
    expected = data_files.write_cifar_python(tmp_path)
    x, y = data_files.cifar_batches(expected)[1]
    batch = {"data": x.reshape(2, -1), "labels": y.astype(dtype)}
    (tmp_path / BATCH).write_bytes(pickle.dumps(batch, 2))
    assert data.load("cifar10", tmp_path).train_labels.tolist() == expected.train_labels.tolist()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_archive_is_read(form, tmp_path):
    """With long names, times and whatever else a form puts between the batches."""
    expected = data_files.write_cifar_binary(tmp_path / "files")
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz", format=form) as tar:
        info = tarfile.TarInfo("a" * 90 + "/" + "b" * 60)
        info.size, info.mtime = 3, 1.5 if form == tarfile.PAX_FORMAT else 1
        tar.addfile(info, io.BytesIO(b"abc"))
        for path in sorted((tmp_path / "files").iterdir()):
            tar.add(path, f"./cifar-10-batches-bin/{path.name}")
    shutil.rmtree(tmp_path / "files")
    assert np.array_equal(data.load("cifar10", tmp_path).train, expected.train)


def test_a_mat_file_of_the_other_byte_order(tmp_path):
    """Plain, with another array before those that are read."""
    expected = data_files.write_svhn(tmp_path)
    x, y = expected.train.transpose(2, 3, 1, 0), data_files.svhn_labels(expected.train_labels)

    def element(kind, content):
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    def array(name, values, kind):
        shape = struct.pack(f">{values.ndim}i", *values.shape)
        numbers = values.astype(values.dtype.newbyteorder(">")).tobytes(order="F")
        parts = (
            element(6, struct.pack(">II", 9, 0)),
            element(5, shape),
            element(1, name.encode()),
            element(kind, numbers),
        )
        return element(14, b"".join(parts))

    header = b"MATLAB 5.0".ljust(124) + b"\1\0MI"
    other = array("other", np.zeros((2, 2)), 9)
    (tmp_path / MAT).write_bytes(header + other + array("X", x, 2) + array("y", y.astype(np.uint16), 4))
    loaded = data.load("svhn", tmp_path)
    assert np.array_equal(loaded.train, expected.train)
    assert loaded.train_labels.tolist() == expected.train_labels.tolist()
