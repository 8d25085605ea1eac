"""Tables of numbers: .npy, .npz and .csv files."""

import numpy as np
import pytest
import torch

from iresnet_fast import data


@pytest.fixture
def table():
    return np.random.default_rng(0).normal(size=(25, 3))


def rows(tensor):
    return sorted(map(tuple, tensor.tolist()))


def check_split(loaded, table, name):
    """Each row is in one of the parts, as it was saved."""
    assert loaded.name == name
    assert (loaded.train.dtype, loaded.test.dtype) == (torch.float32, torch.float32)
    assert (len(loaded.train), len(loaded.test)) == (23, 2)
    assert (loaded.n_levels, loaded.n_classes, loaded.train_labels, loaded.event_shape) == (None, None, None, (3,))
    assert rows(torch.cat((loaded.train, loaded.test))) == rows(torch.from_numpy(table.astype(np.float32)))


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "i8", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, table, dtype, order):
    table = np.array(10 * table if dtype != "?" else table > 0, order=order).astype(np.dtype(dtype))
    np.save(tmp_path / "a.npy", table)
    check_split(data.load(tmp_path / "a.npy"), table, str(tmp_path / "a.npy"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, table, save):
    path = tmp_path / "a.NPZ"
    with open(path, "wb") as file:
        save(file, any_name=table)
    check_split(data.load(path), table, str(path))
    with open(path, "wb") as file:
        save(file, test=table[:5], train=table[5:])
    loaded = data.load(path)
    assert torch.equal(loaded.train, torch.from_numpy(table[5:]).float())  # its split and its order
    assert torch.equal(loaded.test, torch.from_numpy(table[:5]).float())


@pytest.mark.parametrize("header", ["", "a,b,c\n", '"x, in m",y,z\r\n', "\ufeffa,b,c\n", "\ufeff", "# a,b,c\n", "\n"])
def test_csv(tmp_path, table, header):
    """With names or without, with a mark at the start, quoted, with empty lines and spaces."""
    lines = [", ".join(f"{value!r}" for value in row) for row in table.tolist()]
    path = tmp_path / "a.csv"
    path.write_text(header + "\r\n".join(lines) + "\n\n", encoding="utf-8")
    check_split(data.load(path), table, str(path))


def test_root_and_seed(tmp_path, table, monkeypatch):
    """A relative name starts at the root, or where one is; the seed decides about the split."""
    np.save(tmp_path / "a.npy", table)
    first = data.load("a.npy", tmp_path)
    check_split(first, table, "a.npy")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(data.load("a.npy").train, first.train)
    check_split(data.load(tmp_path / "a.npy", "elsewhere"), table, str(tmp_path / "a.npy"))
    other = data.load("a.npy", seed=1)
    check_split(other, table, "a.npy")
    assert not torch.equal(other.train, first.train)


def test_tenth_for_testing(tmp_path, table):
    np.save(tmp_path / "a.npy", table[:3])
    assert (len(data.load("a.npy", tmp_path).train), len(data.load("a.npy", tmp_path).test)) == (2, 1)
    np.save(tmp_path / "a.npy", np.tile(table, (8, 1)))
    assert (len(data.load("a.npy", tmp_path).train), len(data.load("a.npy", tmp_path).test)) == (180, 20)


def npy(array):
    return lambda path: np.save(path, array)


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


def text(content):
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def damaged(save, change):
    def write(path):
        save(path)
        path.write_bytes(change(path.read_bytes()))

    return write


GOOD = np.arange(12.0).reshape(6, 2) ** 2
HOLE, HUGE, STUCK = GOOD.copy(), GOOD.copy(), GOOD.copy()
HOLE[4, 1], HUGE[5, 0], STUCK[:, 1] = np.nan, -1e39, 0.1
# file, how it is written, words of the sentence
BAD = {
    "1-D": ("a.npy", npy(GOOD[0]), ["shape [N, d]", "got (2,)"]),
    "3-D": ("a.npy", npy(GOOD[None]), ["at least 2 events", "got 1"]),
    "no columns": ("a.npy", npy(GOOD[:, :0]), ["shape [N, d]", "got (6, 0)"]),
    "one row": ("a.npy", npy(GOOD[:1]), ["at least 2 rows to train on", "got 0"]),
    "two rows": ("a.npy", npy(GOOD[:2]), ["at least 2 rows to train on", "got 1"]),
    "complex": ("a.npy", npy(GOOD * 1j), ["real numbers", "got an array of dtype complex128"]),
    "object": ("a.npy", npy(np.array([[1, "a"], [2, "b"]], object)), ["real numbers", "got an array of dtype object"]),
    "words": ("a.npy", npy(GOOD.astype(str)), ["real numbers", "got an array of dtype <U"]),
    "fields": ("a.npy", npy(np.zeros((4, 2), [("x", "f4")])), ["real numbers", "got an array of dtype [('x'"]),
    "NaN": ("a.npy", npy(HOLE), ["column '2'", "a value in every row", "got none in row 5"]),
    "too large": ("a.npy", npy(HUGE), ["column '1'", "float32 can tell apart", "from -1e+39 to 64.0"]),
    "constant": ("a.npy", npy(STUCK), ["vary in every column", "column 2", "no density"]),
    "truncated": ("a.npy", damaged(npy(GOOD), lambda b: b[:-1]), ["224 bytes long", "got 223"]),
    "trailing": ("a.npy", damaged(npy(GOOD), lambda b: b + b"\0"), ["224 bytes long", "got 225"]),
    "no .npy": ("a.npy", text("1, 2"), ["whole .npy file", "got one that is not"]),
    "empty .npy": ("a.npy", text(""), ["whole .npy file", "got one that is not"]),
    "header too large": ("a.npy", text(b"\x93NUMPY\1\0\x20\x4e" + b" " * 20000), ["of numbers", "Header info length"]),
    "no .npz": ("a.npz", text("1, 2"), ["whole .npz file", "not a zip file"]),
    "truncated .npz": ("a.npz", damaged(npz(a=GOOD), lambda b: b[:-9]), ["whole .npz file", "not a zip file"]),
    "flipped .npz": (
        "a.npz", damaged(npz(a=GOOD), lambda b: b.replace(GOOD[5].tobytes(), bytes(16))), ["whole .npz file", "CRC"]
    ),
    "no array": ("a.npz", npz(), ["one array, or two called train and test", "got none"]),
    "other arrays": ("a.npz", npz(train=GOOD, valid=GOOD), ["called train and test", "got train, valid"]),
    "three arrays": ("a.npz", npz(train=GOOD, test=GOOD, y=GOOD), ["called train and test", "got train, test, y"]),
    "columns differ": ("a.npz", npz(train=GOOD, test=GOOD[:, :1]), ["must have the columns of train in", "2, got 1"]),
    "NaN in test": ("a.npz", npz(train=GOOD, test=HOLE), ["column '2' of test in", "got none in row 5"]),
    "constant in training": ("a.npz", npz(train=STUCK, test=GOOD), ["train in", "vary in every column", "column 2"]),
    "word": ("a.csv", text("x,y\n1,2\n3,four\n5,6\n"), ["column 'y'", "got 'four' in row 2", "--categorical y"]),
    "word among rows": ("a.csv", text("1,2\nx,4\n5,6\n"), ["column '1'", "finite numbers", "got 'x' in row 2"]),
    "empty cell": ("a.csv", text("1,2\n3,\n5,6\n"), ["column '2'", "a value in every row", "got none in row 2"]),
    "nan": ("a.csv", text("1,2\n\n3,NaN\n5,6\n"), ["column '2'", "a value in every row", "got none in row 2"]),
    "infinite": ("a.csv", text("1,2\n3,4\n-inf,6\n"), ["column '1'", "finite numbers", "got -inf in row 3"]),
    "a date": ("a.csv", text("a,b\n2024-01-02,1\n2024-01-03,2\n2024-01-04,3\n"), ["column 'a'", "convert dates to"]),
    "thousands": ("a.csv", text('a,b\n"1,234",1\n"2,345",2\n3,3\n'), ["column 'a'", "remove the marks of thousands"]),
    "too few cells": ("a.csv", text("a,b\n1,2\n3\n5,6\n"), ["2 cells in line 3", "got 1"]),
    "too many cells": ("a.csv", text("a,b\n1,2\n3,4,5\n"), ["2 cells in line 3", "got 3"]),
    "names of others": ("a.csv", text("a,b,c\n1,2\n3,4\n5,6\n"), ["3 cells in line 2", "got 2"]),
    "constant in text": ("a.csv", text("1,2\n3,2\n5,2\n"), ["vary in every column", "column 2"]),
    "names only": ("a.csv", text("a,b\n"), ["must have rows", "got none"]),
    "empty .csv": ("a.csv", text(""), ["must have rows of numbers", "got an empty file"]),
    "no text": ("a.csv", text(b"\xff\xfe1,2"), ["text file of separated cells", "decode"]),
    "a folder": ("a.csv", lambda path: path.mkdir(), ["must be a file", "got a folder"]),
    "missing": ("a.npz", lambda path: None, ["a file that can be read", "No such file or directory"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad(tmp_path, case):
    name, write, words = BAD[case]
    write(tmp_path / name)
    with pytest.raises(data.DataError) as caught:
        data.load(name, tmp_path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in (name, *words):
        assert word in sentence
