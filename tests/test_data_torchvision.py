"""from_torchvision: data sets of torchvision's interface, of PIL images and of tensors, become a DataSet."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from iresnet_fast import data
from iresnet_fast.data import DataError, ImageOptions

RNG = np.random.default_rng(0)
PIXELS = {"grey": RNG.integers(0, 256, (20, 6, 5), np.uint8), "colour": RNG.integers(0, 256, (20, 6, 5, 3), np.uint8)}


class Vision:
    """What torchvision.datasets have: a length, items (image, label), classes, a transform."""

    def __init__(self, pixels, transform=None, classes=("zero", "one", "two"), label=lambda i: i % 3):
        self.pixels, self.transform, self.label = pixels, transform, label
        if classes:
            self.classes = list(classes)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        image = Image.fromarray(self.pixels[i])
        return image if self.transform is None else self.transform(image), self.label(i)


def to_tensor(image):
    """What torchvision's ToTensor does with bytes."""
    array = np.asarray(image)
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(array.copy()).to(torch.get_default_dtype()).div(255)


def pil_to_tensor(image):
    return (255.0 * to_tensor(image)).round().to(torch.uint8)


def expected(pixels):
    return pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)


@pytest.mark.filterwarnings("ignore:iresnet_fast. the floats:RuntimeWarning")
@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("transform", [None, to_tensor, pil_to_tensor, np.asarray])
def test_the_bytes_labels_and_classes_are_those_of_the_data_set(transform, kind):
    pixels = PIXELS[kind]
    found = data.from_torchvision(Vision(pixels[:12], transform), Vision(pixels[12:], transform), name="mine")
    assert (found.name, found.n_levels, found.train.dtype) == ("mine", 256, torch.uint8)
    assert np.array_equal(found.train, expected(pixels)[:12])
    assert np.array_equal(found.test, expected(pixels)[12:])
    assert (found.n_classes, found.class_names) == (3, ("zero", "one", "two"))
    assert found.train_labels.tolist() == [i % 3 for i in range(12)]


def test_a_tenth_is_split_off_by_the_seed():
    first, again, other = (data.from_torchvision(Vision(PIXELS["grey"]), seed=seed) for seed in (0, 0, 3))
    assert (first.name, len(first.train), len(first.test)) == ("Vision", 18, 2)
    assert torch.equal(first.test, again.test)
    assert not torch.equal(first.test, other.test)


def test_floats_that_were_no_bytes_are_continuous():
    found = data.from_torchvision(Vision(PIXELS["grey"], lambda image: to_tensor(image) ** 2))
    assert (found.n_levels, found.train.dtype) == (None, torch.float32)


def test_images_of_16_bits():
    pixels = RNG.integers(0, 65536, (9, 6, 5), np.uint16)
    pixels[0, 0, 0] = 65535
    found = data.from_torchvision(Vision(pixels), Vision(pixels))
    assert found.n_levels == 65536
    assert np.array_equal(found.train[:, 0], pixels)


@pytest.mark.parametrize("shape", [(4,), (2, 16), (3, 5, 6)])
def test_a_tensor_data_set(shape):
    x, y = torch.randn(20, *shape), torch.arange(20) % 5
    found = data.from_torchvision(TensorDataset(x, y), TensorDataset(x, y))
    assert torch.equal(found.train, x)
    assert torch.equal(found.test_labels, y)
    assert found.n_classes == 5
    alone = data.from_torchvision(TensorDataset(x), TensorDataset(x))
    assert torch.equal(alone.train, x)
    assert alone.n_classes is None


def test_tensors_of_half_precision():
    x = torch.rand(20, 1, 4, 4)
    found = data.from_torchvision(TensorDataset(x.bfloat16()), TensorDataset(x.bfloat16()))
    assert torch.equal(found.train, x.bfloat16().float())


def test_images_are_brought_to_a_size():
    found = data.from_torchvision(Vision(PIXELS["colour"]), images=ImageOptions(size=(4, 4), mode="grey"))
    assert found.event_shape == (1, 4, 4)


def test_labels_that_are_no_classes_are_left_out_aloud():
    for label in (lambda i: 0.5 * i, lambda i: torch.arange(4), lambda i: {"box": i}, lambda i: "name"):
        with pytest.warns(RuntimeWarning, match="labels of Vision are no whole numbers .* were left out"):
            found = data.from_torchvision(Vision(PIXELS["grey"], label=label))
        assert found.n_classes is None


@pytest.mark.parametrize(
    ("train", "test", "error", "message"),
    [
        ([], None, DataError, "list must hold events, got none"),
        (5, None, TypeError, "train must have a length and items"),
        (Vision(PIXELS["grey"]), 5, TypeError, "test must have a length and items"),
        (["a", "b"], None, DataError, "item 0 of list must be an image, a tensor or an array, got"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], None, DataError, r"one shape and dtype, got .* as item 1"),
        (Vision(PIXELS["grey"]), Vision(PIXELS["colour"]), DataError, "test of Vision must hold events like those"),
        (Vision(PIXELS["grey"][:1]), None, DataError, "at least 2 events, one to test on, got 1"),
        ([np.zeros((3, 3, 3), np.uint8)] * 2, None, DataError, "where both could be channels"),
    ],
)
def test_errors(train, test, error, message):
    with pytest.raises(error, match=message):
        data.from_torchvision(train, test)
