"""DequantizeSteps and Whiten, and the flow that begins as the Gaussian of its data."""

import math
import warnings

import numpy as np
import pytest
import torch

from iresnet_fast import nn
from iresnet_fast.models import FlowConfig, IResNetFlow

pytestmark = pytest.mark.usefixtures("one_thread")


def rows(n, d, seed=0, dtype=torch.float64):
    """Correlated rows, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix + 3.0).to(dtype)


def gaussian(x, noise=0.0):
    """The Gaussian of the largest likelihood, of rows that get independent noise of some variance."""
    covariance = torch.from_numpy(np.atleast_2d(np.cov(x.numpy().T, bias=True)))
    covariance += torch.as_tensor(noise, dtype=torch.float64).expand(x.shape[1]).diag()
    return torch.distributions.MultivariateNormal(x.mean(0), covariance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_steps_there_and_back(dtype):
    layer = nn.DequantizeSteps([1.0, 3.0])
    whole = torch.randint(-500, 500, (100_000, 2)) * torch.tensor([1, 3])
    z, logdet = layer(whole.to(dtype))
    assert z.dtype == (dtype if dtype.is_floating_point else torch.float32)
    assert torch.equal(layer.inverse(z)[0], whole.to(z.dtype))
    assert not logdet.any()
    noise = (z - whole) / torch.tensor([1.0, 3.0])
    assert float(noise.abs().max()) < 0.5 + 500 * torch.finfo(z.dtype).eps  # what rounding x + noise can add
    # Of 100,000 numbers, uniform: the standard error of the mean is 9e-4, that of the variance 2.4e-4.
    torch.testing.assert_close(noise.mean(0), torch.zeros(2, dtype=z.dtype), atol=5e-3, rtol=0.0)
    torch.testing.assert_close(noise.var(0), torch.full((2,), 1 / 12, dtype=z.dtype), atol=1.2e-3, rtol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_inverse_finds_values_that_the_dtype_can_hardly_tell_apart(dtype):
    layer = nn.DequantizeSteps([1.0])
    whole = torch.full((50_000, 1), 0.25 / torch.finfo(dtype).eps, dtype=dtype) + torch.arange(2)[:, None].repeat(
        25_000, 1
    ).to(dtype)
    assert torch.equal(layer.inverse(layer(whole)[0])[0], whole)


def test_continuous_entries_stay_to_the_bit():
    layer, x = nn.DequantizeSteps([0.0, 2.0, 0.0]), torch.randn(50, 3)
    x[:, 1] = 4.0
    for module in (layer.train(), layer.eval()):
        z = module(x)[0]
        assert torch.equal(z[:, ::2], x[:, ::2])
        assert (z[:, 1] != x[:, 1]).all()
        assert torch.equal(module.inverse(z)[0], x)


def test_noise_of_steps_in_evaluation():
    x = torch.randint(0, 256, (40, 10)).float()
    fixed = nn.DequantizeSteps([1.0] * 10).eval()
    z = fixed(x)[0]
    assert torch.equal(fixed(x)[0], z)
    assert torch.equal(fixed(x[7:9])[0], z[7:9])  # whatever the batch
    assert not torch.equal(nn.DequantizeSteps([1.0] * 10, eval_seed=1).eval()(x)[0], z)
    assert not torch.equal(fixed.train()(x)[0], fixed(x)[0])
    random = nn.DequantizeSteps([1.0] * 10, eval_noise="random").eval()
    assert not torch.equal(random(x)[0], random(x)[0])
    assert torch.equal(nn.DequantizeSteps([1.0] * 10, eval_noise="half").eval()(x)[0], x)
    own = nn.DequantizeSteps([1.0] * 10, generator=torch.Generator().manual_seed(5))
    first = own(x)[0]
    own.generator.manual_seed(5)
    assert torch.equal(own(x)[0], first)


@pytest.mark.parametrize(("n", "d"), [(2, 1), (400, 1), (9, 8), (400, 8)])
def test_whitened_rows_are_white(n, d):
    x = rows(n, d)
    layer = nn.Whiten.fit(x)
    z, logdet = layer(x)
    # A covariance matrix of n rows close to d has a condition number of some 1e6, of which float64 leaves 1e-10.
    torch.testing.assert_close(z.mean(0), torch.zeros(d, dtype=torch.float64), atol=1e-7, rtol=0.0)
    covariance = torch.from_numpy(np.atleast_2d(np.cov(z.numpy().T, bias=True)))
    torch.testing.assert_close(covariance, torch.eye(d, dtype=torch.float64), atol=1e-7, rtol=0.0)
    torch.testing.assert_close(layer.inverse(z)[0], x, atol=1e-9, rtol=0.0)
    torch.testing.assert_close(logdet[0], layer.matrix.diagonal().log().sum())


def test_digits_of_a_large_offset_are_kept():
    small = rows(500, 3, dtype=torch.float64)
    near, far = small.float(), (small * 64.0).round() / 64.0 + 65536.0  # exact in float32
    far32 = far.float()
    assert torch.equal(far32.double(), far)
    z = nn.Whiten.fit(far32)(far32)[0]
    expected = nn.Whiten.fit(far)(far)[0]
    # x - center is off by half a digit of the center, 2^-9, at most, in units of the smallest spread of the rows.
    smallest = float(torch.linalg.eigvalsh(torch.cov(small.T, correction=0))[0]) ** 0.5
    assert float((z.double() - expected).abs().max()) < 2.0 * math.sqrt(3.0) * 2.0**-9 / smallest
    scaled = nn.Affine.standardize(far32)
    torch.testing.assert_close(scaled.scale.double(), 1.0 / far.std(0, correction=0), rtol=1e-6, atol=0.0)
    assert near.dtype == torch.float32


def test_a_weight_counts_as_so_many_rows(monkeypatch):
    monkeypatch.setattr("iresnet_fast.nn._moments._ROWS", 7)  # in parts, also
    x, counts = rows(40, 3), torch.arange(40) % 4
    repeated, weights = x.repeat_interleave(counts, 0), counts.double()
    for fit in (nn.Whiten.fit, nn.Affine.standardize):
        once, again = fit(x, None, 0.1 * weights), fit(repeated)
        for name, buffer in again.named_buffers():
            torch.testing.assert_close(once.get_buffer(name), buffer, rtol=1e-10, atol=1e-12)
    for bad in (weights[1:], -weights, 0.0 * weights):
        with pytest.raises(ValueError, match="weights must"):
            nn.Whiten.fit(x, weights=bad)


@pytest.mark.parametrize("d", [3, 12])
def test_a_singular_covariance_gets_the_documented_ridge(d):
    x = rows(6, d)
    x = torch.cat((x, x[:, :1]), 1)  # and a column twice
    layer = nn.Whiten.fit(x)
    correlation = torch.from_numpy(np.corrcoef(x.numpy().T))
    scale = x.std(0, correction=0)
    inverse = layer.matrix * scale
    found = torch.linalg.inv(inverse) @ torch.linalg.inv(inverse).T
    # What the factor holds is the correlation matrix, 1e-9 and what rounding leaves of a zero eigenvalue beside it.
    torch.testing.assert_close(found, correlation + 1e-9 * torch.eye(d + 1, dtype=torch.float64), atol=1e-11, rtol=0.0)
    assert layer(x)[0].isfinite().all()


def test_constant_columns_keep_their_scale():
    x = rows(50, 3)
    x[:, 1] = 0.1
    for dtype in (torch.float32, torch.float64):
        layer = nn.Whiten.fit(x.to(dtype))
        assert torch.equal(layer.matrix[1], torch.tensor([0.0, 1.0, 0.0], dtype=dtype))
        assert not layer(x.to(dtype))[0][:, 1].abs().gt(1e-7).any()
    assert torch.equal(nn.Affine.standardize(torch.full((9, 2), 0.1)).scale, torch.ones(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.DequantizeSteps([1.0, -1.0]), "every number of steps must be finite and not negative, got -1.0"),
        (lambda: nn.DequantizeSteps([math.inf]), "every number of steps must be finite and not negative, got inf"),
        (lambda: nn.DequantizeSteps([]), "steps must hold one number at least"),
        (lambda: nn.DequantizeSteps([1.0], eval_noise="none"), "eval_noise must be one of 'fixed', 'random', 'half'"),
        (lambda: nn.DequantizeSteps([1.0])(torch.ones(2, 3)), r"x must have shape \[B, 1\], got \(2, 3\)"),
        (lambda: nn.Whiten(torch.zeros(2), torch.eye(3)), r"matrix must have shape \[d, d\]"),
        (lambda: nn.Whiten(torch.zeros(2), torch.ones(2, 2)), "matrix must be lower triangular"),
        (lambda: nn.Whiten(torch.zeros(2), -torch.eye(2)), "matrix must be lower triangular with a positive diagonal"),
        (lambda: nn.Whiten(torch.tensor([0.0, math.nan]), torch.eye(2)), "center must be finite"),
        (lambda: nn.Whiten.fit(torch.ones(0, 3)), "data must have shape"),
        (lambda: nn.Whiten.fit(torch.tensor([[math.nan], [1.0]])), "data must be finite"),
        (lambda: FlowConfig((1, 8, 8), preprocess="whiten"), r"preprocess must not be 'whiten' for events of shape"),
        (lambda: FlowConfig((2,), dequantize=(1.0,)), "dequantize must hold a number for each entry of vectors"),
        (lambda: FlowConfig((2,), dequantize=(1.0, -1.0)), "every number of dequantize must be finite and not neg"),
        (lambda: FlowConfig((2,), dequantize=(1.0, 0.0), n_levels=4), "dequantize must be left out for data of n_lev"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


BRANCHES = (
    {},
    {"branch": "dense"},
    {"branch": "induced"},
    {"normalize": "strict"},
    {"normalize": "branch"},
    {"preactivation": True, "activation": "lipswish", "fc_blocks": 1},
    {"linear": True, "prior": "standard"},
)


@pytest.mark.filterwarnings("ignore:iresnet_fast. Block runs a DenseBranch")
@pytest.mark.parametrize("options", BRANCHES, ids=str)
def test_an_untrained_flow_is_the_gaussian_of_its_rows(options):
    x = rows(300, 4)
    config = FlowConfig((4,), (2,), hidden=(8, 8), preprocess="whiten", zero_init=True, **options)
    flow = IResNetFlow(config).double()
    flow.fit_preprocessing(x)
    flow.initialize(x[:20])  # which knows less than the statistics of all rows
    torch.testing.assert_close(flow.eval().log_prob(x), gaussian(x).log_prob(x))
    back, _ = flow.inverse(flow(x)[0])
    torch.testing.assert_close(back, x)


def test_the_noise_of_whole_numbers_is_in_the_gaussian():
    x = (rows(300, 2) * 2.0).round()
    config = FlowConfig((2,), (2,), hidden=(8,), preprocess="whiten", zero_init=True, dequantize=(1.0, 1.0))
    flow = IResNetFlow(config).double().eval()
    flow.fit_preprocessing(x)
    noisy = nn.Sequential(nn.DequantizeSteps([1.0, 1.0])).double().eval()(x)[0]
    torch.testing.assert_close(flow.log_prob(x), gaussian(x, 1 / 12).log_prob(noisy))
    samples = flow.sample(100, seed=0)
    assert torch.equal(samples, samples.round())


def test_the_gaussian_can_be_left():
    x = rows(200, 3)
    config = FlowConfig((3,), (2,), hidden=(16,), preprocess="whiten", zero_init=True)
    flow = IResNetFlow(config).double()
    flow.fit_preprocessing(x)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    before = float(flow.log_prob(x).mean())
    for _ in range(30):
        loss = -flow.log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and bool(p.grad.any()) for name, p in flow.named_parameters() if "layers" in name)
    assert float(flow.log_prob(x).mean()) > before


def test_a_context_and_the_units_of_the_statistics():
    """A flow in float32 takes its statistics in float64, and a context does not move where it begins."""
    x, context = rows(300, 2, dtype=torch.float32), rows(300, 3, 1, dtype=torch.float32)
    config = FlowConfig(
        (2,),
        (2,),
        hidden=(8, 8),
        preprocess="whiten",
        zero_init=True,
        context_features=3,
        context_preprocess="standardize",
        conditional_actnorm=True,
        prior="conditional",
    )
    flow = IResNetFlow(config)
    flow.fit_preprocessing(x, context)
    flow.initialize(x, context)
    expected = gaussian(x.double()).log_prob(x.double()).float()
    torch.testing.assert_close(flow.eval().log_prob(x, context), expected)


def test_columns_that_depend_on_each_other_are_told():
    x = torch.randn(50, 2, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="depend on each other linearly"):
        nn.Whiten.fit(torch.cat((x, x.sum(1, keepdim=True)), 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.Whiten.fit(x)
        nn.Whiten.fit(x[:2])  # so few rows are no property of the columns
