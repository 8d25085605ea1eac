"""What other invertible residual networks got wrong in log-determinants and inverses; numbers as measured."""

import math
import warnings
from decimal import Decimal, getcontext

import pytest
import torch
from comparison import RecordedOps

from iresnet_fast import nn, ops
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette, roulette_coefficients
from iresnet_fast.solvers import FixedPoint

pytestmark = pytest.mark.filterwarnings("ignore:iresnet_fast. there are no kernels")


def half_identity(d, batch=1):
    """The arguments of a branch with J = I / 2 at every x: log|det(I + J)| = d log 1.5 = 4.055 for d = 10."""
    return torch.zeros(batch, d, dtype=torch.float64), [0.5 * torch.eye(d, dtype=torch.float64)], [None], ["identity"]


def dense_block(estimator=None, activation="elu", width=16, **options):
    branch = nn.ResidualBranch.dense([4, width, 4], activation=activation, **options)
    return nn.InvertibleResidualBlock(branch, estimator, FixedPoint(1e-10)).double()


@pytest.mark.parametrize("gradient", ["neumann", "series"])
def test_defect_13_per_sample_upstream_gradients(gradient):
    """residual-flows' memory-efficient estimator uses the upstream gradient of sample 0 for the whole batch."""
    x, weight = torch.randn(4, 3, dtype=torch.float64), (0.2 * torch.randn(3, 3, dtype=torch.float64)).requires_grad_()
    probe, upstream = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0.0, 1.0, -2.0, 3.0], dtype=torch.float64)

    def logdet(rows):
        return ops.residual_logdet(x[rows], [weight], [None], ["tanh"], probe[rows], [1.0] * 5, gradient)[1]

    (together,) = torch.autograd.grad(logdet(slice(None)), weight, upstream)
    alone = [torch.autograd.grad(logdet(slice(i, i + 1)), weight, upstream[i : i + 1])[0] for i in range(4)]
    torch.testing.assert_close(together, sum(alone))


@pytest.mark.parametrize("gradient", ["neumann", "series"])
def test_defect_14_the_value_is_the_log_determinant(gradient):
    """residual-flows and normflows return the Neumann series as the log-determinant: tr J (I + J)^-1, d / 3 here."""
    x, *branch = half_identity(10)
    probe = torch.ones_like(x)
    branch[0][0].requires_grad_()
    _, logdet = ops.residual_logdet(x, *branch, probe, [1.0] * 60, gradient)
    assert logdet.item() == pytest.approx(10 * math.log(1.5), rel=1e-12)
    block = dense_block(PowerSeries(60, gradient=gradient)).train()
    x = torch.randn(200, 4, dtype=torch.float64)
    exact = ops.residual_logdet_exact(x, *block.branch.stages())[1]
    sample = torch.stack([block(x)[1].mean() for _ in range(200)]).detach()
    assert abs(sample.mean() - exact.mean()) < 4 * sample.std() / 200**0.5


def test_defect_15_the_roulette_weighs_the_series_of_the_logarithm():
    """torchflows mixes the weights of two series: 2.99 for 4.055."""
    x, *branch = half_identity(10, batch=60)
    roulette = RussianRoulette(n_exact=2, parameter=0.5)
    survival = roulette.survival(59)
    q = roulette_coefficients(torch.arange(60), 2, survival, 61)
    _, logdet = ops.residual_logdet(x, *branch, torch.ones_like(x), q)
    probabilities = torch.cat((torch.ones(1, dtype=torch.float64), survival))
    probabilities[:-1] -= survival
    assert (probabilities @ logdet).item() == pytest.approx(10 * math.log(1.5), rel=1e-9)


