"""Certificates of models: every kind of branch, from the weights as they are used."""

import copy
import math

import pytest
import torch
from models_examples import FLOWS, make_classifier, make_data, make_flow
from torch.nn.utils.parametrizations import orthogonal

from iresnet_fast import nn
from iresnet_fast.certify import Bounds, BranchCertificate, Certificate, certify

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:iresnet_fast")]
BRANCHES = {
    "dense": lambda: nn.ResidualBranch.dense([3, 8, 8, 3], "elu"),
    "dense, preactivation": lambda: nn.ResidualBranch.dense([3, 8, 8, 3], "lipswish", preactivation=True),
    "dense, sine": lambda: nn.ResidualBranch.dense([3, 8, 3], "sin"),
    "dense, maxmin": lambda: nn.ResidualBranch.dense([4, 8, 4], "maxmin"),
    "conv": lambda: nn.ResidualBranch.conv([2, 4, 4, 2], [3, 1, 3], (3, 4), "elu"),
    "conv, preactivation": lambda: nn.ResidualBranch.conv([2, 4, 2], [3, 3], (4, 3), "softplus", preactivation=True),
    "pointwise": lambda: nn.ResidualBranch.conv([2, 8, 8, 2], [1, 1, 1], (2, 2), "tanh"),
    "pointwise, then not": lambda: nn.ResidualBranch.conv([2, 4, 2], [1, 3], (3, 3), "relu"),
    "add": lambda: nn.ConditionalBranch.dense([3, 8, 8, 3], 2, mode="add"),
    "concat": lambda: nn.ConditionalBranch.dense([3, 8, 8, 3], 2, mode="concat"),
    "concat, maxmin": lambda: nn.ConditionalBranch.dense([3, 6, 8, 3], 2, activation="maxmin", mode="concat"),
    "add, images": lambda: nn.ConditionalBranch.conv([2, 4, 2], [3, 3], 2, image_size=(3, 3)),
    "densenet": lambda: nn.DenseBranch.dense(3, 6, 2),
    "densenet, images": lambda: nn.DenseBranch.conv(2, 3, 2, image_size=(3, 3), activation="elu"),
    "induced 2": lambda: nn.InducedNormBranch.dense([3, 8, 3], norm=2.0),
    "induced inf": lambda: nn.InducedNormBranch.dense([3, 8, 3]),
    "masked": lambda: nn.MaskedBranch(nn.ResidualBranch.dense([3, 8, 3], "elu"), sign=-1),
    "masked, induced": lambda: nn.MaskedBranch(nn.InducedNormBranch.dense([3, 8, 3], norm=2.0)),
    "parametrized": lambda: nn.ParametrizedBranch(
        [orthogonal(torch.nn.Linear(*size), orthogonal_map="matrix_exp") for size in ((3, 8), (8, 3))],
        ["identity", "elu"],
    ),
    "induced 1, images": lambda: nn.InducedNormBranch.conv([2, 4, 2], [3, 3], norm=1.0),
}


def make_block(name):
    branch = BRANCHES[name]()
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.mul_(3.0)
    inner = getattr(branch, "branch", branch)
    lipschitz = inner.inverse_lipschitz(18) if isinstance(inner, nn.InducedNormBranch) else None
    return nn.InvertibleResidualBlock(branch, lipschitz=lipschitz).double().eval()


def jacobian_norms(block, count=40):
    """The norms of some Jacobians of the branch, its context drawn anew each time."""
    branch = block.branch
    weight = branch.layers[0].weight
    sizes = [size for layer in branch.layers if (size := getattr(layer, "image_size", None))]
    event = (weight.shape[1], *(sizes[:1] or [(3, 3)])[0]) if weight.dim() == 4 else (weight.shape[1],)
    norms = []
    for _ in range(count):
        x = 2.0 * torch.randn(1, *event, dtype=torch.float64)
        context = (3.0 * torch.randn(1, 2, dtype=torch.float64),) if branch.takes_context else ()
        if isinstance(branch, nn.MaskedBranch):
            context = (nn.Masks(*(2.0 * torch.rand(2, 1, *event, dtype=torch.float64) - 1.0)),)
        jacobian = torch.autograd.functional.jacobian(lambda t, c=context: branch(t, *c), x)
        norms.append(float(torch.linalg.matrix_norm(jacobian.reshape(math.prod(event), -1), 2)))
    return norms


@pytest.mark.parametrize("name", BRANCHES)
def test_every_branch_is_between_its_bounds(name):
    block = make_block(name)
    (row,) = certify(block).branches
    norms = jacobian_norms(block)
    assert row.branch.lower <= row.branch.upper
    assert max(norms) <= row.branch.upper <= row.product < math.inf
    assert row.branch.upper < row.product or row.branch.method == "product"
    assert row.declared == block.lipschitz
    assert len(row.layers) == len(block.branch.layers)
    if isinstance(block.branch, nn.ResidualBranch):
        assert row.branch.lower > 0.3 * max(norms)
    if not isinstance(block.branch, nn.InducedNormBranch):
        assert row.contraction == row.branch.upper <= row.declared * (1.0 + 1e-3)


def test_layers_are_bounded_from_both_sides():
    block = make_block("dense")
    (row,) = certify(block).branches
    weights, *_ = block.branch.stages()
    for layer, weight in zip(row.layers, weights, strict=True):
        norm = float(torch.linalg.matrix_norm(weight.detach(), 2))
        assert layer.lower <= norm * (1.0 + 1e-14) <= layer.upper * (1.0 + 2e-14)
        assert layer.upper <= layer.lower * (1.0 + 1e-8)


