"""certified_lipschitz: bounds of the norms of the layers as they are, and what follows from them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from models_examples import make_classifier, make_data, make_flow, make_hybrid

from iresnet_fast import nn
from iresnet_fast.models import BlockLipschitz, FlowConfig, IResNetFlow, certified_lipschitz
from iresnet_fast.nn import _norms

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. Block runs"),
]


def test_norms_are_those_of_the_normalised_weights():
    flow = make_flow("dense").eval()
    table = certified_lipschitz(flow)
    blocks = [module for module in flow.modules() if isinstance(module, nn.InvertibleResidualBlock)]
    assert len(table.blocks) == len(blocks) == 2
    for row, block in zip(table.blocks, blocks, strict=True):
        weights, *_ = block.branch.stages()
        norms = [float(torch.linalg.matrix_norm(weight.detach(), 2)) for weight in weights]
        assert all(
            low <= norm * (1.0 + 1e-14) and norm <= high * (1.0 + 1e-14) and high < low * (1.0 + 1e-8)
            for low, norm, high in zip(row.lower_norms, norms, row.norms, strict=True)
        )
        assert 0.0 < row.lower <= row.lipschitz < norms[0] * norms[1] * norms[2]  # of LipSDP
        assert row.declared == pytest.approx(0.9**3)
    assert table.worst == max(row.lipschitz for row in table.blocks)
    assert 0.9 * (1.0 - 1e-5) < table.worst_layer <= 0.9
    low, high = table.bi_lipschitz
    assert 0.0 < low < 1.0 < high
    first, second, _ = str(table).splitlines()
    assert first.split() == ["block", "lipschitz", "declared", "layers"]
    assert second.split()[0] == table.blocks[0].name == "body.1"


@pytest.mark.parametrize("name", ["context", "densenet", "image", "image densenet", "roulette"])
def test_every_branch_keeps_what_it_declares(name):
    flow = make_flow(name).eval()
    x, context = make_data(flow)
    flow.log_prob(x, context)
    table = certified_lipschitz(flow)
    for row in table.blocks:
        assert 0.0 < row.lipschitz <= row.declared * (1.0 + 1e-3) < 1.0


def test_training_goes_on_as_if_nobody_had_looked():
    looked, alone = make_flow("dense"), make_flow("dense")
    x, _ = make_data(looked)
    for flow in (looked, alone):
        torch.manual_seed(3)
        optimizer = torch.optim.SGD(flow.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (-flow.log_prob(x).mean()).backward()
            optimizer.step()
            if flow is looked:
                certified_lipschitz(flow)
    assert all(torch.equal(a, b) for a, b in zip(looked.parameters(), alone.parameters(), strict=True))
    assert torch.equal(looked.log_prob(x), alone.log_prob(x))


@pytest.mark.parametrize("training", [True, False])
def test_it_looks_at_the_weights_and_not_at_sigma(monkeypatch, training):
    settle = _norms.settle

    def half(*arguments):
        norms = settle(*arguments)
        return norms._replace(sigmas=0.5 * norms.sigmas)

    monkeypatch.setattr(_norms, "settle", half)
    block = nn.InvertibleResidualBlock(nn.ResidualBranch.dense([30, 40, 30], coeff=0.4)).train(training)
    with torch.no_grad():
        for layer in block.branch.layers:
            layer.weight.mul_(5.0)
    block(torch.randn(4, 30))
    table = certified_lipschitz(block)
    assert table.worst_layer == pytest.approx(0.8, rel=1e-4)
    assert table.blocks[0].name == "the block"


def test_unbounded_blocks_are_measured():
    model, _ = make_classifier("small", coeff=None)
    table = certified_lipschitz(model)
    block = next(module for module in model.modules() if hasattr(module, "image_size"))
    layer = block.branch[0]
    height, width = block.image_size
    basis = torch.eye(layer.in_channels * height * width, dtype=torch.float64).view(
        -1, layer.in_channels, height, width
    )
    matrix = F.conv2d(basis, layer.weight.detach(), padding=1).flatten(1)
    assert table.blocks[0].norms[0] == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-3)
    assert table.blocks[0].declared is None
    assert "unknown" in str(table)


def test_other_branches_and_other_models():
    induced = nn.InvertibleResidualBlock(nn.InducedNormBranch.dense([4, 6, 4], norm=2.0))
    table = certified_lipschitz(induced)
    assert 0.0 < table.worst <= induced.lipschitz * (1.0 + 1e-6)
    nobody = certified_lipschitz(IResNetFlow(FlowConfig((2,), blocks=(0,), linear=True)))
    assert (nobody.worst, nobody.worst_layer, nobody.bi_lipschitz) == (0.0, 0.0, (1.0, 1.0))
    assert str(nobody).startswith("block")
    hybrid, x, _ = make_hybrid()
    hybrid(x)
    assert len(certified_lipschitz(copy.deepcopy(hybrid)).blocks) == 2
    unknown = nn.InvertibleResidualBlock(torch.nn.Linear(2, 2), lipschitz=0.3)
    assert certified_lipschitz(unknown).blocks == (BlockLipschitz("the block", (), 0.3, 0.3),)
