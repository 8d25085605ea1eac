"""Hooks, forwards of their own and other modules in the place of layers: what a call of them does is done."""

import copy
import re

import pytest
import torch
from branch_kinds import BRANCHES, by_modules, log_determinants, make_branch, train
from torch.nn.modules import module as every_module

from iresnet_fast import nn
from iresnet_fast.certify import certify
from iresnet_fast.estimators import Exact, PowerSeries
from iresnet_fast.nn import _paths

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast.*autograd fallback"),
]

CHANGES = {
    "forward": lambda m: m.register_forward_hook(lambda m, inputs, output: 0.5 * output),
    "forward, keywords": lambda m: m.register_forward_hook(lambda m, a, k, output: 0.5 * output, with_kwargs=True),
    "forward, always": lambda m: m.register_forward_hook(lambda m, inputs, output: 0.5 * output, always_call=True),
    "before": lambda m: m.register_forward_pre_hook(lambda m, inputs: (0.5 * inputs[0], *inputs[1:])),
    "before, keywords": lambda m: m.register_forward_pre_hook(
        lambda m, a, k: ((0.5 * a[0], *a[1:]), k), with_kwargs=True
    ),
    "replaced": lambda m: setattr(m, "forward", halved(m.forward)),
}
PLACES = {"first": lambda b: b.layers[0], "last": lambda b: b.layers[-1], "branch": lambda b: b}


def halved(forward):
    return lambda *arguments, **keywords: 0.5 * forward(*arguments, **keywords)


def make_block(kind, estimator=Exact()):  # noqa: B008
    branch, arguments = make_branch(kind)
    return nn.InvertibleResidualBlock(branch, estimator), arguments


