"""Imputation: draws whose distribution is known, of a normal density and of one with two modes; what is reported."""

import importlib
import math

import pytest
import torch
from gaussian_runs import conditional_of, gaussian_flow, normal_of
from torch import nn

from iresnet_fast.models import FlowConfig, IResNetFlow
from iresnet_fast.training._chains import CHAINS, Chains
from iresnet_fast.training._gaussian import conditional
from iresnet_fast.training.impute import impute

pytestmark = pytest.mark.usefixtures("one_thread")

NAN = math.nan

sampler = importlib.import_module("iresnet_fast.training.impute")  # the package has the function of that name


def correlated(n=4000, seed=0):
    """Three columns of very different sizes that depend on each other."""
    noise = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    mixing = torch.tensor([[1.0, 0.0, 0.0], [8.0, 6.0, 0.0], [-50.0, 50.0, 70.0]])
    return noise @ mixing.T + torch.tensor([5.0, 0.0, 1000.0])


@pytest.mark.parametrize("missing", [[False, True, True], [True, False, False], [True, True, True]])
def test_draws_of_a_normal_density(missing):
    flow, missing, n = gaussian_flow(correlated()), torch.tensor(missing), 2000
    row = torch.tensor([6.0, 4.0, 950.0])
    x = torch.where(missing, NAN, row).repeat(n, 1)
    found = impute(flow, x, steps=200)
    mean, covariance = normal_of(correlated())
    mean, covariance = conditional_of(mean, covariance, row, missing)
    drawn = found.x[0][:, missing].double()
    # One draw of each of n rows, all independent: five standard errors of a mean and of a covariance, which are
    # sqrt(s_ii / n) and sqrt((s_ii s_jj + s_ij^2) / n) for normal numbers.
    variances = covariance.diag()
    assert ((drawn.mean(0) - mean).abs() < 5.0 * (variances / n).sqrt()).all()
    allowed = 5.0 * ((variances[:, None] * variances + covariance.square()) / n).sqrt()
    assert ((torch.cov(drawn.T).reshape(covariance.shape) - covariance).abs() < allowed).all()
    assert torch.equal(found.x[0][:, ~missing], x[:, ~missing])
    assert found.converged
    assert torch.equal(found.r_hat.isnan(), ~missing.expand(n, 3))


def test_rows_with_other_entries_missing_each_and_several_draws():
    flow = gaussian_flow(correlated())
    x = correlated(40, 1)
    x[::4, 0], x[1::4, 1:], x[2::4] = NAN, NAN, NAN
    found = impute(flow, x, draws=9, steps=100, seed=3)
    assert found.x.shape == (9, 40, 3)
    assert torch.equal(found.missing, x.isnan())
    assert found.x.isfinite().all()
    for drawn in found.x:
        assert torch.equal(drawn[~x.isnan()], x[~x.isnan()])
    apart = found.x.flatten(0, 1).view(9, 40, 3)
    assert all((apart[i] != apart[j])[x.isnan()].double().mean() > 0.9 for i in range(9) for j in range(i))
    assert torch.equal(found.acceptance.isnan(), ~x.isnan().any(1))
    again = impute(flow, x, draws=9, steps=100, seed=3)
    assert torch.equal(again.x, found.x)
    assert not torch.equal(impute(flow, x, draws=9, steps=100, seed=4).x, found.x)


def test_nothing_missing_and_the_generator_of_torch():
    flow, x = gaussian_flow(correlated()), correlated(5, 1)
    state = torch.get_rng_state()
    found = impute(flow, x, draws=2)
    assert torch.equal(found.x, x.expand(2, 5, 3))
    assert found.n_doubtful == 0
    x[0, 0] = NAN
    impute(flow, x, steps=8)
    assert torch.equal(torch.get_rng_state(), state)


