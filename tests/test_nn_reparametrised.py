"""Pruned, weight-normalised and parametrised layers of a branch: the tensors that these make are the ones used."""

import copy

import pytest
import torch
from branch_kinds import BRANCHES, by_modules, log_determinants, make_branch, train
from torch.nn.utils import parametrizations, parametrize, prune

from iresnet_fast import nn
from iresnet_fast.certify import certify
from iresnet_fast.estimators import Exact, PowerSeries
from iresnet_fast.models import FlowConfig, IResNetFlow
from iresnet_fast.nn.spectral import effective_weights

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast.*autograd fallback", "ignore:.*is deprecated:FutureWarning"),
]


class LowRank(torch.nn.Module):
    """Adds a matrix of rank two, as LoRA does."""

    def __init__(self, weight):
        super().__init__()
        self.a = torch.nn.Parameter(torch.randn(weight.shape[0], 2))
        self.b = torch.nn.Parameter(torch.randn(2, weight[0].numel()))

    def forward(self, weight):
        return weight + (self.a @ self.b).view_as(weight)


class Tanh(torch.nn.Module):
    def forward(self, tensor):
        return 2.0 * torch.tanh(tensor)


class Noise(torch.nn.Module):
    def forward(self, weight):
        return weight + torch.randn_like(weight)


MAKERS = {
    "l1": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "rows": lambda layer: prune.ln_structured(layer, "weight", 0.5, n=2, dim=0),
    "bias": lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
    "twice": lambda layer: [prune.random_unstructured(layer, "weight", 0.3) for _ in range(2)],
    "old weight_norm": torch.nn.utils.weight_norm,
    "old spectral_norm": torch.nn.utils.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral_norm": parametrizations.spectral_norm,
    "low rank": lambda layer: parametrize.register_parametrization(layer, "weight", LowRank(layer.weight)),
    "parametrised bias": lambda layer: parametrize.register_parametrization(layer, "bias", Tanh()),
}


def make_block(kind, maker, estimator=Exact()):  # noqa: B008
    branch, arguments = make_branch(kind)
    for layer in branch.layers:
        MAKERS[maker](layer)
    return nn.InvertibleResidualBlock(branch, estimator), arguments


@pytest.mark.parametrize("kind", BRANCHES)
@pytest.mark.parametrize("maker", MAKERS)
def test_what_is_made_of_the_weights_is_used(kind, maker):
    block, (x, *context) = make_block(kind, maker)
    outputs = train(block, (x, *context))
    assert not torch.allclose(outputs[0], outputs[-1])
    assert [name for name, p in block.named_parameters() if p.grad is None] == []
    block.eval()
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            z, logdet = block(x, *context)
            back, _ = block.inverse(z, *context)
            if kind != "normalised as a whole":
                torch.testing.assert_close(z, x + by_modules(block.branch, x, *context))
        torch.testing.assert_close(back.detach(), x, atol=1e-4, rtol=0.0)
    torch.testing.assert_close(logdet.detach(), log_determinants(block.branch, x, *context))
    if kind not in ("conv", "induced", "normalised as a whole"):
        weights = effective_weights(list(block.branch.layers))
        norms = [float(torch.linalg.matrix_norm(w.detach(), 2)) for w in weights]
        assert max(norms) <= 0.9 * (1 + 1e-4)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("kind", ["residual", "conv", "dense", "induced"])
def test_copies_and_state_dicts(kind, maker):
    block, arguments = make_block(kind, maker)
    train(block, arguments)
    block.eval()
    expected = block(*arguments)[0].detach()
    twin = copy.deepcopy(block)
    assert torch.equal(twin(*arguments)[0], expected)
    state = copy.deepcopy(block.state_dict())
    train(twin.train(), arguments, 3, 1.0)  # the copy has layers, hooks and norms of its own
    assert torch.equal(block(*arguments)[0], expected)
    twin.eval().load_state_dict(state)
    torch.testing.assert_close(twin(*arguments)[0].detach(), expected)


def test_a_mask_holds_through_training_and_after_it_is_made_permanent():
    block, arguments = make_block("residual", "l1")
    mask = block.branch.layers[0].weight_mask.bool()
    train(block, arguments)
    assert torch.equal(effective_weights(list(block.branch.layers))[0] != 0.0, mask)
    block.eval()
    expected = block(*arguments)[0].detach()
    for layer in block.branch.layers:
        prune.remove(layer, "weight")
    assert torch.equal(block(*arguments)[0], expected)
    train(block.train(), arguments)


