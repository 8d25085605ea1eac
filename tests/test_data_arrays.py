"""Stacks of images and signals in .npy and .npz files: which axis is which, how many levels, which part is which."""

import numpy as np
import pytest
import torch

from iresnet_fast import data
from iresnet_fast.data import DataError, ImageOptions

RNG = np.random.default_rng(0)


def saved(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    return tmp_path / "x.npy"


def whole(path, **options):
    """Return the data set, and all its events: the test part first, as it was drawn from the front of the order."""
    found = data.load(path, images=ImageOptions(**options))
    order = np.random.default_rng(0).permutation(len(found.train) + len(found.test))
    events = torch.cat((found.test, found.train))
    return found, events[torch.from_numpy(np.argsort(order))]


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((7, 6, 5), None), ((7, 6, 5, 3), (0, 3, 1, 2)), ((7, 6, 5, 1), (0, 3, 1, 2)), ((7, 3, 6, 5), (0, 1, 2, 3))],
)
def test_bytes_are_images(shape, axes, tmp_path):
    array = RNG.integers(0, 256, shape, np.uint8)
    found, x = whole(saved(tmp_path, array))
    assert (found.n_levels, len(found.test), x.dtype) == (256, 1, torch.uint8)
    assert np.array_equal(x, array[:, None] if axes is None else array.transpose(axes))


@pytest.mark.parametrize(
    ("dtype", "most", "n_levels"),
    [("uint16", 65535, 65536), ("int32", 65535, 65536), ("int64", 255, 256), ("bool", 1, 2), (">u2", 300, 65536)],
)
def test_other_whole_numbers_are_images(dtype, most, n_levels, tmp_path):
    array = RNG.integers(0, most + 1, (9, 4, 5))
    array[0, 0, 0] = most
    found, x = whole(saved(tmp_path, array.astype(dtype)))
    assert found.n_levels == n_levels
    assert np.array_equal(x[:, 0], array)


def test_floats_are_continuous_unless_they_were_bytes(tmp_path):
    array = RNG.random((9, 6, 5, 3), np.float32)
    found, x = whole(saved(tmp_path, array))
    assert found.n_levels is None
    assert np.array_equal(x, array.transpose(0, 3, 1, 2))
    levels = RNG.integers(0, 256, (9, 6, 5, 3), np.uint8)
    for floats in (levels / np.float32(255), levels / 255.0, levels.astype(np.float32)):
        with pytest.warns(RuntimeWarning, match="taken for images of 256 levels"):
            found, x = whole(saved(tmp_path, floats))
        assert found.n_levels == 256
        assert np.array_equal(x, levels.transpose(0, 3, 1, 2))


def test_the_fourth_channel_is_opacity(tmp_path):
    array = RNG.integers(0, 256, (3, 6, 5, 4), np.uint8)
    array[..., 3], array[0, 0, 0, 3] = 255, 0
    with pytest.warns(RuntimeWarning, match="put on white"):
        _, x = whole(saved(tmp_path, array))
    expected = array[..., :3].copy()
    expected[0, 0, 0] = 255
    assert np.array_equal(x, expected.transpose(0, 3, 1, 2))


def test_size_and_mode_are_those_asked_for(tmp_path):
    array = np.full((5, 8, 12, 3), 77, np.uint8)
    array[..., 0] = 10
    found, x = whole(saved(tmp_path, array), size=(4, 4), mode="grey")
    assert found.event_shape == (1, 4, 4)
    assert (x == round(0.299 * 10 + 0.701 * 77)).all()


def test_floats_of_three_axes_are_signals(tmp_path):
    array = RNG.normal(size=(9, 2, 50))
    found, x = whole(saved(tmp_path, array))
    assert (found.event_shape, found.n_levels, found.is_image) == ((2, 50), None, False)
    assert np.array_equal(x, array.astype(np.float32))


def test_signals_that_could_be_images_are_told(tmp_path):
    array = RNG.random((9, 28, 28))
    with pytest.warns(RuntimeWarning, match=r"signals of 28 channels and length 28, .*; save grey images as"):
        found, _ = whole(saved(tmp_path, array))
    assert found.event_shape == (28, 28)
    found, _ = whole(saved(tmp_path, array[:, None]))
    assert found.event_shape == (1, 28, 28)


