"""A data set of one's own is checked as the named ones are."""

import pytest
import torch

from iresnet_fast import data

NAN, INF = float("nan"), float("inf")


def make(**changes):
    values = {
        "name": "mine",
        "train": torch.arange(48, dtype=torch.uint8).view(4, 1, 3, 4),
        "test": torch.full((2, 1, 3, 4), 255, dtype=torch.uint8),
        "train_labels": torch.tensor([0, 1, 2, 2]),
        "test_labels": torch.tensor([2, 0]),
        "n_levels": 256,
        "n_classes": 3,
    }
    return data.DataSet(**{**values, **changes})


def with_value(value):
    x = torch.zeros(4, 1, 3, 4)
    x[2, 0, 1, 3] = value
    return x


def test_it_is_shown_by_its_shapes():
    x, context = torch.zeros(5, 3), torch.zeros(5, 2)
    assert repr(data.DataSet("table", x, x[:2])) == "DataSet('table', train=(5, 3), test=(2, 3))"
    named = data.DataSet("table", x, x, train_context=context, test_context=context, context_names=("a", "b"))
    assert repr(named) == "DataSet('table', train=(5, 3), test=(5, 3), context=('a', 'b'))"


def test_good():
    images = make()
    assert (images.event_shape, images.is_image) == ((1, 3, 4), True)
    vectors = data.DataSet("mine", torch.randn(4, 5), torch.randn(1, 5))
    assert (vectors.event_shape, vectors.is_image) == ((5,), False)
    floats = make(train=with_value(6), test=with_value(0)[:2], n_levels=7)  # whole numbers of another dtype
    assert floats.train.dtype == torch.float32
    data.DataSet("mine", with_value(-0.5), with_value(0.25))  # continuous images
    with pytest.raises(AttributeError):
        images.name = "other"
    assert images == images
    assert images != make()  # by identity: comparing tensors would raise


CONTINUOUS = {"n_levels": None, "test": torch.zeros(2, 1, 3, 4)}
WHOLE = {"test": torch.zeros(2, 1, 3, 4)}
BAD = {
    "dtype": ({"train": torch.zeros(4, 1, 3, 4).double()}, ["train of mine", "uint8 or float32", "float64"]),
    "complex": ({"test": torch.zeros(2, 1, 3, 4) * 1j}, ["test of mine", "uint8 or float32", "got torch.complex64"]),
    "1-D": ({"train": torch.zeros(4)}, ["train of mine", "[N, d], [N, C, L] or [N, C, H, W]", "got (4,)"]),
    "5-D": ({"train": torch.zeros(4, 1, 3, 4, 1)}, ["[N, d], [N, C, L] or [N, C, H, W]", "got (4, 1, 3, 4, 1)"]),
    "no rows": ({"test": torch.zeros(0, 1, 3, 4)}, ["test of mine", "without a zero", "got (0, 1, 3, 4)"]),
    "NaN": ({"train": with_value(NAN), **CONTINUOUS}, ["train of mine", "finite", "got 1 values"]),
    "infinite": ({"train": with_value(INF), **CONTINUOUS}, ["train of mine", "finite", "got 1 values"]),
    "minus infinite": ({"train": with_value(-INF), **CONTINUOUS}, ["train of mine", "finite"]),
    "NaN among whole numbers": ({"train": with_value(NAN), **WHOLE}, ["train of mine", "finite"]),
    "NaN in test": ({"test": with_value(NAN), "train": torch.zeros(4, 1, 3, 4)}, ["test of mine", "finite"]),
    "256": ({"train": with_value(256), **WHOLE}, ["whole numbers from 0 to 255", "got 0 to 256"]),
    "-1": ({"train": with_value(-1), **WHOLE}, ["whole numbers from 0 to 255", "got -1 to 0"]),
    "byte above the levels": ({"n_levels": 255}, ["test of mine", "whole numbers from 0 to 254", "got 255 to 255"]),
    "fraction": ({"train": with_value(0.5), **WHOLE}, ["whole numbers since n_levels is 256", "by 255"]),
    "bytes without levels": ({"n_levels": None}, ["n_levels of mine", "got None", "pass 256"]),
    "channels differ": ({"test": torch.zeros(2, 3, 3, 4).byte()}, ["test of mine", "(1, 3, 4)", "(3, 3, 4)"]),
    "dtypes differ": ({"test": torch.zeros(2, 1, 3, 4)}, ["torch.uint8", "got (1, 3, 4) and torch.float32"]),
    "no classes": ({"n_classes": None}, ["train_labels of mine", "if and only if n_classes is", "got some"]),
    "no labels": ({"test_labels": None}, ["test_labels of mine", "if and only if n_classes is", "got none"]),
    "labels of int32": ({"train_labels": torch.zeros(4).int()}, ["train_labels of mine", "got torch.int32"]),
    "one label too few": ({"train_labels": torch.tensor([0, 1, 2])}, ["(4,), one for each event", "got", "(3,)"]),
    "label too large": ({"test_labels": torch.tensor([0, 3])}, ["test_labels of mine", "0 .. 2", "got 0 to 3"]),
    "label negative": ({"test_labels": torch.tensor([-1, 0])}, ["test_labels of mine", "0 .. 2", "got -1 to 0"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad(case):
    changes, words = BAD[case]
    with pytest.raises(data.DataError) as caught:
        make(**changes)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"train": [[1.0]]}, TypeError, "train of mine must be a tensor, got list"),
        ({"train_labels": [0, 1, 2, 2]}, TypeError, "train_labels of mine must be a tensor, got list"),
        ({"n_levels": 256.0}, TypeError, "n_levels must be an integer, got 256.0"),
        ({"n_levels": 1}, ValueError, "n_levels must be at least 2, got 1"),
        ({"n_classes": 0}, ValueError, "n_classes must be at least 1, got 0"),
    ],
)
def test_bad_types(changes, error, words):
    with pytest.raises(error, match=words):
        make(**changes)
