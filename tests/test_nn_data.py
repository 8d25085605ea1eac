"""Dequantize, Logit, Affine and bits per dimension: from data to what a flow sees."""

import copy
import math

import numpy as np
import pytest
import torch

from iresnet_fast import nn
from iresnet_fast.likelihood import bits_per_dim

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("n_levels", [2, 3, 100, 256])
def test_dequantize_there_and_back(dtype, n_levels):
    layer = nn.Dequantize(n_levels)
    x = torch.randint(0, n_levels, (200, 1000)).to(dtype)  # many: rounding up to the next level is rare
    z, logdet = layer(x)
    assert z.dtype == (dtype if dtype.is_floating_point else torch.float32)
    assert 0.0 <= float(z.min()) <= float(z.max()) <= 1.0
    assert torch.equal(layer.inverse(z)[0], x.to(z.dtype))
    torch.testing.assert_close(logdet, torch.full_like(logdet, -1000 * math.log(n_levels)))
    noise = z * n_levels - x
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.01)  # 200,000 uniform numbers: 15 standard errors
    assert float(noise.var()) == pytest.approx(1 / 12, abs=0.01)


def test_dequantize_noise_in_evaluation():
    x = torch.randint(0, 256, (4, 100))
    fixed = nn.Dequantize().eval()
    z = fixed(x)[0]
    assert torch.equal(fixed(x)[0], z)
    assert not torch.equal(nn.Dequantize(eval_seed=1).eval()(x)[0], z)
    assert not torch.equal(fixed.train()(x)[0], fixed(x)[0])
    random = nn.Dequantize(eval_noise="random").eval()
    assert not torch.equal(random(x)[0], random(x)[0])
    torch.testing.assert_close(nn.Dequantize(eval_noise="half").eval()(x)[0], (x + 0.5) / 256)


def test_defect_20_noise_is_that_of_torch_or_of_the_generator():
    """residual-flows draws from numpy's global generator, which torch.manual_seed does not reach."""
    x = torch.randint(0, 256, (4, 100))
    state = np.random.get_state()[1].copy()  # noqa: NPY002  # it is the old global one that must not move
    layer = nn.Dequantize()
    torch.manual_seed(5)
    first = layer(x)[0]
    torch.manual_seed(5)
    assert torch.equal(layer(x)[0], first)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    own = nn.Dequantize(generator=torch.Generator().manual_seed(5))
    torch.manual_seed(6)
    assert torch.equal(own(x)[0], first)
    assert torch.equal(copy.deepcopy(own)(x)[0], own(x)[0])


@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.05])
def test_logit_near_the_ends(alpha):
    layer = nn.Logit(alpha)
    x = torch.tensor([[1e-12, 1e-3, 0.5, 1.0 - 1e-6]], dtype=torch.float64)
    z, logdet = layer(x)
    s = alpha + (1.0 - 2.0 * alpha) * x
    torch.testing.assert_close(z, (s / (1.0 - s)).log())
    torch.testing.assert_close(logdet, ((1.0 - 2.0 * alpha) / (s * (1.0 - s))).log().sum(1))
    torch.testing.assert_close(layer.inverse(z)[0], x)


def test_affine_standardizes():
    data = torch.randn(500, 3) * torch.tensor([2.0, 0.01, 1e-20]) + torch.tensor([0.0, 5.0, 0.0])
    layer = nn.Affine.standardize(data)
    z, logdet = layer(data)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(3), atol=1e-2, rtol=0.0)
    torch.testing.assert_close(logdet, layer.scale.log().sum().expand(500))
    constant = nn.Affine.standardize(torch.full((9, 2), 0.1))
    assert torch.equal(constant.scale, torch.ones(2))


def test_affine_broadcasts_to_the_event():
    x = torch.randn(2, 3, 4, 4)
    layer = nn.Affine(torch.full((3, 1, 1), -2.0), 1.0)
    z, logdet = layer(x)
    assert torch.equal(z, -2.0 * x + 1.0)
    torch.testing.assert_close(logdet, torch.full((2,), 48 * math.log(2.0)))
    assert set(layer.state_dict()) == {"scale", "shift"}


def test_bits_per_dim_of_uniform_data():
    """A uniform density on bytes takes 8 bits, counted either way."""
    x = torch.randint(0, 256, (5, 1, 4, 4))
    _, logdet = nn.Dequantize()(x)  # and a uniform density of z has log 1
    torch.testing.assert_close(bits_per_dim(logdet, 16), torch.full((5,), 8.0))
    torch.testing.assert_close(bits_per_dim(torch.zeros(5), 16, 256), torch.full((5,), 8.0))


def test_bits_per_dim_through_dequantize_and_logit():
    """Numbers drawn with probabilities p: a flow that knows them reaches their entropy."""
    p = torch.tensor([0.5, 0.25, 0.125, 0.125])
    x = torch.multinomial(p, 40000, replacement=True)[:, None]
    flow = nn.Sequential(nn.Dequantize(4), nn.Logit(0.0)).double()
    z, logdet = flow(x.double())
    # the density of z that makes the data's density p[x] on [x, x + 1)
    log_prob_of_z = p.double()[x[:, 0]].log() - logdet
    assert z.isfinite().all()
    assert float(bits_per_dim(log_prob_of_z + logdet, 1).mean()) == pytest.approx(1.75, abs=0.02)


def test_defect_30_bits_per_dim_counts_the_dimensions_of_the_data():
    """i-ResNet copies MNIST to 3 x 32 x 32 and divides by that: fewer bits per dimension for the same model."""
    log_prob = torch.tensor([-1000.0])
    assert float(bits_per_dim(log_prob, 784)) == pytest.approx(1000.0 / 784 / math.log(2.0))
    with pytest.raises(ValueError, match="n_dims must be at least 1, got 0"):
        bits_per_dim(log_prob, 0)
    with pytest.raises(TypeError, match="n_dims must be an integer"):
        bits_per_dim(log_prob, (1, 28, 28))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Dequantize(0), "n_levels must be at least 1"),
        (lambda: nn.Dequantize(eval_noise="none"), "eval_noise must be 'fixed', 'random' or 'half', got 'none'"),
        (lambda: nn.Dequantize()(torch.tensor([[0.5]])), "x must hold whole numbers, got fractions; multiply images"),
        (lambda: nn.Dequantize()(torch.tensor([[256]])), r"values in \[0, 255\], got values from 256 to 256"),
        (lambda: nn.Dequantize()(torch.tensor([[-1]])), "got values from -1"),
        (lambda: nn.Dequantize()(torch.tensor([[math.nan]])), "got values from nan .* check the data for NaN"),
        (lambda: nn.Logit(0.5), r"alpha must be in \[0, 0.5\), got 0.5"),
        (lambda: nn.Logit(math.nan), "got nan"),
        (lambda: nn.Logit()(torch.tensor([[1.5]])), r"x must have values in \[0, 1\], got values from 1.5"),
        (lambda: nn.Affine(0.0), "scale must be finite and not zero, got 0.0"),
        (lambda: nn.Affine(1.0, math.inf), "shift must be finite, got inf"),
        (lambda: nn.Affine(torch.ones(3))(torch.ones(2, 4)), r"the scale of shape \(3,\) broadcasts to"),
        (lambda: nn.Affine(torch.ones(2, 3)).inverse(torch.ones(2, 3)), "z must have events that the scale"),
        (lambda: nn.Affine.standardize(torch.ones(0, 3)), "data must have shape"),
        (lambda: nn.Affine.standardize(torch.tensor([[math.nan], [1.0]])), "data must be finite"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