class Crossing(nn.Module):
    """A flow of a made-up density: y = +-(1 + x) + noise, with two branches of the weights 0.8 and 0.2."""

    spread = 0.15

    def log_prob(self, x):
        noise = torch.distributions.Normal(0.0, self.spread)
        up = math.log(0.8) + noise.log_prob(x[:, 1] - 1.0 - x[:, 0])
        down = math.log(0.2) + noise.log_prob(x[:, 1] + 1.0 + x[:, 0])
        return torch.distributions.Normal(1.0, 0.3).log_prob(x[:, 0]) + torch.logaddexp(up, down)

    def sample(self, n):
        generator = torch.Generator().manual_seed(0)
        x = 1.0 + 0.3 * torch.randn(n, generator=generator)
        side = torch.where(torch.rand(n, generator=generator) < 0.8, 1.0, -1.0)
        return torch.stack((x, side * (1.0 + x) + self.spread * torch.randn(n, generator=generator)), 1)


def test_two_modes(monkeypatch):
    # The sampler sees log_prob and samples alone, so a density that can be drawn from by rejection stands in.
    true, n = Crossing(), 2000
    flow = gaussian_flow(true.sample(4000))
    monkeypatch.setattr(IResNetFlow, "log_prob", lambda self, x, context=None: true.log_prob(x))
    monkeypatch.setattr(sampler, "samples_at", lambda flow, n, *_, **__: true.sample(n))
    found = impute(flow, torch.tensor([[1.2, NAN]]).repeat(n, 1), steps=400).x[0][:, 1].double()
    # By rejection: samples of the joint density next to x = 1.2.
    samples = true.sample(400_000).double()
    kept = samples[(samples[:, 0] - 1.2).abs() < 0.02][:, 1]
    assert len(kept) > 5000
    for share in (lambda y: y > 0.0, lambda y: y > 2.2, lambda y: y > -2.2):
        p, q = (float(share(values).double().mean()) for values in (found, kept))
        # Five standard errors of the difference of two shares of independent draws.
        assert abs(p - q) < 5.0 * math.sqrt(p * (1.0 - p) / n + q * (1.0 - q) / len(kept))
    assert abs(float(found.sign().mean()) - 0.6) < 5.0 * math.sqrt(0.64 / n)


