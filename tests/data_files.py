"""Small valid files of every format that `iresnet_fast.data` reads, and what they hold."""

import gzip
import pickle
import struct
import tarfile
from types import SimpleNamespace

import numpy as np

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


def images(shape, n_train, n_test, seed=0):
    """Random bytes and labels; every class and the extreme pixels occur."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n_train + n_test, *shape), np.uint8)
    x[:, 0, 0, :2] = 0, 255
    y = rng.permutation(np.arange(n_train + n_test) % 10)
    return SimpleNamespace(train=x[:n_train], test=x[n_train:], train_labels=y[:n_train], test_labels=y[n_train:])


def idx(array):
    """The content of an idx file: big-endian header, then the bytes."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + b"".join(struct.pack(">I", size) for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write(path, content):
    """Write bytes, packed if the name says so; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder, gz=False, seed=0):
    data = images((1, 28, 28), 20, 10, seed)
    parts = data.train[:, 0], data.train_labels, data.test[:, 0], data.test_labels
    for name, array in zip(IDX, parts, strict=True):
        write(folder / (name + ".gz" * gz), idx(array))
    return data


def cifar_batches(data):
    """The images and labels of the six batches: two images each, ten for the test."""
    return [(data.train[i : i + 2], data.train_labels[i : i + 2]) for i in range(0, 10, 2)] + [
        (data.test, data.test_labels)
    ]


def write_cifar_binary(folder):
    data = images((3, 32, 32), 10, 10)
    for name, (x, y) in zip(CIFAR, cifar_batches(data), strict=True):
        rows = (bytes([label]) + image.tobytes() for image, label in zip(x, y, strict=True))
        write(folder / f"{name}.bin", b"".join(rows))
    return data


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 wrote its str: so the published batches are made."""

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)


Python2Pickler.dispatch = {**pickle._Pickler.dispatch, bytes: Python2Pickler.save_bytes}


def pickle_batch(path, batch):
    with open(path, "wb") as file:
        Python2Pickler(file, protocol=2).dump(batch)
    # The modules of numpy as they were called then; the names are lines of their own in protocol 2.
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


def write_cifar_python(folder):
    data = images((3, 32, 32), 10, 10)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (x, y) in zip(CIFAR, cifar_batches(data), strict=True):
        batch = {b"data": x.reshape(len(x), -1), b"labels": y.tolist(), b"filenames": [b"a.png"] * len(x)}
        pickle_batch(folder / name, batch)
    return data


def write_archive(path, source):
    """Pack a folder as the published archives are: one folder inside, with other files beside the batches."""
    (source / "readme.html").write_text("about")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(source, arcname=source.name)


def write_svhn(folder, compress=True):
    data = images((3, 32, 32), 20, 10)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        x, y = getattr(data, name), getattr(data, f"{name}_labels")
        write_mat(folder / f"{name}_32x32.mat", compress, X=x.transpose(2, 3, 1, 0), y=svhn_labels(y))
    return data


def svhn_labels(labels):
    """Labels as SVHN has them: a column, 10 for the digit 0."""
    return np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]


def write_mat(path, compress=True, **arrays):
    from scipy.io import savemat

    savemat(path, arrays, do_compression=compress)
