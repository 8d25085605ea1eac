"""Weights that are normalised once for a whole call: of which weights and threads, and when another thread groups."""

import threading

import pytest
import torch
from torch.func import functional_call

from iresnet_fast import nn
from iresnet_fast.estimators import Exact, PowerSeries
from iresnet_fast.nn._group import SpectralGroup
from iresnet_fast.nn.spectral import count_unsettled

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. InvertibleResidualBlock runs"),
]


class Lending(torch.nn.Module):
    """A branch whose layer gets its weight from another parameter."""

    lipschitz = 0.9

    def __init__(self):
        super().__init__()
        self.layer = nn.SpectralLinear(4, 4)
        self.other = torch.nn.Parameter(3.0 * torch.randn(4, 4))

    def forward(self, x):
        return functional_call(self.layer, {"weight": self.other}, (x,))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("estimator", [Exact(), PowerSeries(5)], ids=repr)
def test_a_weight_that_a_branch_lends_its_layer_is_the_one_that_counts(mode, estimator):
    block = nn.InvertibleResidualBlock(Lending(), estimator).double().train(mode == "train")
    x = torch.randn(3, 4, dtype=torch.float64)
    z, _ = block(x)
    other = block.branch.other
    normalized = other * (0.9 / torch.linalg.matrix_norm(other.detach(), 2))
    torch.testing.assert_close(z, x + x @ normalized.T + block.branch.layer.bias, rtol=1e-3, atol=1e-3)
    z.sum().backward()
    assert other.grad is not None
    assert block.branch.layer.weight.grad is None


def test_what_is_at_hand_stays_there_when_another_thread_groups_the_layers():
    def branches():
        torch.manual_seed(0)
        made = (nn.ResidualBranch.dense([4, 16, 4], normalize="branch", preactivation=True) for _ in range(2))
        model = torch.nn.ModuleList(made).eval()
        for layer in (layer for branch in model for layer in branch.layers):
            layer.weight.data.mul_(5.0)
        return model

    def group(*_):
        thread = threading.Thread(target=lambda: nn.update_spectral_norm(model))
        thread.start()
        thread.join(5)

    x, model = torch.randn(5, 4), branches()
    handle = model[0].layers[0].register_forward_hook(lambda *_: None)
    expected = model[0](x)
    handle.remove()
    model = branches()
    model[0].layers[0].register_forward_hook(group)
    torch.testing.assert_close(model[0](x), expected)


def test_a_nested_call_normalises_nothing_again(monkeypatch):
    layers = [nn.SpectralLinear(4, 4), nn.SpectralConv2d(2, 2, 3, padding=1, image_size=5)]
    group = SpectralGroup.of(layers)
    with group.at_hand(layers):
        first = group.effective_weights(layers)
        with group.at_hand(layers):
            assert all(a is b for a, b in zip(first, group.effective_weights(layers), strict=True))
        weight = group.effective_weights(layers[1:], (7, 7))[0]
        assert weight is not first[1]  # of images of another size


def test_layers_that_become_one_group_keep_their_counts():
    layers = torch.nn.ModuleList(nn.SpectralLinear(300, 300, n_iterations=1, tol=1e-9) for _ in range(3)).train()
    for _ in range(2):
        for layer in layers:
            layer(torch.randn(2, 300))
            layer.weight.data.normal_()
    before = count_unsettled(layers)
    assert before >= 3
    SpectralGroup.of(list(layers))
    assert count_unsettled(layers) == before
