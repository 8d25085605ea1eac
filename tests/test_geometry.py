"""What ConvGeometry takes, and what of a weight fits it."""

import copy
import pickle

import numpy as np
import pytest
import torch

from iresnet_fast import certify, nn, ops, reference
from iresnet_fast.geometry import ConvGeometry

LARGEST = 2**31 - 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image_size": (0, 4)}, ValueError, r"image_size must be from 1 to 2147483647, got \(0, 4\); change it\."),
        ({"image_size": (4, -3)}, ValueError, "image_size must be from 1"),
        ({"image_size": (4, 2**31)}, ValueError, "image_size must be from 1 to 2147483647"),
        ({"image_size": (4,)}, TypeError, r"image_size must be a pair \(height, width\) of integers, got \(4,\)"),
        ({"image_size": 4}, TypeError, "image_size must be a pair"),
        ({"image_size": None}, TypeError, "image_size must be a pair"),
        ({"stride": (1, 0)}, ValueError, "stride must be from 1"),
        ({"stride": (1.0, 1)}, TypeError, r"stride must hold integers, got \(1\.0, 1\); pass whole numbers\."),
        ({"stride": ("1", 1)}, TypeError, "stride must hold integers"),
        ({"padding": (-1, 0)}, ValueError, "padding must be from 0"),
        ({"padding": (2**32, 0)}, ValueError, "padding must be from 0"),
        ({"dilation": (1, -1)}, ValueError, "dilation must be from 1"),
        ({"groups": 0}, ValueError, "groups must be from 1 to 2147483647, got 0"),
        ({"groups": True}, TypeError, "groups must hold integers, got True"),
        ({"groups": 1.5}, TypeError, "groups must hold integers, got 1.5"),
    ],
)
def test_impossible_numbers(changes, error, message):
    with pytest.raises(error, match=message):
        ConvGeometry(**{"image_size": (4, 4), **changes})
    with pytest.raises(error, match=message):
        ConvGeometry((4, 4))._replace(**changes)
    with pytest.raises(error, match=message):
        ConvGeometry._make({**ConvGeometry((4, 4))._asdict(), **changes}.values())


def test_what_serves_as_a_pair_of_integers():
    sizes = torch.tensor([4, 5])
    geometry = ConvGeometry([sizes[0], sizes[1]], torch.Size((2, 1)))
    assert geometry == ConvGeometry((4, 5), (2, 1))
    assert type(geometry.image_size) is tuple
    assert type(geometry.image_size[0]) is int
    assert ConvGeometry._make(geometry) == geometry._replace() == geometry
    assert geometry._replace(groups=2) == ConvGeometry((4, 5), (2, 1), groups=2)
    assert type(ConvGeometry._make(geometry)) is type(geometry._replace(groups=2)) is ConvGeometry
    assert pickle.loads(pickle.dumps(geometry)) == copy.deepcopy(geometry) == geometry


IMAGE_SIZES = [(8.9, 8), (8, 8.0), 8.0, True, (True, 8), (8, 8, 8), (8,), "88", torch.tensor(8.9), {}]


@pytest.mark.parametrize("size", IMAGE_SIZES, ids=str)
def test_what_is_no_image_size(size):
    with pytest.raises(TypeError, match=r"image_size must be one integer or \(height, width\), got "):
        nn.SpectralConv2d(1, 1, 3, image_size=size)
    layer = nn.SpectralConv2d(1, 1, 3)
    with pytest.raises(TypeError, match=r"image_size must be one integer or \(height, width\), got "):
        layer.set_image_size(size)
    assert layer.image_size is None


@pytest.mark.parametrize(
    "size", [8, np.int64(8), (np.int64(8), 8), [8, 8], np.array([8, 8]), torch.Size((8, 8))], ids=str
)
def test_what_serves_as_an_image_size(size):
    image_size = nn.SpectralConv2d(1, 1, 3, image_size=size).image_size
    assert image_size == (8, 8)
    assert {type(side) for side in image_size} == {int}


@pytest.mark.parametrize(
    ("shape", "geometry", "message"),
    [
        (
            (4, 2, 3, 3),
            ConvGeometry((4, 4), groups=3),
            r"weights\[0\] must .* out divisible by groups = 3, got \(4, 2, 3",
        ),
        ((0, 2, 3, 3), ConvGeometry((4, 4), groups=2), r"weights\[0\] must .* out divisible by groups = 2"),
        ((4, 2, 0, 3), ConvGeometry((4, 4)), r"weights\[0\] must have shape \[out, in / groups, kh, kw\]"),
        ((4, 2), ConvGeometry((4, 4)), r"weights\[0\] must have shape \[out, in / groups, kh, kw\]"),
        ((4, 2, 3), None, r"weights\[0\] must have shape \[out, in\]"),
        ((4, 2, 5, 3), ConvGeometry((4, 4)), r"geometry\[0\] must leave at least one output pixel"),
        ((4, 2, 2, 2), ConvGeometry((4, 4), dilation=(LARGEST, 1)), "must leave at least one output pixel"),
        ((4, 2, 3, 3), ConvGeometry((4, 4), (99999, 99999), (99999, 99999)), "must have at most 2147483647 numbers"),
        ((1, 1, 1, 1), ConvGeometry((LARGEST, LARGEST)), "must have at most 2147483647 numbers"),
        ((1, 1, 1, 1), ConvGeometry((4, 4), padding=(LARGEST, 0)), "must have at most 2147483647 numbers"),
    ],
)
def test_weights_that_do_not_fit(shape, geometry, message):
    weight, vector = torch.ones(shape), torch.ones(4)
    for package in (ops, reference):
        for call in (
            lambda package=package: package.spectral_norm([weight], [vector], [vector], [geometry]),
            lambda package=package: package.lanczos_norm([weight], [vector], [vector], [vector], [geometry]),
            lambda package=package: package.spectral_normalize(
                [weight], vector[:1], [vector], [vector], [geometry], 0.9
            ),
        ):
            with pytest.raises(ValueError, match=message):
                call()
    if geometry is not None and weight.numel():
        with pytest.raises(ValueError, match=message.replace(r"weights\[0\]", "weight").replace(r"\[0\]", "")):
            certify.norm_bounds(weight, geometry)


@pytest.mark.parametrize("options", [{"stride": 0}, {"dilation": 0}, {"dilation": -1}, {"padding": -1}])
def test_a_layer_that_is_no_convolution(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be from"):
        nn.SpectralConv2d(2, 2, 3, **options, image_size=4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"padding": (1,)}, TypeError, r"padding must be one integer or \(height, width\), got \(1,\); pass e.g. 1 or"),
        ({"stride": "2"}, TypeError, r"stride must be one integer or \(height, width\), got '2'"),
        ({"dilation": (1, 2, 3)}, TypeError, r"dilation must be one integer or \(height, width\), got \(1, 2, 3\)"),
        ({"groups": "2"}, TypeError, "groups must be an integer, got '2'"),
        ({"groups": 0}, ValueError, "groups must be at least 1, got 0"),
        ({"groups": 4}, ValueError, "groups must divide in_channels and out_channels, 2 and 4, got 4; change one"),
        ({"stride": 0}, ValueError, "stride must be"),
        ({"padding": -1}, ValueError, "padding must be"),
        ({"dilation": -1}, ValueError, "dilation must be"),
    ],
)
def test_layers_refuse_it_when_they_are_built(options, error, message):
    with pytest.raises(error, match=message):
        nn.SpectralConv2d(2, 4, 3, **options)
