"""IResNetFlow: round trips, densities that integrate to one, samples with their densities."""

import math

import pytest
import torch
from models_examples import FLOWS, TIGHT, inverse_error, make_data, make_flow, unused

from iresnet_fast import nn
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette
from iresnet_fast.models import FlowConfig, IResNetFlow, ResidualFlow

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. Block runs"),
]
CONTINUOUS = [name for name in FLOWS if name != "digits"]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_round_trips(name):
    flow = make_flow(name).eval()
    x, context = make_data(flow)
    z, logdet = flow(x, context)
    assert z.shape == (5, flow.prior.n_dims) == (5, *flow.output_shape(flow.config.event_shape))
    assert logdet.shape == (5,)
    back, inverse_logdet = flow.inverse(z, context)
    bound = inverse_error(flow)
    assert bound < 1e-5
    torch.testing.assert_close(back, x, atol=bound, rtol=0.0)
    torch.testing.assert_close(inverse_logdet, -logdet, atol=1e-5, rtol=0.0)
    noise = torch.randn_like(z)
    again, _ = flow(flow.inverse(noise, context)[0], context)
    if name == "padded":
        assert again.shape == noise.shape  # the noise that was dropped is drawn again
    else:
        torch.testing.assert_close(again, noise, atol=1e3 * bound, rtol=0.0)


@pytest.mark.parametrize("name", list(FLOWS))
def test_reconstruction_says_how_exact_it_is(name):
    flow = make_flow(name).eval()
    x, context = make_data(flow)
    result = flow.reconstruct(x, context)
    assert bool((result.block_error <= TIGHT.tol).all())
    assert bool((result.iterations > 0).all())
    bound = inverse_error(flow)
    assert bool((result.error <= bound).all())
    torch.testing.assert_close(result.x.to(x.dtype), x, atol=bound, rtol=0.0)
    torch.testing.assert_close(result.z, flow.transform_to_noise(x, context))
    assert not result.x.requires_grad


@pytest.mark.parametrize("estimator", [Exact(), PowerSeries(n_terms=60, n_probes=1)])
@pytest.mark.parametrize("branch", ["residual", "dense", "induced"])
def test_density_integrates_to_one(branch, estimator):
    """To 1 %; a series of 60 terms has only the variance of its probe, and Rademacher is exact for one dimension."""
    torch.manual_seed(1)
    d = 2 if isinstance(estimator, Exact) else 1
    config = FlowConfig((d,), blocks=(3,), hidden=(8, 8), branch=branch, growth=4, eval_estimator=estimator)
    flow = IResNetFlow(config).double()
    flow.initialize(torch.randn(64, d, dtype=torch.float64) * 0.8 + 0.3)
    flow.eval()
    n = 120 if d == 2 else 2000
    grid = torch.linspace(-7.0, 7.0, n, dtype=torch.float64)
    points = torch.cartesian_prod(*[grid] * d).view(-1, d)
    with torch.no_grad():
        mass = flow.log_prob(points).exp().sum() * float(grid[1] - grid[0]) ** d
    assert abs(float(mass) - 1.0) < 0.01


