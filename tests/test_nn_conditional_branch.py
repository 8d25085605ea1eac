"""ConditionalBranch: one map for each context, all of them contractions."""

import pytest
import torch
from nn_transforms import exact_block, grown

from iresnet_fast import models, nn
from iresnet_fast.estimators import PowerSeries
from iresnet_fast.solvers import FixedPoint

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. InvertibleResidualBlock runs"),
]
KINDS = ["dense", "conv", "image"]
MODES = ["add", "concat"]


def make_branch(kind, mode, activation="tanh"):
    if kind == "dense":
        return grown(nn.ConditionalBranch.dense([4, 6, 6, 4], 3, 8, activation, mode=mode))
    if kind == "conv":
        return grown(nn.ConditionalBranch.conv([2, 4, 4, 2], [3, 1, 1], 3, 8, (3, 2), activation, mode=mode))
    sizes = [(2, 4, 3), (4 if mode == "add" else 8, 4, 1), (4, 2, 1)]
    layers = [nn.SpectralConv2d(a, b, k, padding=k // 2) for a, b, k in sizes]
    names = ["identity", activation, activation]
    return grown(nn.ConditionalBranch(layers, names, torch.nn.Conv2d(3, 4, 3, padding=1), mode))


def make_input(kind, batch=3):
    shape, context = ((4,), (3,)) if kind == "dense" else ((2, 3, 2), (3, 3, 2) if kind == "image" else (3,))
    return torch.randn(batch, *shape, dtype=torch.float64), torch.randn(batch, *context, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_logdet_inverse_and_contraction_at_every_context(kind, mode):
    block = exact_block(make_branch(kind, mode)).double().eval()
    x, context = make_input(kind)
    for scale in (0.0, 1.0, 100.0):  # the network may do what it likes
        here = scale * context
        z, logdet = block(x, here)
        torch.testing.assert_close(z, x + block.branch(x, here))
        for row, c, expected in zip(x, here, logdet, strict=True):
            jacobian = torch.func.jacrev(lambda a, c=c: block.branch(a[None], c[None])[0].flatten())(row).flatten(1)
            assert float(torch.linalg.matrix_norm(jacobian.detach(), 2)) <= block.lipschitz * 1.001
            eye = torch.eye(row.numel(), dtype=torch.float64)
            torch.testing.assert_close(expected, torch.linalg.slogdet(eye + jacobian)[1])
        back, inverse_logdet = block.inverse(z, here)
        torch.testing.assert_close(back, x, atol=1e-10, rtol=0.0)
        torch.testing.assert_close(inverse_logdet, -logdet, atol=1e-8, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_the_context_is_used_and_gets_its_gradient(kind, mode):
    """FrEIA accepts a context and ignores it."""
    block = nn.InvertibleResidualBlock(make_branch(kind, mode, "elu"), PowerSeries(6), FixedPoint(1e-8)).double()
    x, context = make_input(kind)
    context.requires_grad_()
    z, logdet = block(x, context)
    assert not torch.allclose(z, block(x, context + 1.0)[0])
    back, inverse_logdet = block.inverse(z.detach(), context)
    for value in (z, logdet, back, inverse_logdet):
        (gradient,) = torch.autograd.grad(value.sum(), context, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient.flatten(1).abs().sum(1) > 0).all()
    (z.sum() + logdet.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_the_logdet(mode):
    branch = make_branch("dense", mode).double().eval()
    block = exact_block(branch)
    x, context = make_input("dense", 2)
    parameters = (*branch.network.parameters(), branch.layers[0].bias)
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)
    torch.autograd.gradcheck(
        lambda a, c, *_: block(a, c)[1] @ weights, (x.requires_grad_(), context.requires_grad_(), *parameters)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_small_batches(kind):
    block = exact_block(make_branch(kind, "concat")).double()
    for batch in (0, 1):
        x, context = make_input(kind, batch)
        z, logdet = block(x, context)
        assert z.shape == x.shape
        assert logdet.shape == (batch,)
        assert block.inverse(z, context)[0].shape == x.shape


def test_the_activation_may_come_first():
    for kind in (
        nn.ConditionalBranch.dense([4, 6, 4], 3, preactivation=True),
        nn.ConditionalBranch.conv([4, 6, 4], [3, 1], 3, preactivation=True),
    ):
        assert kind.activation_names() == ("elu", "elu")
    branches = [
        block.branch
        for block in models.IResNetFlow(
            models.FlowConfig((2,), blocks=(2,), hidden=(4,), preactivation=True, context_features=1)
        ).modules()
        if isinstance(block, nn.InvertibleResidualBlock)
    ]
    assert [branch.activation_names()[0] for branch in branches] == ["identity", "elu"]


def test_state_dict():
    branch = make_branch("conv", "concat").eval()
    other = make_branch("conv", "concat").eval()
    other.load_state_dict(branch.state_dict())
    x, context = (t.float() for t in make_input("conv"))
    torch.testing.assert_close(other(x, context), branch(x, context))
    assert "mode='concat', lipschitz=0.729" in repr(branch)


def linears(*sizes):
    return [nn.SpectralLinear(a, b) for a, b in sizes]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.ConditionalBranch.dense([4, 4], 3), ValueError, "widths must hold at least three numbers"),
        (lambda: nn.ConditionalBranch.dense([4, 6, 4], 0), ValueError, "context_features must be at least 1"),
        (lambda: nn.ConditionalBranch.dense([4, 6, 4], 3, mode="mul"), ValueError, "mode must be 'add', 'concat' or"),
        (lambda: nn.ConditionalBranch.dense([4, 6, 5], 3), ValueError, "the last like the first"),
        (
            lambda: nn.ConditionalBranch.conv([4, 6, 4], 3, 3),
            TypeError,
            "kernel_sizes must be a list of integers, got 3",
        ),
        (lambda: nn.ConditionalBranch.conv([4, 6, 4], [3], 3), ValueError, "kernel_sizes must be 2 odd numbers"),
        (
            lambda: nn.ConditionalBranch(linears((4, 6), (6, 4)), ["elu"], torch.nn.Identity()),
            ValueError,
            "got 1 names for 2 layers",
        ),
        (
            lambda: nn.ConditionalBranch(linears((4, 6), (9, 4)), ["elu"] * 2, torch.nn.Identity(), "concat"),
            ValueError,
            "there must be 3 layers for 'concat', got 2 names for 2 layers",
        ),
        (
            lambda: nn.ConditionalBranch(linears((4, 6), (6, 5), (5, 4)), ["elu"] * 3, torch.nn.Identity(), "concat"),
            ValueError,
            r"layers\[1\] must have more inputs than there are outputs of layers\[0\], 6, got 6",
        ),
        (
            lambda: nn.ConditionalBranch(linears((4, 6), (6, 4)), ["elu", "clipswish"], torch.nn.Identity()),
            ValueError,
            "must keep the number of channels, got clipswish",
        ),
        (
            lambda: nn.ConditionalBranch([torch.nn.Linear(4, 4)] * 2, ["elu"] * 2, torch.nn.Identity()),
            TypeError,
            "got Linear as",
        ),
        (lambda: make_branch("dense", "add")(torch.ones(2, 4)), ValueError, "context must be given"),
        (lambda: make_branch("dense", "add")(torch.ones(2, 5), torch.ones(2, 3)), ValueError, "x must have shape"),
        (
            lambda: make_branch("dense", "add")(torch.ones(2, 4), torch.ones(1, 3)),
            ValueError,
            r"context must have shape \[2, 3\], got \(1, 3\)",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
