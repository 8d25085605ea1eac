"""Induced norms in closed form: right for matrices and convolutions, and bounds of what a branch does."""

import math

import pytest
import torch
import torch.nn.functional as F
from nn_transforms import exact_block, grown

from iresnet_fast import nn
from iresnet_fast.estimators import PowerSeries
from iresnet_fast.nn.induced_norm import _FORMS
from iresnet_fast.solvers import FixedPoint

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. InvertibleResidualBlock runs"),
]
NORMS = [1.0, 2.0, math.inf]


def extreme_points(norm, n):
    """Points of the unit ball where a convex function of x is largest: all of them for l1 and l-infinity."""
    if norm == 1.0:
        return torch.eye(n, dtype=torch.float64)
    if norm == math.inf:
        return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * n)
    return F.normalize(torch.randn(20000, n, dtype=torch.float64), dim=1)


@pytest.mark.parametrize(("domain", "codomain"), _FORMS)
def test_norm_is_the_largest_gain(domain, codomain):
    weight = torch.randn(4, 6, dtype=torch.float64)
    points = extreme_points(domain, 6)
    if (domain, codomain) == (2.0, math.inf):
        points = F.normalize(weight, dim=1)  # equality in Cauchy-Schwarz
    gain = torch.linalg.vector_norm(points @ weight.t(), codomain, dim=1).max()
    norm = nn.induced_norm(weight, domain, codomain)
    if domain == codomain == 2.0:
        spectral = torch.linalg.matrix_norm(weight, 2)
        assert spectral <= norm <= spectral * math.sqrt(6)
    else:
        torch.testing.assert_close(norm, gain)


@pytest.mark.parametrize(("domain", "codomain"), _FORMS)
@pytest.mark.parametrize(
    ("options", "exact"),
    [({}, True), ({"groups": 2}, True), ({"stride": 2}, False), ({"dilation": 2, "padding": 2}, False)],
)
def test_norm_of_a_convolution_is_that_of_its_operator(domain, codomain, options, exact):
    layer = nn.InducedNormConv2d(
        2, 4, 3, **{"padding": 1, **options}, bias=False, domain=domain, codomain=codomain, dtype=torch.float64
    )
    basis = torch.eye(2 * 25, dtype=torch.float64).view(50, 2, 5, 5)
    weight = layer.weight.detach()
    matrix = F.conv2d(basis, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups).flatten(1).t()
    expected = nn.induced_norm(matrix, domain, codomain)
    if exact:
        torch.testing.assert_close(layer.norm().detach(), expected)
    else:
        assert float(layer.norm().detach()) >= float(expected) * (1.0 - 1e-12)


@pytest.mark.parametrize(("domain", "codomain"), _FORMS)
@pytest.mark.parametrize("gain", [0.01, 3.0])
def test_layers_are_bounded_and_differentiable(domain, codomain, gain):
    layers = [
        nn.InducedNormLinear(5, 4, domain=domain, codomain=codomain, dtype=torch.float64),
        nn.InducedNormConv2d(2, 3, 3, padding=1, domain=domain, codomain=codomain, dtype=torch.float64),
    ]
    inputs = [torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 2, 3, 3, dtype=torch.float64)]
    for layer, x in zip(layers, inputs, strict=True):
        with torch.no_grad():
            layer.weight.mul_(gain)
        norm, weight = float(layer.norm().detach()), layer.effective_weight().detach()
        expected = layer.weight / max(1.0, norm / 0.9)
        torch.testing.assert_close(weight, expected.detach())
        assert float(nn.induced_norm(weight, domain, codomain)) <= 0.9 * (1.0 + 1e-12)
        torch.autograd.gradcheck(lambda a, *_, layer=layer: layer(a), (x.requires_grad_(), *layer.parameters()))
        assert f"domain={domain:g}, codomain={codomain:g}" in repr(layer)


@pytest.mark.parametrize(("domain", "codomain"), _FORMS)
def test_weights_of_zeros_can_be_trained(domain, codomain):
    layer = nn.InducedNormLinear(3, 2, domain=domain, codomain=codomain)
    torch.nn.init.zeros_(layer.weight)
    layer(torch.ones(4, 3)).sum().backward()
    assert torch.equal(layer.weight.grad, torch.full((2, 3), 4.0))


def test_defect_8_the_largest_of_several_candidates_is_kept():
    """residual-flows' restarts keep the last better start instead of the best; a closed form has none."""
    weight = torch.tensor([[1.0, -1.0], [5.0, 2.0], [3.0, 3.0]])
    assert float(nn.induced_norm(weight, math.inf, math.inf)) == 7.0
    assert float(nn.induced_norm(weight, 1.0, 1.0)) == 9.0
    assert float(nn.induced_norm(weight, 1.0, math.inf)) == 5.0


