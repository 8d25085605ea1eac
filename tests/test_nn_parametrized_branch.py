"""ParametrizedBranch: weights that somebody else bounds, and what happens if they are not as small as was said."""

import copy
import itertools

import pytest
import torch
from branch_kinds import train
from nn_transforms import exact_block
from torch.nn.utils import parametrizations, parametrize

from iresnet_fast import nn
from iresnet_fast.estimators import PowerSeries
from iresnet_fast.nn import parametrized_branch

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast.*autograd fallback"),
]


class Aol(torch.nn.Module):
    """Almost orthogonal weights (arXiv 2208.03160): W diag(sum |W^T W|)^(-1/2) has a norm of at most one."""

    def forward(self, weight):
        return weight * (weight.t() @ weight).abs().sum(0).rsqrt()


MAPS = {
    "matrix_exp": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="matrix_exp"),
    "cayley": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="cayley"),
    "householder": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="householder"),
    "aol": lambda layer: parametrize.register_parametrization(layer, "weight", Aol()) or layer,
}


def make_branch(kind="matrix_exp", widths=(4, 12, 4), **options):
    layers = [MAPS[kind](torch.nn.Linear(*size)) for size in itertools.pairwise(widths)]
    return nn.ParametrizedBranch(layers, ["identity"] + ["elu"] * (len(layers) - 1), **options)


