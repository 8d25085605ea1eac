"""NoisePad: an honest lower bound, and noise that can be repeated."""

import math

import pytest
import torch

from iresnet_fast import nn

pytestmark = pytest.mark.usefixtures("one_thread")
NOISES = ["gaussian", "uniform"]


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 3), (5, 3, 2, 4)])
def test_there_and_back(noise, shape):
    pad, x = nn.NoisePad(2, noise), torch.randn(shape)
    z, logdet = pad(x)
    assert z.shape == (shape[0], 5, *shape[2:]) == (shape[0], *pad.output_shape(shape[1:]))
    back, inverse_logdet = pad.inverse(z)
    assert torch.equal(back, x)
    assert torch.equal(inverse_logdet, -logdet)
    u = z[:, 3:].flatten(1)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum(1)
    torch.testing.assert_close(-logdet, normal if noise == "gaussian" else torch.zeros(shape[0]))


@pytest.mark.parametrize("noise", NOISES)
def test_noise(noise):
    pad, x = nn.NoisePad(100, noise), torch.randn(100, 1)
    mean, variance = (0.0, 1.0) if noise == "gaussian" else (0.5, 1 / 12)
    for mode in (True, False):
        u = pad.train(mode)(x)[0][:, 1:]
        assert float(u.mean()) == pytest.approx(mean, abs=0.05)  # 10,000 numbers: five standard errors
        assert float(u.var()) == pytest.approx(variance, abs=0.08)
    assert torch.equal(pad(x)[0], pad(x)[0])
    pad.eval_noise = "random"
    assert not torch.equal(pad(x)[0], pad(x)[0])
    own = nn.NoisePad(4, noise, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(5)
    assert torch.equal(nn.NoisePad(4, noise)(x)[0], own(x)[0])


def test_the_bound_is_tight_for_a_model_that_knows_the_noise():
    pad, x = nn.NoisePad(3), torch.randn(7, 2)
    z, logdet = pad(x)
    log_prob = -0.5 * (z.square() + math.log(2.0 * math.pi)).sum(1) + logdet
    torch.testing.assert_close(log_prob, -0.5 * (x.square() + math.log(2.0 * math.pi)).sum(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.NoisePad(-1), "n_channels must be at least 0"),
        (lambda: nn.NoisePad(1, "laplace"), "noise must be 'gaussian' or 'uniform', got 'laplace'"),
        (lambda: nn.NoisePad(1, eval_noise="half"), "eval_noise must be 'fixed' or 'random', got 'half'"),
        (lambda: nn.NoisePad(1)(torch.ones(2)), r"x must have shape \[B, \*event\]"),
        (lambda: nn.NoisePad(3).inverse(torch.ones(2, 3)), "more than 3 channels"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