def test_defect_15_value_and_gradient_share_their_draw():
    """In torchflows the backward pass draws another depth: value and gradient belong to different estimators."""
    block = dense_block(RussianRoulette()).train()
    _, logdet = block(torch.randn(3, 4, dtype=torch.float64))
    state = torch.random.get_rng_state()
    logdet.sum().backward()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_defect_15_the_inverse_has_the_opposite_log_determinant():
    """torchflows returns + log|det f| from inverse as well."""
    block = dense_block(Exact())
    x = torch.randn(3, 4, dtype=torch.float64)
    z, logdet = block(x)
    torch.testing.assert_close(block.inverse(z)[1], -logdet, rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("rate", [0.5, 2.0, 8.0])
def test_defect_19_the_survival_function_keeps_its_digits(rate):
    """residual-flows takes 1 - CDF of the Poisson distribution: no digit is right by k = 22, then weights overflow."""
    getcontext().prec = 80
    mean, mass, below = Decimal(rate), (-Decimal(rate)).exp(), Decimal(0)
    survival = RussianRoulette(distribution="poisson", parameter=rate).survival(40)
    for m in range(1, 41):
        below += mass
        mass *= mean / m
        assert survival[m - 1].item() == pytest.approx(float(1 - below), rel=1e-12)
    depths = torch.tensor([0, 5, 100])
    assert roulette_coefficients(depths, 2, survival, 42).isfinite().all()


@pytest.mark.parametrize("estimator", [PowerSeries(5), RussianRoulette(), Exact()])
def test_defect_21_evaluation_is_a_function_of_its_input(estimator):
    """residual-flows gives another log p(x) for the same x at every call in evaluation."""
    block = dense_block(estimator).eval()
    x = torch.randn(3, 4, dtype=torch.float64)
    _, first = block(x)
    torch.rand(5)
    assert torch.equal(block(x)[1], first)
    if not isinstance(estimator, Exact):
        block.train()
        assert not torch.equal(block(x)[1], block(x)[1])


@pytest.mark.parametrize("d", [2, 4])
def test_defect_21_evaluation_uses_the_terms_asked_for(d):
    """residual-flows ignores n_power_series in evaluation, and switches to brute force at d = 2 without a word."""
    layer = nn.SpectralLinear(d, d, bias=False, coeff=0.5).double()
    with torch.no_grad():
        layer.weight.copy_(0.5 * torch.eye(d))
    block = nn.InvertibleResidualBlock(nn.ResidualBranch([layer], ["identity"]), PowerSeries(3)).eval()
    _, logdet = block(torch.zeros(1, d, dtype=torch.float64))
    # With Rademacher probes and J = I / 2 the estimate has no variance.
    assert logdet.item() == pytest.approx(d * (0.5 - 0.5**2 / 2 + 0.5**3 / 3), rel=1e-12)


@pytest.mark.parametrize("estimator", [PowerSeries(3), RussianRoulette(), Exact(), None])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_defect_22_the_log_determinant_has_the_batch_shape(estimator, batch):
    """i-ResNet returns a 0-d tensor for a batch of 1, and a CPU float32 zero when there is no log-determinant."""
    block = dense_block(estimator)
    x = torch.randn(batch, 4, dtype=torch.float64)
    for value in (block(x)[1], block.inverse(x)[1]):
        assert (value.shape, value.dtype, value.device) == ((batch,), x.dtype, x.device)


def test_defect_22_evaluation_builds_no_graph():
    """i-ResNet needs a double-backward graph even to evaluate, and computes log-determinants nobody asked for."""
    block = dense_block(PowerSeries(3)).eval()
    x = torch.randn(3, 4, dtype=torch.float64)
    with torch.no_grad(), RecordedOps() as recorded:
        block(x)
        z, logdet = block(x)
    assert not z.requires_grad
    assert not logdet.requires_grad
    assert recorded.names[-1:] == ["residual_logdet"]
    block.estimator = None
    with RecordedOps() as recorded, torch.no_grad():
        block(x)
    assert recorded.names == ["fingerprint", "branch"]


def test_defect_25_bfloat16_inference_mode_and_function_transforms():
    """residual-flows crashes in each of them: float32 constants, and requires_grad_ on its input."""
    block = dense_block(PowerSeries(3))
    x = torch.randn(3, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = block.eval()(x)
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(block(x), expected, strict=True))
    got = torch.func.grad(lambda a: block(a)[1].sum())(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(got, torch.autograd.grad(block(leaf)[1].sum(), leaf)[0])
    assert not x.requires_grad
    z, logdet = block.bfloat16()(x.bfloat16())
    assert (z.dtype, logdet.dtype) == (torch.bfloat16, torch.bfloat16)
    torch.testing.assert_close(z.double(), expected[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("slope", [0.9, -0.9])
def test_defect_26_the_inverse_is_as_exact_as_asked_for(slope):
    """residual-flows compares squared steps: 3.2e-3 instead of 1e-5, an error of up to 0.05 after L / (1 - L)."""
    x = torch.linspace(-3.0, 3.0, 7, dtype=torch.float64)[:, None]
    z = (1.0 + slope) * x
    weight = torch.tensor([[slope]], dtype=torch.float64)
    for tol in (1e-2, 1e-5, 1e-9):
        branch = [weight], [None], ["identity"], 0.9, tol
        got, iterations, residual = ops.residual_inverse(z, *branch, accelerate=False)
        assert (got - x).abs().max() <= tol * (1.0 + 1e-6)
        assert (residual <= (1.0 - 0.9) * tol).all()
    # A sample that is there already does not go on because another is not.
    assert iterations[3] == 0
    assert iterations[0] > 20


@pytest.mark.parametrize("lipschitz", [0.729, 0.9, 0.941])
def test_defect_27_the_inverse_iterates_until_its_error_is_the_one_asked_for(lipschitz):
    """i-ResNet stops after 10 iterations, torchflows 25, FrEIA 50, without a look at the error: up to 9.2 |g| here."""
    layer = nn.SpectralLinear(3, 3, bias=False, coeff=lipschitz)
    with torch.no_grad():
        layer.weight.copy_(lipschitz * torch.diag(torch.tensor([1.0, -1.0, 0.5])))  # no start is lucky in all three
    branch = nn.ResidualBranch([layer], ["identity"])
    block = nn.InvertibleResidualBlock(branch, None, FixedPoint(1e-5, accelerate=False)).double().eval()
    x = torch.randn(5, 3, dtype=torch.float64)
    z = block(x)[0].detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, _ = block.inverse(z)
    assert (again - x).norm(dim=1).max() <= 1e-5
    _, iterations, residual = block.solve(z)
    # From x = z the error is L |x| at first and L^k of that after k more: so many iterations, not ten.
    needed = math.log(1e-5 / float((z - x).norm(dim=1).max())) / math.log(lipschitz)
    assert needed < int(iterations.max()) < needed + math.log(1.0 - lipschitz) / math.log(lipschitz) + 3
    assert ((again - x).norm(dim=1) <= residual / (1.0 - lipschitz) * (1.0 + 1e-9)).all()


def test_defect_27_a_count_that_is_too_small_is_reported():
    """Their result after the fixed count is handed on as if it were the inverse."""
    branch = nn.ResidualBranch.dense([3, 8, 3], coeff=0.97)
    with torch.no_grad():
        for layer in branch.layers:
            layer.weight.mul_(20.0)
    block = nn.InvertibleResidualBlock(branch, None, FixedPoint(1e-9, 10, accelerate=False)).double().eval()
    with pytest.warns(RuntimeWarning, match=r"of 5 samples did not reach tol = 1.0e-09.* raise the solver's max_iter"):
        block.inverse(torch.randn(5, 3, dtype=torch.float64))