def kernels(gain=1.0, **options):
    layers = [torch.nn.Conv2d(2, 4, 3, padding="same"), torch.nn.Conv2d(4, 2, 1)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(gain)
    return nn.ParametrizedBranch(layers, ["identity", "elu"], **options)


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("widths", [(4, 12, 4), (70, 70, 70), (3, 40, 20, 3)])
def test_the_bound_holds_whatever_training_does(kind, widths):
    branch = make_branch(kind, widths, coeff=0.8)
    block, x = nn.InvertibleResidualBlock(branch, PowerSeries(4)), torch.randn(9, widths[0])
    before = [layer.weight.detach().clone() for layer in branch.layers]
    train(block, (x,))
    assert branch.lipschitz == pytest.approx(0.8 ** (len(widths) - 1))
    block.eval()
    z, _ = block(x)
    torch.testing.assert_close(block.inverse(z)[0], x, atol=1e-4, rtol=0.0)
    for weight, old, layer in zip(branch.as_stages(x).weights, before, branch.layers, strict=True):
        assert float(torch.linalg.matrix_norm(weight.detach().double(), 2)) <= 0.8
        torch.testing.assert_close(weight, 0.8 * layer.weight, atol=0.0, rtol=1.1e-4)
        assert not torch.equal(layer.weight, old)


def test_one_norm_for_each_layer():
    branch = kernels(norm=[3.0, 2.0], coeff=0.9).double()
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    stages = branch.as_stages(x)
    torch.testing.assert_close(stages.weights[0], 0.3 * branch.layers[0].weight, atol=0.0, rtol=1.1e-4)
    torch.testing.assert_close(stages.weights[1], 0.45 * branch.layers[1].weight, atol=0.0, rtol=1.1e-4)
    assert branch.stage_norms() == [0.9, 0.9]
    assert "norm=[3.0, 2.0], coeff=0.9, lipschitz=0.81" in repr(branch)


def test_orthogonal_kernels_are_no_orthogonal_convolutions():
    layers = [parametrizations.orthogonal(torch.nn.Conv2d(4, 4, 3, padding=1)) for _ in range(2)]
    branch, x = nn.ParametrizedBranch(layers, ["identity", "elu"]), torch.randn(2, 4, 6, 6)
    message = r"the weight of layers\[0\] must have an operator norm of at most 1, .*orthogonal slices"
    with pytest.raises(ValueError, match=message):
        branch(x)
    with pytest.raises(ValueError, match=message):
        nn.InvertibleResidualBlock(branch)(x)


@pytest.mark.parametrize("write", [lambda p: p.mul_(9.0), lambda p: p.data.mul_(9.0)])
def test_a_weight_that_outgrows_its_claim_is_noticed_in_evaluation(write):
    block, x = nn.InvertibleResidualBlock(kernels(norm=[3.0, 2.0]), PowerSeries(3)), torch.randn(2, 2, 5, 4)
    block(x)
    with torch.no_grad():
        write(block.branch.layers[1].weight)
    block(x)  # in training it is looked at once
    block.eval()
    for call in (block, block.inverse, block.branch):
        with pytest.raises(ValueError, match=r"the weight of layers\[1\] must have an operator norm of at most 2"):
            call(x)
    with torch.no_grad():
        block.branch.layers[1].weight.div_(9.0)
    block(x)


def test_a_weight_of_nan_is_no_norm_to_pass():
    branch = kernels(norm=[3.0, 2.0])
    with torch.no_grad():
        branch.layers[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="got nan; the weight has NaN or infinity"):
        branch(torch.randn(2, 2, 5, 4))


def test_a_norm_is_that_on_images_of_their_size():
    branch = kernels(0.0, norm=[1.4, 1.0])
    with torch.no_grad():
        branch.layers[0].weight[0, 0].fill_(0.5)  # times 1 on a pixel, and more the more of them see each other
    branch(torch.randn(1, 2, 1, 2))
    with pytest.raises(ValueError, match=r"operator norm of at most 1\.4, as the branch was told"):
        branch(torch.randn(1, 2, 6, 6))


def test_a_norm_is_computed_once_for_each_change(monkeypatch):
    calls, branch, x = [], make_branch().double(), torch.randn(3, 4, dtype=torch.float64)
    check = parametrized_branch.check_claims
    monkeypatch.setattr(parametrized_branch, "check_claims", lambda *a: calls.append(1) or check(*a))
    block = exact_block(branch)
    for _ in range(2):
        block(x)
    block.eval()
    for _ in range(3):
        block(x)
        block.inverse(x)
    assert len(calls) == 2  # the first use in training, and with the bits outside
    with torch.no_grad():
        branch.layers[0].parametrizations.weight.original.add_(1.0)
    block(x)
    copy.deepcopy(block)(x)
    assert len(calls) == 4


def test_hooks_and_replaced_layers_are_called():
    branch, x = make_branch().double(), torch.randn(3, 4, dtype=torch.float64)
    block = exact_block(branch)
    plain = block(x)[0].detach()
    hook = branch.layers[0].register_forward_hook(lambda m, inputs, output: 0.5 * output)
    assert branch.why_no_kernels() == "layers[0] has hooks"
    torch.testing.assert_close(block(x)[0], x + branch(x))
    assert not torch.allclose(block(x)[0], plain)
    hook.remove()
    branch.layers[1] = torch.nn.Sequential(branch.layers[1])
    assert branch.why_no_kernels() == "layers[1] is a Sequential"
    assert branch.lipschitz is None
    torch.testing.assert_close(block(x)[0].detach(), plain)


def linears(*sizes):
    return [torch.nn.Linear(*size) for size in sizes]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.ParametrizedBranch([], []), ValueError, "there must be a layer"),
        (lambda: nn.ParametrizedBranch(linears((4, 4)), ["elu", "elu"]), ValueError, "got 2 names for 1 layers"),
        (lambda: nn.ParametrizedBranch([nn.SpectralLinear(4, 4)], ["elu"]), TypeError, "got SpectralLinear as layers"),
        (lambda: nn.ParametrizedBranch([torch.nn.ReLU()], ["elu"]), TypeError, "got ReLU as layers"),
        (
            lambda: nn.ParametrizedBranch([torch.nn.Conv2d(2, 2, 3)], ["elu"]),
            ValueError,
            r"layers\[0\] must have an odd square kernel k",
        ),
        (
            lambda: nn.ParametrizedBranch([torch.nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")], ["elu"]),
            ValueError,
            r"layers\[0\] must have an odd square kernel k",
        ),
        (lambda: nn.ParametrizedBranch(linears((4, 5)), ["elu"]), ValueError, "as many inputs as there are outputs"),
        (lambda: make_branch(norm=[1.0]), ValueError, "norm must be one number or 2, one per layer, got 1"),
        (lambda: make_branch(norm="1"), TypeError, "norm must be a number"),
        (lambda: make_branch(norm=0.0), ValueError, "norm must be positive and finite"),
        (lambda: make_branch(coeff=float("inf")), ValueError, "coeff must be positive and finite"),
        (lambda: make_branch()(torch.randn(2, 4), torch.randn(2, 4)), ValueError, "context must be None"),
        (lambda: make_branch()(torch.randn(2, 5)), ValueError, "x must have shape"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