def test_density_given_a_context_integrates_to_one():
    torch.manual_seed(1)
    flow = IResNetFlow(FlowConfig((2,), blocks=(2,), hidden=(8, 8), context_features=1)).double()
    flow.initialize(torch.randn(64, 2, dtype=torch.float64), torch.randn(64, 1, dtype=torch.float64))
    flow.eval()
    grid = torch.linspace(-7.0, 7.0, 100, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    masses, densities = [], []
    for value in (-1.0, 2.0):
        with torch.no_grad():
            density = flow.log_prob(points, torch.full((len(points), 1), value, dtype=torch.float64)).exp()
        densities.append(density)
        masses.append(float(density.sum()) * float(grid[1] - grid[0]) ** 2)
    assert masses == pytest.approx([1.0, 1.0], abs=0.01)
    assert not torch.allclose(densities[0], densities[1], atol=1e-3)


@pytest.mark.parametrize("name", [name for name in CONTINUOUS if name != "padded"])
def test_samples_come_with_their_density(name):
    flow = make_flow(name).eval()
    context = make_data(flow, 4)[1]
    x, log_prob = flow.sample_and_log_prob(4, context)
    assert x.shape == (4, *flow.config.event_shape)
    torch.testing.assert_close(flow.log_prob(x, context), log_prob, atol=1e-5, rtol=0.0)
    gradients = torch.autograd.grad(log_prob.sum() + x.sum(), [p for p in flow.parameters() if p.numel() > 1])
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    one = None if context is None else context[0]
    assert flow.sample(3, one).shape == (3, *flow.config.event_shape)
    assert not flow.sample(3, one).requires_grad


def test_samples_of_integers_and_temperature():
    flow = make_flow("digits").eval()
    x = flow.sample(4)
    assert bool(((x == x.floor()) & (x >= 0) & (x <= 16)).all())
    torch.testing.assert_close(flow.sample(2, temperature=0.0)[0], flow.sample(1, temperature=0.0)[0])
    flow = make_flow("dense").eval()
    mean = flow.inverse(flow.prior.mean[None])[0].expand(3, -1)
    torch.testing.assert_close(flow.sample(3, temperature=0.0), mean, atol=1e-8, rtol=0.0)


def test_interpolation():
    flow = make_flow("image, factored out").eval()
    x, _ = make_data(flow, 4)
    path = flow.interpolate(x[:2], x[2:], 3)
    assert path.shape == (3, 2, 1, 8, 4)
    torch.testing.assert_close(path[0], x[:2], atol=1e-6, rtol=0.0)
    torch.testing.assert_close(path[-1], x[2:], atol=1e-6, rtol=0.0)
    middle = 0.5 * (flow.transform_to_noise(x[:2]) + flow.transform_to_noise(x[2:]))
    torch.testing.assert_close(flow.transform_to_noise(path[1]), middle, atol=1e-6, rtol=0.0)
    assert flow.interpolate(x[0], x[1], 4).shape == (4, 1, 8, 4)


def test_interpolation_at_a_context():
    flow = make_flow("context").eval()
    x, context = make_data(flow, 2)
    path = flow.interpolate(x[0], x[1], 3, context[0])
    torch.testing.assert_close(path[-1], x[1], atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("name", list(FLOWS))
def test_defect_24_every_parameter_gets_a_gradient(name):
    """In residual-flows the parameters of the roulette never do, which DDP reports as an error."""
    flow = make_flow(name)
    x, context = make_data(flow)
    assert unused(flow, -flow.log_prob(x, context).mean()) == []


@pytest.mark.parametrize("name", list(FLOWS))
def test_defect_21_evaluation_is_deterministic(name):
    flow = make_flow(name).eval()
    x, context = make_data(flow)
    assert torch.equal(flow.log_prob(x, context), flow.log_prob(x, context))


@pytest.mark.parametrize("name", list(FLOWS))
def test_defect_22_a_batch_of_one(name):
    flow = make_flow(name)
    x, context = make_data(flow, 1)
    for mode in (True, False):
        flow.train(mode)
        assert flow.log_prob(x, context).shape == (1,)
        assert flow.reconstruct(x, context).error.shape == (1,)


def test_defect_30_bits_per_dim_of_an_image_of_one_channel():
    """The original copies MNIST to three channels with independent noise and divides by all of them."""
    flow = IResNetFlow.preset("mnist", blocks=(0, 0), prior="standard").eval()
    x = torch.randint(0, 256, (3, 1, 28, 28))
    assert flow.config.event_shape == (1, 28, 28)
    u, logdet = flow.preprocessing(x.float())
    expected = (0.5 * (u.square() + math.log(2.0 * math.pi))).flatten(1).sum(1) - logdet
    torch.testing.assert_close(flow.bits_per_dim(x), expected / (784 * math.log(2.0)))
    uniform = IResNetFlow(FlowConfig((1, 4, 4), blocks=(0,), n_levels=256, noise_channels=3)).eval()
    assert uniform.prior.n_dims == 64
    x = torch.full((2, 1, 4, 4), 255)
    u, logdet = uniform.preprocessing(x.float())
    log_prob = uniform.prior.log_prob(u.flatten(1)) + logdet
    torch.testing.assert_close(uniform.bits_per_dim(x), -log_prob / (16 * math.log(2.0)))


def test_bits_of_data_dequantised_elsewhere():
    inside = IResNetFlow(FlowConfig((3,), blocks=(1,), n_levels=8)).double().eval()
    outside = IResNetFlow(FlowConfig((3,), blocks=(1,))).double().eval()
    outside.load_state_dict(inside.state_dict())
    x = torch.randint(0, 8, (5, 3)).double()
    u, _ = inside.preprocessing(x)
    for flow in (inside, outside):
        for layer in flow.body:
            if isinstance(layer, nn.ActNorm):
                layer.initialized.fill_(True)
    torch.testing.assert_close(outside.bits_per_dim(u, n_levels=8), inside.bits_per_dim(x))


def test_estimators_follow_the_mode():
    flow = ResidualFlow.preset("toy", blocks=(2,), hidden=(8,))
    flow.initialize(torch.randn(16, 2))
    block = flow.body[1]
    assert isinstance(block.estimator, RussianRoulette)
    assert isinstance(flow.eval().body[1].estimator, Exact)
    assert isinstance(flow.train().body[1].estimator, RussianRoulette)
    flow.body.eval()
    flow.sample(2)
    assert isinstance(block.estimator, Exact)  # as it was, though no log-determinant was computed
    small = IResNetFlow(FlowConfig((40,), blocks=(1,))).body[1]
    assert (small.train_estimator, small.eval_estimator) == (PowerSeries(n_terms=10), Exact())
    large = IResNetFlow(FlowConfig((65,), blocks=(1,))).body[1]
    assert large.eval_estimator == PowerSeries(n_terms=20)


def test_truncation_bound_holds():
    torch.manual_seed(0)
    config = FlowConfig((2,), blocks=(1,), hidden=(8,), coeff=0.95, eval_estimator=PowerSeries(2, n_probes=2000))
    flow = IResNetFlow(config).double()
    with torch.no_grad():
        for parameter in flow.body[1].parameters():
            parameter.mul_(4.0)
    x = torch.randn(20, 2, dtype=torch.float64)
    flow.initialize(x)
    flow.eval()
    lipschitz = 0.95**2
    bound = -math.log1p(-lipschitz) - lipschitz - lipschitz**2 / 2
    assert flow.truncation_bound() == pytest.approx(bound / math.log(2.0))
    off = flow.bits_per_dim(x)
    flow.body[1].estimator = Exact()
    assert flow.truncation_bound() == 0.0
    off = off - flow.bits_per_dim(x)
    assert 1e-3 < float(off.detach().mean().abs()) <= bound / math.log(2.0)
    assert make_flow("dense").truncation_bound() == 0.0