def test_a_branch_that_contracts_in_another_norm_is_invertible_all_the_same():
    """Both layers copy their first input to all outputs, 0.9 times: 0.81 in l-infinity, 0.81 sqrt(3) in l2."""
    block = make_block("induced inf")
    with torch.no_grad():
        for layer in block.branch.layers:
            layer.weight.zero_()[:, 0] = 1.0
    certificate = certify(block)
    (row,) = certificate.branches
    assert row.product > 1.2
    assert row.contraction == pytest.approx(1.0 - (1.0 - 0.81) / 3**0.5)
    assert certificate.upper == row.contraction < row.branch.upper
    low, high = certificate.bi_lipschitz
    assert low == pytest.approx(1.0 - row.contraction)
    assert high == pytest.approx(1.0 + row.branch.upper)


def test_bounds_are_those_of_the_weights_that_are_used_whatever_a_layer_believes():
    branch = nn.ResidualBranch.dense([30, 40, 30], coeff=0.5, n_iterations=1, tol=None)
    block = nn.InvertibleResidualBlock(branch)
    block(torch.randn(4, 30))
    with torch.no_grad():
        for layer in branch.layers:
            layer.sigma.fill_(1e3)
    weights, *_ = branch.stages()
    (row,) = certify(block).branches
    for layer, weight in zip(row.layers, weights, strict=True):
        assert layer.upper >= float(torch.linalg.matrix_norm(weight.detach().double(), 2))


@pytest.mark.parametrize("size", [(), (5, 4)])
def test_a_claim_that_is_wrong_is_not_believed(size):
    layer = torch.nn.Conv2d(2, 2, 3, padding=1) if size else torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.mul_(0.01)
    block, x = nn.InvertibleResidualBlock(nn.ParametrizedBranch([layer], ["identity"])), torch.randn(3, 2, *size)
    if size:
        with pytest.raises(ValueError, match="the image size of a ParametrizedBranch must be known"):
            certify(block)
    block(x)
    assert certify(block).upper < 0.9
    with torch.no_grad():
        layer.weight.mul_(1000.0)
    apart = (block(x)[0] - block(-x)[0] - 2.0 * x).norm() / (2.0 * x).norm()
    assert 0.9 < float(apart.detach()) <= certify(block).upper


def test_blocks_of_all_models():
    for name in FLOWS:
        flow = make_flow(name, torch.float32).eval()
        x, context = make_data(flow)
        flow.log_prob(x, context.float() if context is not None else None)
        certificate = certify(flow, n_steps=0)
        assert certificate.branches
        assert certificate.lower <= certificate.upper < 1.0
    model, _ = make_classifier("small", coeff=None)
    unbounded = certify(model)
    assert unbounded.lower > 1.0
    assert unbounded.bi_lipschitz[0] == 0.0
    assert all(row.declared is None for row in unbounded.branches)


def test_other_branches_are_as_good_as_their_word():
    class Halving(torch.nn.Module):
        def forward(self, x):
            return 0.5 * x

    told, silent = (nn.InvertibleResidualBlock(Halving(), lipschitz=constant) for constant in (0.5, None))
    assert certify(told).branches[0] == BranchCertificate("the block", (), Bounds(0.0, 0.5, "declared"), 0.5, 0.5, 0.5)
    assert certify(silent).upper == math.inf
    assert certify(silent).bi_lipschitz == (0.0, math.inf)
    assert str(certify(told)).splitlines()[-1] == "taken as declared, not proved, and so is what rests on it: the block"


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), nn.ResidualBranch.dense([2, 4, 2])])
def test_what_has_no_block_has_no_certificate(model):
    with pytest.raises(ValueError, match=r"must have an InvertibleResidualBlock in it, got a .* without one"):
        certify(model)


def test_weights_that_are_not_finite():
    block = make_block("dense")
    with torch.no_grad():
        block.branch.layers[1].weight[0, 0] = math.nan
    (row,) = certify(block).branches
    assert row.branch.upper == math.inf
    assert "inf" in str(certify(block))


def test_the_table():
    row = BranchCertificate(
        "body.0",
        (Bounds(0.5, 0.500001, "eigenvalues"), Bounds(0.7, 0.7000001, "torus")),
        Bounds(0.1234567, 0.2345671, "LipSDP"),
        0.35,
        0.2345671,
        0.36,
    )
    lines = str(Certificate((row,))).splitlines()
    assert lines[0].split() == ["lower", "upper", "product", "declared", "method"]
    assert lines[1].split() == ["body.0", "0.12345", "0.23457", "0.35000", "0.36000", "LipSDP"]
    assert lines[2].split() == ["layer", "0", "0.50000", "0.50001", "eigenvalues"]
    assert lines[4] == "largest of a branch: at least 0.12345, at most 0.23457"
    assert lines[5] == "all blocks together: 0.762 |x - y| <= |f(x) - f(y)| <= 1.24 |x - y|"


def test_neither_the_model_nor_the_generator_notices():
    flow = make_flow("dense").eval()
    x, _ = make_data(flow)
    state, before = copy.deepcopy(flow.state_dict()), torch.get_rng_state()
    with torch.inference_mode():
        flow.log_prob(x)
        first = certify(flow)
    assert torch.equal(before, torch.get_rng_state())
    assert certify(flow) == first
    assert all(torch.equal(value, state[name]) for name, value in flow.state_dict().items())
    assert not any(parameter.grad is not None for parameter in flow.parameters())


def test_a_convolution_must_know_its_image():
    branch = nn.ResidualBranch.conv([2, 4, 2], [3, 3])
    with pytest.raises(ValueError, match="image"):
        certify(nn.InvertibleResidualBlock(branch))