@pytest.mark.parametrize("kind", [kind for kind in BRANCHES if kind != "normalised as a whole"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", CHANGES)
def test_what_a_hook_makes_of_activations_is_used(kind, place, change):
    block, (x, *context) = make_block(kind)
    plain = block(x, *context)[0].detach()
    CHANGES[change](PLACES[place](block.branch))
    assert float((block(x, *context)[0] - plain).detach().abs().max()) > 1e-3
    train(block, (x, *context))
    block.eval()
    with torch.no_grad():
        z, logdet = block(x, *context)
        expected = block.branch(x, *context) if place == "branch" else by_modules(block.branch, x, *context)
        torch.testing.assert_close(z, x + expected)
        torch.testing.assert_close(block.inverse(z, *context)[0], x, atol=1e-4, rtol=0.0)
    torch.testing.assert_close(logdet, log_determinants(block.branch, x, *context))
    assert certify(block, n_steps=0).branches[0].branch.method == "declared"


@pytest.mark.parametrize("kind", BRANCHES)
@pytest.mark.parametrize("place", PLACES)
def test_hooks_that_look_change_nothing(kind, place):
    block, arguments = make_block(kind)
    expected = [t.detach() for t in block(*arguments)]
    module, seen = PLACES[place](block.branch), []
    module.register_forward_hook(lambda m, inputs, output: seen.append("after"))
    found = block(*arguments)
    assert seen == ["after"]
    torch.testing.assert_close([t.detach() for t in found], expected)
    twin = copy.deepcopy(block)
    torch.testing.assert_close([t.detach() for t in twin(*arguments)], expected)


@pytest.mark.parametrize("kind", BRANCHES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
@pytest.mark.parametrize("estimator", [Exact(), PowerSeries(4)])
def test_hooks_of_backward_passes(kind, place, register, estimator):
    """They see one gradient in a backward pass and none in a forward pass, which takes products with the Jacobian."""
    block, (x, *context) = make_block(kind, estimator)
    x.requires_grad_()

    def gradients():
        torch.manual_seed(1)
        z, logdet = block(x, *context)
        assert seen == []
        (z.square().sum() + logdet.sum()).backward()
        found = [x.grad.clone(), *(p.grad.clone() for p in block.parameters())]
        block.zero_grad()
        x.grad = None
        return z.detach(), logdet.detach(), found

    seen = []
    expected = gradients()
    shape = PLACES[place](block.branch)(x, *context).shape if place == "branch" else None
    getattr(PLACES[place](block.branch), register)(lambda m, *grads: seen.append(grads[-1][0].shape))
    torch.testing.assert_close(gradients(), expected, atol=1e-5, rtol=1e-4)
    assert len(seen) == 1
    assert shape is None or seen == [shape]
    seen.clear()
    with torch.no_grad():
        block.eval()(x, *context)
        block.inverse(x, *context)
    assert seen == []


def test_a_hook_that_changes_gradients_does_not_change_the_log_determinant():
    block, (x,) = make_block("residual")
    x.requires_grad_()
    logdet = block(x)[1].detach()
    block.branch.layers[0].register_full_backward_hook(lambda m, grads, outer: tuple(0.0 * g for g in grads))
    z, found = block(x)
    torch.testing.assert_close(found.detach(), logdet)
    z.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("kind", ["residual", "conv", "dense", "induced"])
def test_hooks_of_all_modules(kind):
    block, arguments = make_block(kind)
    expected = block(*arguments)[0].detach()
    called = []
    with every_module.register_module_forward_hook(lambda m, inputs, output: called.append(m)):
        torch.testing.assert_close(block(*arguments)[0].detach(), expected)
    assert set(block.branch.layers) | {block, block.branch} <= set(called)
    called.clear()
    block(*arguments)
    assert called == []


def test_a_pre_hook_that_sets_the_weight():
    for kind in ("residual", "conv", "dense", "induced"):
        block, (x,) = make_block(kind)
        for layer in block.branch.layers:
            layer.register_parameter("raw", torch.nn.Parameter(layer.weight.detach()))
            del layer._parameters["weight"]
            layer.weight = layer.raw - layer.raw.mean()
            layer.register_forward_pre_hook(lambda m, _: setattr(m, "weight", m.raw - m.raw.mean()))
        before = block(x)[0].detach()
        train(block, (x,))
        block.eval()
        z, logdet = block(x)
        assert not torch.allclose(z, before)
        torch.testing.assert_close(logdet.detach(), log_determinants(block.branch, x))
        torch.testing.assert_close(block.inverse(z)[0].detach(), x, atol=1e-4, rtol=0.0)


class Halved(nn.SpectralLinear):
    def forward(self, input):
        return 0.5 * super().forward(input)


class CalledHalved(nn.SpectralLinear):
    def __call__(self, input):
        return 0.5 * super().__call__(input)


class HalvedBranch(nn.ResidualBranch):
    def forward(self, x, context=None):
        return 0.5 * super().forward(x)


class LowRank(torch.nn.Module):
    """A layer with an adapter beside it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.down = torch.nn.Linear(layer.in_features, 1)
        self.up = torch.nn.Linear(1, layer.out_features)

    def forward(self, x):
        return self.layer(x) + 0.1 * self.up(self.down(x))


SUBCLASSES = {
    "layer": lambda: nn.ResidualBranch([Halved(4, 8), nn.SpectralLinear(8, 4)], ["identity", "elu"]),
    "call": lambda: nn.ResidualBranch([CalledHalved(4, 8), nn.SpectralLinear(8, 4)], ["identity", "elu"]),
    "dense": lambda: nn.DenseBranch([Halved(4, 3), nn.SpectralLinear(10, 4)]),
    "branch": lambda: HalvedBranch([nn.SpectralLinear(4, 8), nn.SpectralLinear(8, 4)], ["identity", "elu"]),
}


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_subclasses_with_a_forward_of_their_own(kind):
    branch = SUBCLASSES[kind]()
    block, x = nn.InvertibleResidualBlock(branch, Exact()), torch.randn(5, 4)
    train(block, (x,))
    z, logdet = block(x)
    expected = 0.5 * nn.ResidualBranch.forward(branch, x) if kind == "branch" else by_modules(branch, x)
    torch.testing.assert_close(z, x + expected)
    torch.testing.assert_close(logdet.detach(), log_determinants(branch, x))


@pytest.mark.parametrize("kind", ["residual", "dense", "induced"])
def test_a_layer_in_a_wrapper(kind):
    block, (x,) = make_block(kind)
    block.branch.layers[0] = LowRank(block.branch.layers[0])
    train(block, (x,))
    z, logdet = block(x)
    torch.testing.assert_close(z, x + by_modules(block.branch, x))
    torch.testing.assert_close(logdet.detach(), log_determinants(block.branch, x))
    assert block.branch.layers[0].up.weight.grad is not None
    assert block.lipschitz is None
    assert certify(block, n_steps=0).branches[0].branch.upper == float("inf")
    with pytest.raises(ValueError, match="lipschitz must be known for the inverse, got None and a"):
        block.inverse(z)
    assert "lipschitz=None" in repr(block)


def test_another_layer_in_the_place_of_the_first():
    block, (x,) = make_block("residual")
    block(x)
    block.branch.layers[0] = nn.SpectralLinear(4, 16, coeff=0.5)
    train(block, (x,))
    torch.testing.assert_close(block(x)[0], x + by_modules(block.branch, x))
    assert block.lipschitz == pytest.approx(0.45)
    block.branch.layers[0] = torch.nn.Linear(4, 16)
    torch.testing.assert_close(block(x)[0], x + by_modules(block.branch, x))
    assert block.lipschitz is None


@pytest.mark.parametrize("kind", ["residual", "dense", "conditional", "induced"])
def test_a_layer_of_another_kind_in_the_place_of_the_last(kind):
    block, (x, *context) = make_block(kind)
    last = block.branch.layers[-1]
    other = nn.SpectralLinear if kind == "induced" else nn.InducedNormLinear
    block.branch.layers[-1] = other(last.in_features, 4, coeff=0.3)
    train(block, (x, *context))
    z, logdet = block(x, *context)
    torch.testing.assert_close(z, x + by_modules(block.branch, x, *context))
    torch.testing.assert_close(logdet.detach(), log_determinants(block.branch, x, *context))
    assert block.lipschitz is None
    assert certify(block, n_steps=0).branches[0].branch.method == "declared"


def test_another_activation():
    for kind in ("dense", "conditional", "induced"):
        block, (x, *context) = make_block(kind)
        block.branch.activations[-1] = (
            torch.nn.Tanh() if kind != "dense" else torch.nn.Sequential(nn.Activation("clipswish"))
        )
        train(block, (x, *context))
        torch.testing.assert_close(block(x, *context)[1].detach(), log_determinants(block.branch, x, *context))
        assert block.lipschitz is None
        assert "lipschitz=None" in repr(block)
        assert certify(block, n_steps=0).branches[0].branch.upper == float("inf")


def test_a_convolution_that_does_not_keep_the_size_is_not_taken_for_one_that_does():
    block, (x,) = make_block("conv")
    block.branch.layers[0] = nn.SpectralConv2d(4, 6, 3, padding=2, dilation=2)
    block.branch.layers[1] = nn.SpectralConv2d(6, 4, 1)
    torch.testing.assert_close(block(x)[0], x + by_modules(block.branch, x))


def test_the_block_says_why_it_is_slower(monkeypatch):
    monkeypatch.setattr(_paths, "_told", set())
    block, (x,) = make_block("residual")
    block.branch.layers[1].register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=r"on the autograd fallback since layers\[1\] has hooks"):
        block(x)
    assert re.search(r"path=autograd fallback \(layers\[1\] has hooks\)", repr(block))


def test_weights_that_a_call_may_change_cannot_be_normalised_as_a_whole():
    block, (x,) = make_block("normalised as a whole")
    block.branch.layers[0].register_forward_pre_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"normalize must be 'layers' .* layers\[0\] has hooks; build"):
        block(x)


@pytest.mark.slow
@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_compiled_code_leaves_the_call_of_hooked_layers_alone(register):
    torch.compiler.reset()
    block, (x,) = make_block("residual", PowerSeries(4))
    scale = (lambda m, i: (0.5 * i[0],)) if "pre" in register else (lambda m, i, output: 0.5 * output)
    getattr(block.branch.layers[0], register)(scale)
    compiled = torch.compile(block, backend="aot_eager")
    found = []
    for call in (block, compiled):
        torch.manual_seed(1)
        z, logdet = call(x)
        block.zero_grad()
        (z.square().sum() + logdet.sum()).backward()
        found.append([z.detach(), logdet.detach(), *(p.grad.clone() for p in block.parameters())])
    torch.testing.assert_close(found[1], found[0])
