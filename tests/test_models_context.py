"""Densities given a context, with everything that can depend on it: branches, ActNorms, prior, and its own scaling."""

import math

import pytest
import torch

from iresnet_fast.models import DiagonalNormal, FlowConfig, IResNetFlow
from iresnet_fast.solvers import FixedPoint

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"blocks": (3,), "hidden": (16, 16), "context_features": 2, "context_hidden": 8, "solver": FixedPoint(tol=1e-6)}
OPTIONS = {
    "add": {},
    "concat": {"context_mode": "concat"},
    "multiply": {"context_mode": "multiply"},
    "actnorm": {"conditional_actnorm": True},
    "final actnorm": {"conditional_actnorm": True, "actnorm": False, "final_actnorm": True},
    "prior": {"prior": "conditional"},
    "standardized": {"context_preprocess": "standardize"},
    "all": {"conditional_actnorm": True, "prior": "conditional", "context_preprocess": "standardize"},
}
every_option = pytest.mark.parametrize("name", OPTIONS)


def draw(n):
    """Points around a middle on the unit circle, and the context that says which, in units of its own."""
    angle = 2.0 * math.pi * torch.rand(n, dtype=torch.float64)
    middle = torch.stack((angle.cos(), angle.sin()), 1)
    return middle + 0.3 * torch.randn(n, 2, dtype=torch.float64), 5.0 + 2.0 * middle


def trained(name, steps=40):
    """A flow that has seen some batches, in eval mode."""
    torch.manual_seed(0)
    flow = IResNetFlow(FlowConfig((2,), **SMALL, **OPTIONS[name])).double()
    x, context = draw(200)
    if flow.standardizes:
        flow.fit_preprocessing(x, context)
    flow.initialize(x, context)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(steps):
        x, context = draw(200)
        optimizer.zero_grad()
        (-flow.log_prob(x, context).mean()).backward()
        optimizer.step()
    return flow.eval()