def test_pruning_of_several_layers_together():
    branch, arguments = make_branch("residual")
    prune.global_unstructured([(layer, "weight") for layer in branch.layers], prune.L1Unstructured, amount=0.4)
    block = nn.InvertibleResidualBlock(branch, Exact())
    outputs = train(block, arguments)
    assert not torch.allclose(outputs[0], outputs[-1])
    zeros = sum(int((weight == 0.0).sum()) for weight in branch.stages()[0])
    assert zeros == round(0.4 * 2 * 4 * 16)


def test_a_parametrised_beta():
    branch, arguments = make_branch("residual")
    parametrize.register_parametrization(branch, "beta_1", Tanh())
    block = nn.InvertibleResidualBlock(branch, Exact())
    train(block, arguments)
    torch.testing.assert_close(block(*arguments)[1], log_determinants(branch, *arguments))


@pytest.mark.parametrize("kind", ["residual", "dense"])
def test_a_weight_that_is_drawn_is_drawn_once_in_a_call(kind):
    branch, (x,) = make_branch(kind)
    for layer in branch.layers:
        parametrize.register_parametrization(layer, "weight", Noise())
    block = nn.InvertibleResidualBlock(branch, Exact())
    found = block.certified_inverse(x)
    assert float(found.error.max()) <= block.solver.tol  # another map in every evaluation has no fixed point
    assert not torch.allclose(block(x)[0], block(x)[0])


@pytest.mark.parametrize("maker", ["l1", "weight_norm"])
@pytest.mark.parametrize("kind", ["residual", "conv", "dense", "conditional", "induced"])
def test_bounds_are_those_of_the_weights_that_are_made(kind, maker):
    block, (x, *context) = make_block(kind, maker)
    train(block, (x, *context))
    row = certify(block.eval(), n_steps=0).branches[0]
    assert len(row.layers) == len(block.branch.layers)
    assert 0.0 < row.branch.upper <= block.lipschitz * (1 + 1e-3)
    with torch.no_grad():
        step = 1e-2 * torch.randn_like(x)
        change = by_modules(block.branch, x + step, *context) - by_modules(block.branch, x, *context)
        assert float(change.norm() / step.norm()) <= row.branch.upper * (1 + 1e-3)


@pytest.mark.parametrize("branch", ["residual", "dense", "induced"])
def test_a_flow_of_pruned_layers(branch):
    activation = "clipswish" if branch == "dense" else "elu"
    flow = IResNetFlow(FlowConfig((2,), (2,), (8, 8), branch=branch, norm="2", activation=activation))
    x = torch.randn(16, 2)
    flow.initialize(x)
    for module in flow.modules():
        if isinstance(module, (nn.SpectralLinear, nn.InducedNormLinear)):
            prune.l1_unstructured(module, "weight", 0.3)
    optimizer = torch.optim.Adam(flow.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (-flow.log_prob(x).mean()).backward()
        optimizer.step()
    flow.eval()
    twin = copy.deepcopy(flow)
    with torch.no_grad():
        z, logdet = flow(x)
        back, _ = flow.inverse(z)
        torch.testing.assert_close(back, x, atol=1e-3, rtol=0.0)
        assert torch.equal(twin.log_prob(x), flow.log_prob(x))
    rows = torch.stack([torch.autograd.functional.jacobian(lambda a: flow(a[None])[0][0], a) for a in x])
    torch.testing.assert_close(logdet, torch.linalg.slogdet(rows)[1], atol=1e-4, rtol=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("maker", ["l1", "old weight_norm", "weight_norm", "orthogonal"])
def test_compiled_training_of_reparametrised_layers(maker):
    torch.compiler.reset()
    block, (x,) = make_block("residual", maker, PowerSeries(5))
    twin = copy.deepcopy(block)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    for step in range(2):
        found = []
        for model, call in ((block, block), (twin, compiled)):
            torch.manual_seed(step)
            z, logdet = call(x)
            model.zero_grad()
            (z.square().sum() - logdet.sum()).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(0.01 * p.grad)
            found.append((z.detach(), logdet.detach()))
        torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)
