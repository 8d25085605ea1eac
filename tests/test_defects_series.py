"""What other invertible residual networks got wrong in the coefficients of the power series, and in drawing them."""

import math

import numpy
import pytest
import torch

from iresnet_fast import nn
from iresnet_fast.estimators import PowerSeries, RussianRoulette, roulette_coefficients
from iresnet_fast.reference.functional import logdet_of

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. InvertibleResidualBlock runs"),
]
ROULETTES = {
    "geometric": RussianRoulette(n_exact=2, distribution="geometric", parameter=0.5),
    "poisson": RussianRoulette(n_exact=2, distribution="poisson", parameter=2.0),
}


def probability(roulette, n):
    """P(N = n), from the definition of the distribution."""
    parameter = roulette.parameter
    if roulette.distribution == "geometric":
        return 0.0 if n == 0 else parameter * (1.0 - parameter) ** (n - 1)
    return math.exp(n * math.log(parameter) - parameter - math.lgamma(n + 1))


def dense_branch(kind):
    if kind == "dense":
        branch, event = nn.DenseBranch.dense(3, 4, depth=2, coeff=0.8), (3,)
    else:
        branch, event = nn.DenseBranch.conv(2, 2, depth=1, image_size=(2, 1), coeff=0.8), (2, 2, 1)
    with torch.no_grad():
        for layer in branch.layers:
            layer.weight.mul_(3.0)
    return branch.double(), torch.randn(2, *event, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_defect_17_every_term_of_a_dense_branch_has_its_sign_and_its_divisor(kind):
    """i-DenseNet's exact traces are summed without (-1)^(k+1) / k: not the series of the log-determinant."""
    branch, x = dense_branch(kind)
    d = x[0].numel()
    jacobian = torch.stack([torch.func.jacrev(lambda a: branch(a[None])[0])(row).reshape(d, d) for row in x]).detach()
    probes = (torch.eye(d, dtype=x.dtype) * d**0.5).view(d, 1, *x.shape[1:]).expand(d, *x.shape).contiguous()
    expected, power = torch.zeros(len(x), dtype=x.dtype), torch.eye(d, dtype=x.dtype)
    for k in range(1, 8):
        power = power @ jacobian
        expected = expected + (-1) ** (k + 1) / k * power.diagonal(dim1=-2, dim2=-1).sum(-1)
        for gradient in ("neumann", "series"):
            value = logdet_of(branch, x, probes, torch.ones(k, dtype=x.dtype), gradient, list(branch.parameters()))[1]
            torch.testing.assert_close(value.detach(), expected)
    exact = torch.linalg.slogdet(torch.eye(d, dtype=x.dtype) + jacobian)[1]
    # The branch has a Lipschitz constant of 0.8, and 0.8^150 is nothing.
    all_terms = logdet_of(branch, x, probes, torch.ones(150, dtype=x.dtype))[1]
    torch.testing.assert_close(all_terms.detach(), exact)


def test_defect_17_a_dense_block_of_one_dimension_has_the_series_of_the_logarithm():
    """In one dimension a Rademacher probe has no variance: the block itself gives log(1 + J) to its last term."""
    branch = nn.DenseBranch.dense(1, 4, depth=2, coeff=0.8)
    block = nn.InvertibleResidualBlock(branch, PowerSeries(3)).double()
    x = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(branch(x).sum(), x)
    j = slope[:, 0]
    for mode in (True, False):
        torch.testing.assert_close(block.train(mode)(x)[1].detach(), j - j**2 / 2 + j**3 / 3)


@pytest.mark.parametrize("name", list(ROULETTES))
def test_defect_18_the_weights_of_the_roulette_are_unbiased(name):
    """NuX weighs a term by one step of its geometric distribution too much, and so doubles every term but the first."""
    roulette = ROULETTES[name]
    # Of both distributions less than 1e-17 lies beyond 60.
    mass = torch.tensor([probability(roulette, n) for n in range(61)], dtype=torch.float64)
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-14)
    q = roulette_coefficients(torch.arange(61), roulette.n_exact, roulette.survival(60), 62)
    # E q_k = 1; far out the expectation is a tail of the mass over the same tail, to the rounding of the mass.
    torch.testing.assert_close((mass @ q)[:40], torch.ones(40, dtype=torch.float64), rtol=1e-6, atol=0.0)
    # One depth: weight 1 for what is always there, 1 / P(N >= m) up to it, 0 after.
    at_least = [1.0 - sum(probability(roulette, n) for n in range(m)) for m in range(1, 4)]
    assert q[3].tolist()[:7] == pytest.approx([1.0, 1.0, *(1.0 / tail for tail in at_least), 0.0, 0.0], rel=1e-12)


@pytest.mark.parametrize("name", list(ROULETTES))
def test_defect_18_depths_follow_the_distribution_asked_for(name):
    """FlowConductor draws a geometric depth where a Poisson one is asked for; NuX cuts it off at eight terms."""
    roulette, n = ROULETTES[name], 20_000
    drawn = RussianRoulette(2, roulette.distribution, roulette.parameter, per_sample=True)
    coefficients = drawn.draw(torch.empty(n, 1), True)[1]
    depths = (coefficients > 0).sum(1) - 2
    assert int(depths.max()) >= 8
    for value in range(8):
        p = probability(roulette, value)
        frequency = float((depths == value).double().mean())
        assert abs(frequency - p) <= 4.5 * (p * (1.0 - p) / n) ** 0.5  # one in 10^5 for each value


def test_defect_18_the_terms_of_evaluation_have_weight_one():
    """FlowConductor's twenty further terms of evaluation get weight zero."""
    for roulette in ROULETTES.values():
        assert roulette.draw(torch.empty(2, 3), False)[1].tolist() == [1.0] * 22
    block = nn.InvertibleResidualBlock(nn.ResidualBranch.dense([1, 4, 1], coeff=0.95), ROULETTES["poisson"]).double()
    with torch.no_grad():
        for layer in block.branch.layers:
            layer.weight.mul_(100.0)
    x = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(block.eval()(x)[0].sum(), x)
    j = slope[:, 0] - 1.0
    assert float(j.abs().max()) > 0.3  # two terms are far from all of them
    torch.testing.assert_close(block(x)[1].detach(), sum((-1) ** (k + 1) / k * j**k for k in range(1, 23)))


@pytest.mark.parametrize("name", list(ROULETTES))
def test_defect_20_depths_and_probes_come_from_torchs_generator(name):
    """residual-flows draws its depths from numpy's global state, which no seed of torch reproduces."""
    block = nn.InvertibleResidualBlock(nn.ResidualBranch.dense([3, 8, 3]), ROULETTES[name])
    x, outputs = torch.randn(4, 3), []
    for seed, other in ((1, 10), (1, 11), (2, 11)):
        torch.manual_seed(seed)
        numpy.random.seed(other)  # noqa: NPY002  # the global state is the point
        before = numpy.random.get_state()[1]  # noqa: NPY002
        outputs.append([block(x)[1].detach() for _ in range(5)])
        assert (numpy.random.get_state()[1] == before).all()  # noqa: NPY002
    assert all(torch.equal(a, b) for a, b in zip(outputs[0], outputs[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(outputs[0], outputs[2], strict=True))
