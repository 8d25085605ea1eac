"""Squeeze, InjectivePad, Flatten and Permutation: what goes where, and what they refuse."""

import pytest
import torch
import torch.nn.functional as F

from iresnet_fast import nn

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("factor", [2, 3])
def test_squeeze_is_pixel_unshuffle(factor):
    x = torch.randn(2, 3, 6, 12)
    z, logdet = nn.Squeeze(factor)(x)
    assert torch.equal(z, F.pixel_unshuffle(x, factor))
    assert torch.equal(z[:, factor**2 + factor + 1], x[:, 1, 1::factor, 1::factor])
    assert torch.equal(logdet, torch.zeros(2))


def test_injective_pad_drops_what_it_added_and_measures_it():
    pad, x = nn.InjectivePad(2), torch.randn(3, 4, 2, 2)
    z, logdet = pad(x)
    assert torch.equal(z, F.pad(x, (0, 0, 0, 0, 0, 2)))
    assert torch.equal(logdet, torch.zeros(3))
    assert torch.equal(pad.distance(z), torch.zeros(3))
    noise = torch.randn_like(z)
    back, _ = pad.inverse(z + noise)
    assert torch.equal(back, x + noise[:, :4])
    torch.testing.assert_close(pad.distance(z + noise), noise[:, 4:].flatten(1).norm(dim=1))
    assert torch.equal(nn.InjectivePad(0)(x)[0], x)
    assert nn.InjectivePad(3)(torch.ones(2, 5))[0].shape == (2, 8)


def test_permutation():
    x = torch.randn(2, 4, 3)
    assert torch.equal(nn.Permutation.reverse(4)(x)[0], x.flip(1))
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(3))
    layer = nn.Permutation.random(4, generator)
    assert torch.equal(layer(x)[0], x[:, order])
    assert torch.equal(layer.inverse(layer(x)[0])[0], x)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Squeeze(1), ValueError, "factor must be at least 2, got 1"),
        (lambda: nn.Squeeze(2.0), TypeError, "factor must be an integer"),
        (
            lambda: nn.Squeeze()(torch.ones(2, 1, 5, 4)),
            ValueError,
            r"H and W divisible by 2, got \(2, 1, 5, 4\); pad, crop",
        ),
        (lambda: nn.Squeeze()(torch.ones(2, 4)), ValueError, r"x must have shape \[B, C, H, W\]"),
        (lambda: nn.Squeeze().inverse(torch.ones(2, 6, 1, 1)), ValueError, "C divisible by 4"),
        (lambda: nn.InjectivePad(-1), ValueError, "n_channels must be at least 0"),
        (lambda: nn.InjectivePad(1)(torch.ones(2)), ValueError, r"x must have shape \[B, \*event\]"),
        (lambda: nn.InjectivePad(3).inverse(torch.ones(2, 3)), ValueError, "more than 3 channels"),
        (lambda: nn.Flatten((0, 2)), ValueError, "every size of event_shape must be at least 1, got 0"),
        (lambda: nn.Flatten((2, 2))(torch.ones(3, 4)), ValueError, r"x must have shape \[B, 2, 2\]"),
        (lambda: nn.Flatten((2, 2)).inverse(torch.ones(3, 5)), ValueError, r"z must have shape \[B, 4\], got"),
        (lambda: nn.Permutation([0, 2]), ValueError, "indices must hold every number below their count once"),
        (lambda: nn.Permutation([1, 0])(torch.ones(2, 3)), ValueError, r"x must have shape \[B, 2\]"),
        (lambda: nn.Permutation.reverse(0), ValueError, "num_features must be at least 1"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