@every_option
def test_it_integrates_to_one_at_each_context(name):
    flow = trained(name)
    edge = torch.linspace(-5.0, 5.0, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(edge, edge)
    cell = float(edge[1] - edge[0]) ** 2
    means = []
    for at in torch.tensor([[7.0, 5.0], [5.0, 3.0]], dtype=torch.float64):
        with torch.no_grad():
            log_prob = flow.log_prob(grid, at.expand(len(grid), -1))
            x, stated = flow.sample_and_log_prob(1000, at)
            expected = flow.log_prob(x, at.expand(1000, -1))
        mass = log_prob.exp() * cell
        assert float(mass.sum()) == pytest.approx(1.0, abs=0.01)
        # x is off by the solver's 1e-6 for each of three blocks, some ten times that in all, and the slope of log p is
        # tens.
        torch.testing.assert_close(stated, expected, atol=1e-3, rtol=0.0)
        mean = (grid * mass[:, None]).sum(0)
        deviation = ((grid - mean).square() * mass[:, None]).sum(0).sqrt()
        # Five standard errors, and the 1 % of the grid, whose points are 5 away at most.
        assert bool(((x.mean(0) - mean).abs() < 5.0 * deviation / 1000**0.5 + 0.05).all())
        means.append(mean)
    # The middles are (1, 0) and (0, -1), a distance of 1.41.
    assert float((means[0] - means[1]).norm()) > 0.7


@every_option
def test_samples_are_functions_of_seed_number_and_context(name):
    flow, contexts = trained(name, 5), draw(9)[1]
    x = flow.sample(9, contexts, seed=4)
    parts = [flow.sample(4, contexts[:4], seed=4), flow.sample(5, contexts[4:], seed=4, first=4)]
    close = {"atol": 1e-4, "rtol": 0.0}  # each within the solver's 1e-6 for each block
    torch.testing.assert_close(torch.cat(parts), x, **close)
    torch.testing.assert_close(flow.sample(2, contexts[0], seed=4)[0], x[0], **close)
    assert float((flow.sample(9, contexts.flip(0), seed=4) - x).abs().max()) > 1e-2


@every_option
def test_there_and_back(name):
    flow, (x, context) = trained(name, 5), draw(6)
    close = {"atol": 1e-4, "rtol": 0.0}  # the solver's 1e-6 for each block
    with torch.no_grad():
        z, logdet = flow(x, context)
        back, inverse_logdet = flow.inverse(z, context)
        assert torch.equal(flow.log_prob(x, context), flow.latent_log_prob(z, context) + logdet)
    torch.testing.assert_close(back, x, **close)
    torch.testing.assert_close(inverse_logdet, -logdet, atol=1e-3, rtol=0.0)
    torch.testing.assert_close(flow.reconstruct(x, context).x, x, **close)
    line = flow.interpolate(x, x.flip(0), 3, context)
    torch.testing.assert_close(line[0], x, **close)
    torch.testing.assert_close(line[2], x.flip(0), **close)


def test_scaling_is_part_of_the_model():
    """The same contexts in other units give the same densities."""
    flow, (x, context) = trained("standardized", 5), draw(300)
    flow.fit_preprocessing(x, context)
    scaled = 1000.0 * context + torch.tensor([3.0, -7.0], dtype=torch.float64)
    other = IResNetFlow(flow.config).double().eval()
    other.load_state_dict(flow.state_dict())
    other.fit_preprocessing(x, scaled)
    torch.testing.assert_close(other.log_prob(x, scaled), flow.log_prob(x, context))
    torch.testing.assert_close(other.sample(2, scaled[0], seed=1), flow.sample(2, context[0], seed=1))
    plain = trained("add", 1)
    own = {"context_preprocessing.scale", "context_preprocessing.shift"}
    assert set(flow.state_dict()) - set(plain.state_dict()) == own
    with pytest.raises(ValueError, match=r"context must have shape \(300, 2\), got None"):
        flow.fit_preprocessing(x)
    with pytest.raises(ValueError, match="preprocess must be 'standardize' or 'whiten' to take statistics, got 'none'"):
        plain.fit_preprocessing(x, context)


def test_a_batch_of_distributions():
    flow, context = trained("all", 5), draw(4)[1].view(2, 2, 2)
    distribution = flow.as_distribution(context)
    assert (distribution.batch_shape, distribution.event_shape) == ((2, 2), (2,))
    x = distribution.sample((3,))
    assert x.shape == (3, 2, 2, 2)
    found = distribution.log_prob(x)
    assert found.shape == (3, 2, 2)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        torch.testing.assert_close(found[:, i, j], flow.as_distribution(context[i, j]).log_prob(x[:, i, j]))
    assert distribution.log_prob(x[0, 0, 0]).shape == (2, 2)
    assert distribution.rsample().requires_grad
    assert repr(distribution) == "FlowDistribution(batch_shape=(2, 2), event_shape=(2,))"


def test_the_prior_by_itself():
    torch.manual_seed(0)
    prior = DiagonalNormal(3, dtype=torch.float64, context_features=2, context_hidden=4)
    z, context = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    plain = DiagonalNormal(3, dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(z, context), plain.log_prob(z))
    torch.nn.init.normal_(prior.network.second.weight)
    shift, log_scale = prior.network(context, 5, "prior")
    normal = torch.distributions.Normal(prior.mean + shift, (prior.log_scale + log_scale).exp())
    torch.testing.assert_close(prior.log_prob(z, context), normal.log_prob(z).sum(1))
    noise = plain.sample(5, seed=1)
    torch.testing.assert_close(prior.sample(5, seed=1, context=context), normal.mean + normal.stddev * noise)
    assert "context_features=2" in repr(prior)
    with pytest.raises(ValueError, match="context must be given for a conditional prior, got None; pass one of shape"):
        prior.log_prob(z)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditional_actnorm": True}, "conditional_actnorm must be False without a context, got context_features = "),
        ({"prior": "conditional"}, "prior must not be 'conditional' without a context, got context_features = 0; set"),
        ({"context_preprocess": "standardize"}, "context_preprocess must be 'none' without a context, got"),
        ({"context_preprocess": "center", "context_features": 1}, "context_preprocess must be"),
        ({"context_mode": "divide", "context_features": 1}, "context_mode must be"),
        (
            {"conditional_actnorm": True, "actnorm": False, "context_features": 1},
            "conditional_actnorm must be False for a flow without an ActNorm, got True; set actnorm",
        ),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        FlowConfig((2,), **changes)


def test_a_configuration_of_an_earlier_version():
    config = FlowConfig((2,), context_features=3)
    newer = ("conditional_actnorm", "context_preprocess")
    assert FlowConfig.from_dict({key: value for key, value in config.to_dict().items() if key not in newer}) == config
