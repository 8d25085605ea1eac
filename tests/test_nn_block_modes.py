"""InvertibleResidualBlock: shapes, strides, dtypes, gradient modes, torch.func, copies and checkpoints."""

import copy
import io
import math
import pickle

import pytest
import torch
from nn_models import (
    KINDS,
    effective_norm,
    make_block,
    make_input,
    train,
)
from torch.utils.checkpoint import checkpoint

from iresnet_fast import nn
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. (activation|there are no kernels)"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", [PowerSeries(), RussianRoulette(per_sample=True), Exact(), None])
@pytest.mark.parametrize("batch", [0, 1])
def test_defect_22_small_batches(kind, estimator, batch):
    block = make_block(kind, estimator)
    x = make_input(kind, batch).requires_grad_()
    z, logdet = block(x)
    assert z.shape == x.shape
    assert logdet.shape == (batch,)
    back, inverse_logdet = block.inverse(z)
    assert back.shape == x.shape
    assert inverse_logdet.shape == (batch,)
    (logdet.sum() + back.sum()).backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_strided_inputs(kind):
    block = make_block(kind).eval()
    x = make_input(kind)
    strided = x.flip(0).transpose(0, -1).contiguous().transpose(0, -1).flip(0)
    views = [strided, x.repeat_interleave(2, 0)[::2]]
    if kind == "conv":
        views.append(x.to(memory_format=torch.channels_last))
    expected = [*block(x), *block.inverse(x)]
    for view in views:
        assert view.equal(x)
        for a, b in zip([*block(view), *block.inverse(view)], expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", [PowerSeries(), Exact(), None])
def test_nan_stays_in_its_sample(kind, estimator):
    block = make_block(kind, estimator).eval()
    x = make_input(kind)
    expected = block(x)
    x[1].view(-1)[2] = math.nan
    for got, want in zip(block(x), expected, strict=True):
        keep = torch.tensor([0, 2, 3])
        torch.testing.assert_close(got[keep], want[keep])
    assert block(x)[0][1].isnan().any()


@pytest.mark.parametrize("kind", KINDS)
def test_defect_25_bfloat16_module(kind):
    block = make_block(kind).bfloat16()
    x = make_input(kind, dtype=torch.bfloat16)
    z, logdet = block(x)
    assert z.dtype == logdet.dtype == torch.bfloat16
    (z.sum() + logdet.sum()).backward()
    assert all(p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_inference_mode_and_no_grad(kind):
    block = make_block(kind).eval()
    x = make_input(kind)
    expected = [*block(x), *block.inverse(x)]
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            results = [*block(x.clone()), *block.inverse(x.clone())]
        assert not any(r.requires_grad for r in results)
        for a, b in zip(results, expected, strict=True):
            torch.testing.assert_close(a, b)
    block.train()(x)[1].sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_requires_grad_toggled(kind):
    block = make_block(kind, activation="lipswish")
    x = make_input(kind)
    block.requires_grad_(False)
    assert not block(x)[0].requires_grad
    inner = x.clone().requires_grad_()
    sum(r.sum() for r in block(inner)).backward()
    assert inner.grad.isfinite().all()
    assert all(p.grad is None for p in block.parameters())
    block.branch.layers[1].requires_grad_(True)
    sum(r.sum() for r in block(x)).backward()
    assert {name for name, p in block.named_parameters() if p.grad is not None} == {
        "branch.layers.1.weight",
        "branch.layers.1.bias",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_accumulation(kind):
    block = make_block(kind).double()
    x, y = make_input(kind, dtype=torch.float64), make_input(kind, dtype=torch.float64)

    def loss(batch):
        torch.manual_seed(3)
        z, logdet = block(batch)
        return z.square().sum() + logdet.sum()

    def gradients():
        found = [p.grad.clone() for p in block.parameters()]
        block.zero_grad()
        return found

    for batch in (x, y):  # forward, backward, twice without a step
        loss(batch).backward()
    expected = gradients()
    first, second = loss(x), loss(y)  # two forwards, then two backwards
    nn.update_spectral_norm(block.eval())  # in between, and of another mode
    block.train()
    second.backward()
    first.backward()
    for a, b in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_weights_changed_between_forward_and_backward_is_an_error():
    block = make_block("dense")
    loss = block(make_input("dense"))[1].sum()
    with torch.no_grad():
        block.branch.layers[0].weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Recomputed(torch.nn.Module):
    """A branch that keeps nothing but its input for the backward pass."""

    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, x):
        return checkpoint(self.layers, x, use_reentrant=False)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("estimator", [PowerSeries(5), PowerSeries(5, gradient="series"), Exact(), None])
@pytest.mark.filterwarnings("ignore:iresnet_fast. InvertibleResidualBlock runs")
def test_a_checkpoint_in_a_branch(estimator, training):
    def step(branch):
        block = nn.InvertibleResidualBlock(branch, estimator, lipschitz=0.9).train(training)
        torch.manual_seed(5)
        block.zero_grad()
        z, logdet = block(x)
        again, inverse_logdet = block.inverse(0.9 * z.detach())
        ((z + again.sin()).square().sum() - logdet.sum() + 0.5 * inverse_logdet.sum()).backward()
        return [z, logdet, again, *(p.grad.clone() for p in block.parameters())]

    layers = [nn.SpectralLinear(4, 8), torch.nn.Tanh(), nn.SpectralLinear(8, 4)]
    x = torch.randn(5, 4)
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight.mul_(5.0)
    for found, expected in zip(step(Recomputed(layers)), step(torch.nn.Sequential(*layers)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)


class Nested(torch.nn.Module):
    """A branch of the user's around one of ours."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ResidualBranch.dense([6, 8, 6], "sin")

    def forward(self, x):
        return 0.9 * self.inner(x)


def checkpointed(function, x):
    return checkpoint(function, x, use_reentrant=False)


def on_the_cpu(function, x):
    with torch.autograd.graph.save_on_cpu():
        return function(x)


@pytest.mark.parametrize("packing", [checkpointed, on_the_cpu])
@pytest.mark.parametrize("estimator", [PowerSeries(4), PowerSeries(4, gradient="series"), Exact(), None])
@pytest.mark.parametrize("kind", [*KINDS, "inverse", "nested"])
@pytest.mark.filterwarnings("ignore:iresnet_fast. InvertibleResidualBlock runs")
def test_scores_where_saved_tensors_are_packed(kind, estimator, packing):
    """A score is a gradient that is differentiated again; here it is taken inside what packs saved tensors."""
    block = make_block("dense" if kind in ("inverse", "nested") else kind, estimator)
    if kind == "nested":
        block = nn.InvertibleResidualBlock(Nested(), estimator, lipschitz=0.9)
    x = make_input("conv" if kind == "conv" else "dense")
    block(x)

    def score(x):
        torch.manual_seed(5)
        z, logdet = (block.inverse if kind == "inverse" else block)(x)
        return torch.autograd.grad(logdet.sum() - z.sin().sum(), x, create_graph=True)[0]

    found = []
    for way in (packing, lambda function, x: function(x)):
        block.zero_grad()
        leaf = x.clone().requires_grad_()
        value = way(score, leaf)
        value.square().sum().backward()
        found.append([value, leaf.grad, *(p.grad for p in block.parameters())])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_func_grad_and_functional_call(kind):
    block = make_block(kind, activation="lipswish").eval()
    x = make_input(kind)

    def loss(parameters):
        z, logdet = torch.func.functional_call(block, parameters, (x,))
        return z.square().sum() - logdet.sum()

    parameters = {name: p.detach() for name, p in block.named_parameters()}
    gradients = torch.func.grad(loss)(parameters)
    assert not any(torch._C._functorch.is_functorch_wrapped_tensor(b) for b in block.buffers())
    loss(dict(block.named_parameters())).backward()
    for name, parameter in block.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
    by_input = torch.func.grad(lambda a: block(a)[1].sum())(x)
    inner = x.clone().requires_grad_()
    block(inner)[1].sum().backward()
    torch.testing.assert_close(by_input, inner.grad)


def test_golden_state_dict_keys():
    branch = nn.ResidualBranch.conv([4, 8, 4], [3, 1], 5, "lipswish", bias=False)
    names = [f"branch.layers.{i}.{name}" for i in range(2) for name in ("weight", "u", "v", "companion", "sigma")]
    assert list(nn.InvertibleResidualBlock(branch).state_dict()) == ["branch.beta_1", *names]
    dense = nn.InvertibleResidualBlock(nn.ResidualBranch.dense([4, 4]))
    names = ("weight", "bias", "u", "v", "companion", "sigma")
    assert list(dense.state_dict()) == [f"branch.layers.0.{name}" for name in names]


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_checkpoints_compute_the_same(kind):
    block = make_block(kind, activation="lipswish")
    train(block, kind, 3)
    x = make_input(kind)
    file = io.BytesIO()
    torch.save(block.state_dict(), file)
    file.seek(0)
    loaded = make_block(kind, activation="lipswish")
    loaded.load_state_dict(torch.load(file, weights_only=True))
    others = [copy.deepcopy(block), pickle.loads(pickle.dumps(block)), loaded]
    expected = block.eval()(x)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(other.eval()(x), expected, strict=True))


def test_eval_after_loading_changed_weights():
    block, other = make_block("dense").eval(), make_block("dense", gain=9.0).eval()
    x = make_input("dense")
    block(x)
    state = other.state_dict()  # never run: u, v, sigma tell nothing about its weights
    block.load_state_dict(state)
    torch.testing.assert_close(block(x), other(x), rtol=1e-4, atol=1e-5)


def test_exponential_moving_average_model():
    block = make_block("dense")
    average = torch.optim.swa_utils.AveragedModel(block, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    x = make_input("dense")
    for _ in range(3):
        train(block, "dense", 2, lr=0.1)
        average.update_parameters(block)
        average.eval()(x)
        for layer in average.module.branch.layers:
            assert effective_norm(layer, None) <= 0.9 * 1.001
