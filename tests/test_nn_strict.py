"""Strict layers are bounded by their coeff at every step, and a branch that is normalised as a whole by the product."""

import copy

import pytest
import torch
from nn_models import CONVOLUTIONS, grow, input_of, make_conv, make_linear

from iresnet_fast import certify, models, nn
from iresnet_fast.nn.spectral import effective_weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["linear", *CONVOLUTIONS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_strict_layer_is_bounded_at_every_step(name, dtype):
    layer = (make_linear(strict=True) if name == "linear" else make_conv(name, strict=True)).to(dtype)
    x = input_of(layer)
    for _ in range(3):
        layer.weight.data.normal_().mul_(3.0)
        out = layer(x)
        (weight,) = effective_weights([layer])
        bounds = certify.norm_bounds(weight.detach(), layer.geometry)
        assert 0.9 * (1.0 - 1e-5) <= bounds.lower <= bounds.upper <= 0.9
    out.square().sum().backward()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(200, 150), (150, 300)])
def test_a_large_strict_layer_has_a_bound_above_its_norm(shape):
    """Not the exact norm, as the small ones, but a bound by Gram iteration."""
    layer = nn.SpectralLinear(*shape, strict=True)
    grow(layer, 5.0)
    layer(torch.randn(2, shape[0]))
    (weight,) = effective_weights([layer])
    norm = float(torch.linalg.matrix_norm(weight.detach().double(), 2))
    assert 0.9 / 1.02 <= norm <= 0.9


def blocks_of_training(**options):
    """Yield a block after each of some steps that move its weights far."""
    torch.manual_seed(0)
    block = nn.InvertibleResidualBlock(nn.ResidualBranch.dense([4, 24, 24, 4], **options))
    optimizer = torch.optim.Adam(block.parameters(), 3e-2)
    for _ in range(6):
        z, logdet = block(torch.randn(32, 4))
        yield block
        optimizer.zero_grad()
        (0.5 * z.square().sum(1) - logdet).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("activation", ["elu", "lipswish", "tanh"])
def test_the_bound_of_a_branch_is_the_product_of_the_coeffs(activation):
    for block in blocks_of_training(normalize="branch", activation=activation):
        weights, _, activations, _ = block.branch.stages()
        bound = certify.branch_bound([w.detach() for w in weights], activations, n_steps=0).upper
        assert block.lipschitz * (1.0 - 1e-5) <= bound <= block.lipschitz


def test_the_slack_is_spent():
    (layers, branch) = (
        [float(certify.certify(block, n_steps=0).upper) for block in blocks_of_training(normalize=normalize)]
        for normalize in ("layers", "branch")
    )
    assert all(theirs > 1.05 * ours for ours, theirs in zip(layers, branch, strict=True))


def test_evaluation_computes_the_factor_once_and_follows_the_weights():
    branch = nn.ResidualBranch.dense([4, 24, 24, 4], normalize="branch").eval()
    with torch.no_grad():
        first, again = branch.stages()[0], branch.stages()[0]
        assert all(a is b for a, b in zip(first, again, strict=True))
        branch.layers[1].weight.data.add_(1.0)
        assert not torch.equal(branch.stages()[0][-1], first[-1])
        other = copy.deepcopy(branch)
        assert other._scaled is None
        assert torch.equal(other.stages()[0][-1], branch.stages()[0][-1])


@pytest.mark.slow
def test_a_compiled_branch_spends_its_slack():
    branch = nn.ResidualBranch.dense([4, 24, 4], normalize="branch")
    x = torch.randn(5, 4)
    torch.testing.assert_close(torch.compile(branch, fullgraph=True, backend="aot_eager")(x), branch(x))


def test_the_inverse_is_certified():
    block = next(blocks_of_training(normalize="branch")).eval()
    x = torch.randn(50, 4)
    with torch.no_grad():
        found = block.certified_inverse(block(x)[0])
    assert found.converged.all()
    assert ((found.x - x).norm(dim=1) <= found.error + 1e-5).all()


@pytest.mark.parametrize("normalize", ["strict", "branch"])
def test_models_hand_it_on(normalize):
    flow = models.IResNetFlow(models.FlowConfig(event_shape=(3,), blocks=(2,), hidden=(8, 8), normalize=normalize))
    x = torch.randn(16, 3)
    flow.initialize(x)
    flow.log_prob(x).sum().backward()
    for block in (m for m in flow.modules() if isinstance(m, nn.InvertibleResidualBlock)):
        assert certify.certify(block).upper <= block.lipschitz
    assert models.FlowConfig.from_dict(flow.config.to_dict()) == flow.config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.ResidualBranch.dense([2, 2], normalize="all"), "normalize must be 'layers' or 'branch', got 'all'"),
        (
            lambda: nn.ResidualBranch([nn.SpectralConv2d(2, 2, 3, padding=1)], ["elu"], normalize="branch"),
            "normalize must be 'layers' for convolutions",
        ),
        (lambda: models.FlowConfig((1, 4, 4), normalize="branch"), "normalize must be 'layers' or 'strict' for images"),
        (lambda: models.FlowConfig((2,), normalize="tight"), "normalize must be one of 'layers', 'strict', 'branch'"),
    ],
)
def test_errors_are_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()