def test_whole_numbers():
    # Column 0 holds whole numbers, of which the model sees y = x + noise: p(x | x_1) is its density over a cell.
    values = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) @ torch.tensor([[1.5, 1.2], [0.0, 0.5]])
    values[:, 0] = values[:, 0].round()
    flow, n = gaussian_flow(values, dequantize=(1.0, 0.0)), 2000
    found = impute(flow, torch.tensor([[NAN, 1.0]]).repeat(n, 1), steps=200).x[0][:, 0]
    assert torch.equal(found, found.round())
    mean, covariance = normal_of(values)
    covariance[0, 0] += 1.0 / 12.0  # the variance of the noise
    centre, spread = conditional_of(mean, covariance, torch.tensor([0.0, 1.0]), torch.tensor([True, False]))
    normal = torch.distributions.Normal(centre, spread[0].sqrt())
    for k in range(-1, 4):
        expected = float(normal.cdf(torch.tensor(k + 0.5)) - normal.cdf(torch.tensor(k - 0.5)))
        assert abs(float((found == k).double().mean()) - expected) < 5.0 * math.sqrt(expected * (1.0 - expected) / n)
    # An observed whole number is known to half a step only: its noise is drawn too, and it comes out as it was.
    back = impute(flow, torch.tensor([[2.0, NAN]]).repeat(n, 1), steps=200).x[0]
    assert (back[:, 0] == 2.0).all()
    noise = torch.randn(400_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    joint = mean + noise @ torch.linalg.cholesky(covariance).T
    kept, drawn = joint[(joint[:, 0] - 2.0).abs() < 0.5][:, 1], back[:, 1].double()
    error = math.sqrt(float(drawn.var()) / n + float(kept.var()) / len(kept))
    assert abs(float(drawn.mean() - kept.mean())) < 5.0 * error
    # The variance of a sample one has a standard error of sqrt(2 / n) for normal numbers, as these nearly are.
    assert abs(float(drawn.var() / kept.var()) - 1.0) < 5.0 * math.sqrt(2.0 / n + 2.0 / len(kept))
    assert flow.preprocessing[0].eval_noise == "fixed"  # as it was


def test_a_context_is_what_is_given():
    context = torch.linspace(-1.0, 1.0, 4000)[:, None]
    config = FlowConfig((2,), blocks=(1,), hidden=(8, 8), prior="conditional", context_features=1, actnorm=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = IResNetFlow(config).eval()
        with torch.no_grad():
            for parameter in flow.body.parameters():
                parameter.mul_(0.1)  # nearly the prior, which has a mean that depends on the context
    found = impute(flow, torch.full((4000, 2), NAN), context, steps=100).x[0].double()
    samples = flow.sample(4000, context, seed=1).double()
    moments = [torch.cat((x, x.square(), x * context), 1) for x in (found, samples)]
    error = sum(values.var(0) / 4000 for values in moments).sqrt()
    assert ((moments[0].mean(0) - moments[1].mean(0)).abs() < 5.0 * error).all()


def test_chains_that_do_not_agree_are_doubted(monkeypatch):
    # Two modes that no proposal joins: which one a chain ends in is decided where it begins.
    flow = gaussian_flow(correlated())
    far = torch.tensor([0.0, 1e4])

    def log_prob(self, x, context=None):
        return -0.5 * (x[:, 2:] - far).square().amin(1)

    monkeypatch.setattr(IResNetFlow, "log_prob", log_prob)
    monkeypatch.setattr(
        Chains,
        "_first",
        lambda chains: (
            chains._normal.mean.repeat(CHAINS, 1, 1) * torch.tensor([1.0, 1.0, 0.0])
            + torch.tensor([0.0, 1e4, 0.0, 1e4]).double()[:, None, None] * torch.tensor([0.0, 0.0, 1.0]),
            torch.zeros(CHAINS, 1, dtype=torch.float64),
        ),
    )
    found = impute(flow, torch.tensor([[5.0, 0.0, NAN]]), steps=50)
    assert (found.n_doubtful, found.converged) == (1, False)


def test_the_conditional_normal_distribution():
    samples = correlated().double()
    mean, covariance = samples.mean(0), torch.cov(samples.T)
    missing = torch.tensor([[False, True, True], [True, False, True], [False, False, False]])
    rows = correlated(3, 1).double()
    found = conditional(rows, missing, samples, torch.zeros(3, 0).double(), torch.zeros(4000, 0).double())
    for row, gone, centre, factor in zip(rows, missing, found.mean, found.factor, strict=True):
        assert torch.equal(centre[~gone], row[~gone])
        assert (factor[~gone] == 0.0).all()
        if gone.any():
            expected, spread = conditional_of(mean, covariance, row, gone)
            # The correlations have 1e-6 added to their diagonal; their condition number is below 100.
            torch.testing.assert_close(centre[gone], expected, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close((factor @ factor.T)[gone][:, gone], spread, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.full((2, 3), math.inf)}, "x must be finite or NaN, got 6 infinite entries; replace them"),
        ({"x": torch.zeros(2, 4)}, "x must"),
        ({"context": torch.zeros(2, 1)}, "context must be None for this model"),
        ({"draws": 17, "steps": 8}, "draws must be at most 16, the steps that the chains keep, got 17; lower it or"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"steps": 7}, "steps must be at least 8, got 7"),
    ],
)
def test_errors(change, message):
    arguments = {"x": torch.full((2, 3), NAN), **change}
    with pytest.raises(ValueError, match=message):
        impute(gaussian_flow(correlated()), **arguments)


def test_models_that_cannot_impute():
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(TypeError, match="model must be an IResNetFlow, got"):
        impute(nn.Linear(2, 2), x)
    with pytest.raises(ValueError, match="model must be a flow of vectors without n_levels and noise_channels, got"):
        impute(IResNetFlow.preset("digits", blocks=(1,)), x)
    logit = IResNetFlow(FlowConfig((2,), blocks=(1,), preprocess="logit"))
    with pytest.raises(ValueError, match="preprocess of the model must not be 'logit'"):
        impute(logit, torch.zeros(2, 2))