def make_branch(kind, norm, **options):
    if kind == "dense":
        return grown(nn.InducedNormBranch.dense([6, 10, 6], norm, **options))
    return grown(nn.InducedNormBranch.conv([2, 6, 2], [3, 1], norm, **options))


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ["elu", "lipswish", "maxmin", "clipswish"])
def test_branch_contracts_in_its_norm_and_inverts(kind, norm, activation):
    if (norm, activation) == (1.0, "clipswish"):
        return  # refused, see below
    branch = make_branch(kind, norm, activation=activation).double()
    assert branch.contraction == pytest.approx(0.81)
    assert branch.lipschitz == (pytest.approx(0.81) if norm == 2.0 else None)
    shape = (50, 6) if kind == "dense" else (50, 2, 3, 1)
    x, y = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    for scale in (1.0, 1e-3):
        moved = torch.linalg.vector_norm((branch(x + scale * y) - branch(x)).flatten(1), norm, dim=1)
        assert (moved <= 0.81 * scale * torch.linalg.vector_norm(y.flatten(1), norm, dim=1)).all()
    block = nn.InvertibleResidualBlock(branch, PowerSeries(20), FixedPoint(1e-9), branch.inverse_lipschitz(6))
    z, _ = block.eval()(x)
    back, inverse_logdet = block.inverse(z)
    assert float((back - x).detach().flatten(1).norm(dim=1).max()) <= 1e-9
    torch.testing.assert_close(inverse_logdet, -block(back)[1], atol=1e-12, rtol=0.0)


def test_an_l1_or_linf_branch_has_no_euclidean_constant_of_its_own():
    block = exact_block(make_branch("dense", math.inf))
    with pytest.raises(ValueError, match=r"lipschitz must be known .*; pass lipschitz=branch.inverse_lipschitz\(n"):
        block.inverse(torch.randn(2, 6))
    assert "norm=inf, contraction=0.81" in repr(block)
    # A contraction in l-infinity may stretch Euclidean lengths by up to sqrt(d).
    layer = nn.InducedNormLinear(1, 4, bias=False)
    torch.nn.init.ones_(layer.weight)
    assert float(torch.linalg.matrix_norm(layer.effective_weight().detach(), 2)) == pytest.approx(0.9 * 2.0)


@pytest.mark.parametrize("norm", NORMS)
def test_defect_6_the_bound_holds_at_every_step_of_training(norm):
    branch = make_branch("dense", norm)
    block = nn.InvertibleResidualBlock(branch, PowerSeries(4))
    optimizer = torch.optim.Adam(block.parameters(), 5e-2)
    for _ in range(30):
        z, logdet = block(torch.randn(8, 6))
        optimizer.zero_grad()
        (-z.square().mean() - logdet.mean()).backward()
        optimizer.step()
        for layer in branch.layers:
            assert float(nn.induced_norm(layer.effective_weight().detach(), norm, norm)) <= 0.9 * (1.0 + 1e-6)
    assert float(branch.layers[0].norm().detach()) > 1.5


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.induced_norm(torch.ones(2, 2), math.inf, 1.0), ValueError, r"closed forms, got \(inf, 1\)"),
        (lambda: nn.InducedNormLinear(2, 2, domain=2.0, codomain=1.0), ValueError, r"got \(2, 1\)"),
        (lambda: nn.InducedNormLinear(2, 2, coeff=0.0), ValueError, "coeff must be positive and finite"),
        (lambda: nn.InducedNormBranch([], []), ValueError, "there must be a layer"),
        (lambda: nn.InducedNormBranch([nn.SpectralLinear(2, 2)], ["elu"]), TypeError, "got SpectralLinear as layers"),
        (
            lambda: nn.InducedNormBranch(
                [nn.InducedNormLinear(2, 2), nn.InducedNormLinear(2, 2, domain=2.0)], ["elu"] * 2
            ),
            ValueError,
            r"layers\[1\] must have domain and codomain inf, .* got 2 and inf",
        ),
        (
            lambda: nn.InducedNormBranch.dense([4, 4], "inf"),
            TypeError,
            "norm must be a number, got 'inf'; pass e.g.",
        ),
        (lambda: nn.InducedNormBranch.dense([4, 5]), ValueError, "the last like the first"),
        (lambda: nn.InducedNormBranch.conv([4, 4], 3), TypeError, "kernel_sizes must be a list of integers, got 3"),
        (lambda: nn.InducedNormBranch.conv([4, 4], [2]), ValueError, "kernel_sizes must be 1 odd numbers"),
        (
            lambda: nn.InducedNormBranch.dense([4, 4, 4], 1.0, activation="clipswish"),
            ValueError,
            "activations must have the constant 1 in l1, got clipswish",
        ),
        (lambda: make_branch("dense", 1.0)(torch.ones(2, 6), 1.0), ValueError, "context must be None"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
