"""What the examples of chains and of odd rows compute with, against what is known."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Normal

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def module(monkeypatch, one_thread):
    """Import a module of examples/ by name, as its scripts do."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.mark.parametrize("rho", [-0.3, 0.0, 0.5, 0.9])
def test_effective_samples_of_an_autoregression(module, rho):
    n, m, generator = 2000, 32, np.random.default_rng(0)
    x = generator.standard_normal((n, m))
    for t in range(1, n):
        x[t] = rho * x[t - 1] + math.sqrt(1.0 - rho**2) * x[t]
    # A sum over W lags of estimated autocorrelations has a relative variance of about 2 (2 W + 1) / (n m), and the sum
    # ends where they drown in noise, by W = 12 or 60: five standard errors.
    lags = 60 if rho == 0.9 else 12
    tolerance = 5.0 * math.sqrt(2.0 * (2.0 * lags + 1.0) / (n * m))
    found = module("_mcmc").effective_samples(x)
    assert found == pytest.approx(n * m * (1.0 - rho) / (1.0 + rho), rel=tolerance)


def test_chains_that_never_meet_are_worth_little(module):
    x = np.random.default_rng(0).standard_normal((500, 4)) + 10.0 * np.arange(4)
    assert module("_mcmc").effective_samples(x) < 10.0
    assert module("_mcmc").effective_samples(np.ones((500, 4))) == 1.0


@pytest.mark.parametrize("noise", [0.0, 0.15])  # the variance of the weights is finite below 0.25
def test_a_chain_with_noise_samples_the_law_that_is_said(module, noise):
    """Errors of log q with the variance noise * x^2 turn the target N(0, 1) into N(0, 1 / (1 - noise))."""
    mcmc, shape = module("_mcmc"), (2000, 64)
    torch.manual_seed(0)
    x = 1.5 * torch.randn(shape, dtype=torch.float64)
    weights = Normal(0.0, 1.0).log_prob(x) - Normal(0.0, 1.5).log_prob(x) - noise**0.5 * x * torch.randn_like(x)
    held, acceptance = mcmc.independence_chain(weights, np.random.default_rng(0))
    values = np.take_along_axis(x.square().numpy(), held, 0)[200:]
    error = values.std() / math.sqrt(mcmc.effective_samples(values))
    variance = 1.0 / (1.0 - noise)
    assert abs(values.mean() - variance) < 5.0 * error < 0.05
    assert 0.5 < acceptance < 0.9
    target = torch.randn(200_000, dtype=torch.float64)
    errors = noise**0.5 * target * torch.randn_like(target)
    shift, uncertain = mcmc.shift_by_noise(target.square()[:, None], errors)
    assert abs(shift[0] - (variance - 1.0)) <= 5.0 * uncertain[0] < 0.05


def test_targets_are_what_they_say(module):
    torch.manual_seed(0)
    banana, funnel = module("_targets").TARGETS.values()
    for target in (banana, funnel):
        values = target.functions(target.draw(200_000)).double()
        truths = torch.tensor(list(target.truths.values()), dtype=torch.float64)
        errors = values.std(0) / math.sqrt(len(values))
        assert ((values.mean(0) - truths).abs() < 5.0 * errors).all()
    x = banana.draw(10)
    expected = Normal(0.0, 1.0).log_prob(x[:, 0]) + Normal(x[:, 0].square() - 1.0, 0.5).log_prob(x[:, 1])
    torch.testing.assert_close(banana.log_prob(x), expected)
    x = funnel.draw(10)
    scale = (0.5 * x[:, :1]).exp()
    expected = Normal(0.0, 1.0).log_prob(x[:, 0]) + Normal(0.0, scale).log_prob(x[:, 1:]).sum(1)
    torch.testing.assert_close(funnel.log_prob(x), expected)


def test_a_flow_keeps_its_density_with_another_estimator(module):
    """Drawn by inversion, weighed by log_prob: the density of a sample is that of its latent over the stretch."""
    proposals = module("_proposals")
    flow = proposals.IResNetFlow(proposals.FlowConfig(event_shape=(3,), blocks=(2,), hidden=(8,), prior="standard"))
    torch.manual_seed(0)
    flow.initialize(torch.randn(100, 3))
    proposal = proposals.of_flow(flow.eval(), proposals.Exact())
    x, seconds = proposals.drawn(proposal, 50)
    assert x.shape == (50, 3)
    assert seconds > 0.0
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: flow.transform_to_noise(one[None])[0]))(x)
    expected = Normal(0.0, 1.0).log_prob(flow.transform_to_noise(x)).sum(1) + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(proposals.log_density(proposal, x), expected.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["breast cancer", "wine", "digits"])
def test_splits_share_no_row_and_are_scaled_by_what_is_trained_on(module, name):
    one = module("_tables").split(name, 0)
    np.testing.assert_allclose(one.train.mean(0), 0.0, atol=1e-9)
    np.testing.assert_allclose(one.train.std(0), 1.0, rtol=1e-9)
    n = len(one.train) + np.count_nonzero(~one.odd)
    assert len(one.train) == 3 * n // 5
    assert n + np.count_nonzero(one.odd) == {"breast cancer": 569, "wine": 178, "digits": 1797}[name]
    distances = np.abs(one.test[:, None, :5] - one.train[None, :, :5]).max(2)
    assert (distances.min(1) > 0.0).mean() > 0.99