@pytest.mark.parametrize(
    "names",
    [
        ("train", "train_labels", "test", "test_labels"),
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("column", [True, False])
def test_parts_of_an_archive(names, with_labels, column, tmp_path):
    x, y = RNG.integers(0, 256, (9, 4, 5), np.uint8), np.arange(9) % 3
    labels = y[:, None] if column else y
    parts = dict(zip(names, (x[:6], labels[:6], x[6:], labels[6:]), strict=True))
    np.savez(tmp_path / "x.npz", **{name: part for name, part in parts.items() if with_labels or part.ndim > 2})
    found = data.load(tmp_path / "x.npz")
    assert np.array_equal(found.train[:, 0], x[:6])
    assert np.array_equal(found.test[:, 0], x[6:])
    assert found.n_classes == (3 if with_labels else None)
    if with_labels:
        assert found.train_labels.tolist() == y[:6].tolist()
        assert found.test_labels.tolist() == y[6:].tolist()


def test_images_beside_their_labels_are_split_together(tmp_path):
    y = np.arange(30) % 4
    np.savez_compressed(tmp_path / "x.npz", x=np.tile(y[:, None, None], (1, 2, 2)).astype(np.uint8), y=y)
    found = data.load(tmp_path / "x.npz")
    assert (len(found.train), len(found.test)) == (27, 3)
    assert found.train[:, 0, 0, 0].tolist() == found.train_labels.tolist()
    assert found.test[:, 0, 0, 0].tolist() == found.test_labels.tolist()


def test_what_is_left_out_of_an_archive_is_said(tmp_path):
    x = RNG.integers(0, 256, (4, 3, 3), np.uint8)
    np.savez(tmp_path / "x.npz", train_images=x, val_images=x, test_images=x)
    with pytest.warns(RuntimeWarning, match="the arrays val_images of .* were left out"):
        data.load(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 3, 7, 3), np.uint8), r"got the shape \(5, 3, 7, 3\), where both could be channels"),
        (np.zeros((5, 7, 7, 7), np.uint8), "where neither can be channels"),
        (np.full((5, 7, 7), -1), "whole numbers .* for images, got int64 with negative numbers; convert signals"),
        (np.full((5, 7, 7, 1), 70000), "whole numbers from 0 to 65535 for images, got 70000 to 70000"),
        (np.full((5, 2, 7), np.nan), "must be finite"),
        (np.full((5, 2, 7, 1), np.inf), "must hold finite numbers"),
        (np.zeros((1, 7, 7), np.uint8), "at least 2 events, one to test on, got 1"),
        (np.zeros((0, 7, 7), np.uint8), r"at least 2 events, one to test on, got 0"),
    ],
)
def test_errors(array, message, tmp_path):
    with pytest.raises(DataError, match=message):
        data.load(saved(tmp_path, array))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 5, 5), np.uint8), "y": np.arange(3)}, "a label for each of 4 events, got the shape"),
        ({"x": np.zeros((4, 5, 5), np.uint8), "y": np.full(4, 0.5)}, "whole numbers from 0 on as labels"),
        ({"x": np.zeros((4, 5, 5), np.uint8), "y": np.full(4, -1)}, "whole numbers from 0 on as labels"),
        (
            {"train": np.zeros((4, 5, 5), np.uint8), "test": np.zeros((4, 5, 6), np.uint8)},
            r"got uint8 of shape \(5, 6\)",
        ),
        ({"train": np.zeros((4, 5, 5)), "test": np.zeros((4, 5))}, "of three axes or of four, the same in all parts"),
    ],
)
def test_errors_of_archives(arrays, message, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path / "x.npz")


def test_signals_have_no_size(tmp_path):
    path = saved(tmp_path, RNG.normal(size=(9, 2, 50)))
    with pytest.raises(DataError, match="must hold images to change their size or mode, got signals"):
        data.load(path, images=ImageOptions(size=(4, 4)))


def test_a_table_is_still_a_table(tmp_path):
    assert data.load(saved(tmp_path, RNG.normal(size=(30, 2)))).event_shape == (2,)
