"""DenseBranch and its activation: what it computes, and that it contracts whatever training does."""

import pytest
import torch
from nn_transforms import grown

from iresnet_fast import activations as registry
from iresnet_fast import nn
from iresnet_fast.estimators import Exact, PowerSeries
from iresnet_fast.solvers import FixedPoint

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. InvertibleResidualBlock runs"),
]
KINDS = ["dense", "conv"]
NAMES = registry.names()


def make_branch(kind, **options):
    if kind == "dense":
        return grown(nn.DenseBranch.dense(5, 4, **options))
    return grown(nn.DenseBranch.conv(2, 4, image_size=(4, 3), **options))


def make_input(kind, batch=4, dtype=torch.float32):
    return torch.randn(batch, *((5,) if kind == "dense" else (2, 4, 3)), dtype=dtype)


def largest_gain(branch, x):
    """The largest singular value of the Jacobian over some points."""
    jacobians = [torch.func.jacrev(lambda a: branch(a[None])[0].flatten())(row).flatten(1) for row in x]
    return float(torch.linalg.matrix_norm(torch.stack(jacobians).detach(), 2).max())


@pytest.mark.parametrize("name", NAMES)
def test_one_lipschitz_constant_per_activation(name):
    activation = nn.Activation(name).double()
    a = torch.linspace(-30.0, 30.0, 6000, dtype=torch.float64).view(-1, 2)
    out = activation(a)
    assert out.shape == (3000, 2 * activation.expansion)
    if activation.expansion == 1:
        torch.testing.assert_close(out, registry.get(name).value(a, activation.beta))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda b: activation(b[None])[0]))(a)
    assert float(torch.linalg.matrix_norm(jacobian.detach(), 2).max()) <= activation.lipschitz * (1.0 + 1e-12)


def test_defect_12_clipswish_is_scaled_once_and_tightly():
    """1.004 is the constant of the pair of LipSwish, already divided by 1.1; FlowConductor divides twice."""
    a = torch.linspace(-60.0, 60.0, 400001, dtype=torch.float64, requires_grad=True)
    for beta in (-3.0, 0.5, 4.0):
        activation = nn.Activation("clipswish").double()
        torch.nn.init.constant_(activation.beta, beta)
        pair = activation(a[:, None])
        squares = sum(torch.autograd.grad(pair[:, i].sum(), a, retain_graph=True)[0].square() for i in range(2))
        assert 0.9995 < float(squares.max().sqrt()) <= 1.0
    swish = a * torch.sigmoid(a * torch.nn.functional.softplus(activation.beta))
    torch.testing.assert_close(pair, torch.stack((swish, swish - a), 1) / 1.1 / 1.004)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["clipswish", "lipswish", "maxmin", "tanh"])
def test_branch_is_what_the_formula_says(kind, activation):
    branch = make_branch(kind, activation=activation, depth=2).double()
    with torch.no_grad():
        branch.eta.normal_()
    x = h = make_input(kind, dtype=torch.float64)
    raw = torch.nn.functional.softplus(branch.eta)
    for i, phi in enumerate(branch.activations):
        first, second = raw[i] / raw[i].norm()
        h = torch.cat((first * h, second * phi(branch.layers[i](h))), 1)
    torch.testing.assert_close(branch(x), branch.layers[-1](h))
    branch(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in branch.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [1, 4])
def test_lipschitz_constant_does_not_depend_on_depth_or_eta(kind, depth):
    branch = make_branch(kind, depth=depth)
    assert branch.lipschitz == pytest.approx(0.9)
    branch = branch.double().eval()
    for scale in (0.0, 3.0):
        with torch.no_grad():
            branch.eta.normal_().mul_(scale)
        torch.testing.assert_close(branch.concatenation().norm(dim=1), torch.ones(depth, dtype=torch.float64))
        assert 0.0 < largest_gain(branch, 3.0 * make_input(kind, dtype=torch.float64)) <= 0.9 * 1.001
    looser = nn.DenseBranch([nn.SpectralLinear(3, 2, coeff=2.0), nn.SpectralLinear(7, 3, coeff=0.25)])
    assert looser.lipschitz == pytest.approx(0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_defect_6_contraction_after_training_without_user_calls(kind):
    """normflows' layers grow past their bound unless the user calls update_lipschitz after each step."""
    branch = make_branch(kind, depth=2)
    block = nn.InvertibleResidualBlock(branch, PowerSeries(4))
    optimizer = torch.optim.Adam(block.parameters(), 2e-2)
    for _ in range(50):
        z, logdet = block(make_input(kind))
        optimizer.zero_grad()
        (-z.square().mean() - logdet.mean()).backward()
        optimizer.step()
    assert max(float(layer.sigma) for layer in branch.layers) > 1.5  # what the bound holds back
    assert largest_gain(branch.eval(), make_input(kind)) <= 0.9 * 1.01
    block.double()
    x = make_input(kind, dtype=torch.float64)
    torch.testing.assert_close(block.inverse(block(x)[0])[0], x, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_defect_10_the_inverse_normalises_once(kind, calls, normalisations):
    """residual-flows normalises all weights again in every iteration of the inverse."""
    block = nn.InvertibleResidualBlock(make_branch(kind, depth=2), Exact(), FixedPoint(1e-5)).eval()
    with torch.no_grad():
        _, iterations, _ = block.solve(make_input(kind))
    assert int(iterations.min()) > 3
    assert calls == normalisations == [3]


def test_fixed_weights_of_the_concatenation():
    branch = nn.DenseBranch.dense(5, 4, learnable=False)
    assert "eta" not in dict(branch.named_parameters())
    assert "eta" in branch.state_dict()
    torch.testing.assert_close(branch.concatenation(), torch.full((3, 2), 0.5**0.5))
    assert "learnable=False" in repr(branch)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.DenseBranch.dense(0, 4), ValueError, "features must be at least 1"),
        (lambda: nn.DenseBranch.dense(4, 4, depth=0), ValueError, "depth must be at least 1"),
        (lambda: nn.DenseBranch.dense(4, 4, activation="no_such"), ValueError, "one of .*, clipswish, got 'no_such'"),
        (lambda: nn.DenseBranch.conv(4, 4, kernel_size=[3]), TypeError, "kernel_size must be an integer"),
        (lambda: nn.DenseBranch.conv(4, 4, kernel_size=2), ValueError, "kernel_size must be odd, got 2"),
        (lambda: nn.DenseBranch([nn.SpectralLinear(3, 3)]), ValueError, "at least a stage and the last layer, got 1"),
        (
            lambda: nn.DenseBranch([nn.SpectralLinear(3, 2), nn.SpectralLinear(5, 3)]),
            ValueError,
            r"layers\[1\] must have 7 inputs, .* of clipswish since, got 5",
        ),
        (
            lambda: nn.DenseBranch([nn.SpectralLinear(3, 2), nn.SpectralLinear(7, 4)]),
            ValueError,
            "the last layer must have 3 outputs",
        ),
        (lambda: nn.DenseBranch([nn.SpectralLinear(3, 2), torch.nn.Linear(7, 3)]), TypeError, "got Linear as layers"),
        (lambda: nn.DenseBranch.dense(4, 4)(torch.ones(2, 5)), ValueError, r"x must have shape \[B, 4\], got \(2, 5\)"),
        (lambda: nn.DenseBranch.conv(4, 4)(torch.ones(2, 4)), ValueError, r"x must have shape \[B, 4, H, W\]"),
        (lambda: nn.DenseBranch.dense(4, 4)(torch.ones(2, 4), 1.0), ValueError, "context must be None"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
