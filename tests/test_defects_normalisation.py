"""What other invertible residual networks got wrong in normalising weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from comparison import RecordedOps
from layers import make_layers

from iresnet_fast import nn, ops
from iresnet_fast.estimators import Exact, PowerSeries
from iresnet_fast.geometry import ConvGeometry
from iresnet_fast.solvers import FixedPoint


def dense_block(estimator=None, activation="elu", width=16, **options):
    branch = nn.ResidualBranch.dense([4, width, 4], activation=activation, **options)
    return nn.InvertibleResidualBlock(branch, estimator, FixedPoint(1e-10)).double()


def operator_norm(layer, image_size, weight=None):
    """The largest singular value of a convolution on images of this size, from its explicit matrix."""
    weight = (layer.weight if weight is None else weight).detach()
    size = weight.shape[1] * math.prod(image_size)
    basis = torch.eye(size, dtype=weight.dtype).view(size, weight.shape[1], *image_size)
    return torch.linalg.matrix_norm(F.conv2d(basis, weight, padding=layer.padding).flatten(1), 2).item()


def test_defect_1_tolerance_is_not_vacuous_in_high_dimension():
    """residual-flows stops on the RMS change of a unit vector, always small: sigma came out 0.91 to 0.97 of it."""
    torch.manual_seed(1)
    layer = nn.SpectralConv2d(12, 24, 3, padding=1, image_size=16)
    layer(torch.randn(1, 12, 16, 16))
    found = ops.spectral_norm([layer.weight], [layer.u], [layer.v], [layer.geometry], 3000)[0].item()
    assert layer.sigma.item() > 0.99 * found
    # The test is the relative change of sigma itself: a step that changes it by more goes on.
    cold = [layer.weight], [torch.randn_like(layer.u)], [torch.randn_like(layer.v)], [layer.geometry]
    sigma, _, _, (count,) = ops.spectral_norm(*cold, 1000, 1e-3)
    before = [ops.spectral_norm(*cold, int(count) - k)[0] for k in (1, 2)]
    assert abs(sigma - before[0]) <= 1e-3 * sigma
    assert abs(before[0] - before[1]) > 1e-3 * before[0]


def test_defect_2_an_explicit_tolerance_is_used():
    """residual-flows and normflows take atol where rtol was given: asking for more precision changed nothing."""
    layers = make_layers(["matrix", "same", "strides"])
    counts = torch.stack([ops.spectral_norm(*layers, 1000, tol)[3] for tol in (1e-1, 1e-3, 1e-6)])
    assert (counts.diff(dim=0) > 0).all()


def test_defect_3_sigma_is_that_of_the_image_size_in_use():
    """residual-flows and normflows keep the sigma of the first image size they ever saw."""
    layer = nn.SpectralConv2d(2, 3, 3, padding=1).double()
    for size in ((4, 4), (9, 7), (4, 4)):
        layer(torch.randn(1, 2, *size, dtype=torch.float64))
        assert layer.sigma.item() == pytest.approx(operator_norm(layer, size), rel=1e-3)
    assert operator_norm(layer, (9, 7)) > 1.02 * operator_norm(layer, (4, 4))


def test_defect_4_sigma_is_that_of_the_convolution_not_of_the_reshaped_weight():
    """torch's spectral_norm and torchflows reshape the kernel to a matrix: 0.37 to 0.94 of the norm at 3 x 3."""
    layer = nn.SpectralConv2d(3, 4, 3, padding=1, image_size=8).double()
    layer(torch.randn(1, 3, 8, 8, dtype=torch.float64))
    reshaped = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
    assert layer.sigma.item() == pytest.approx(operator_norm(layer, (8, 8)), rel=1e-3)
    assert reshaped < 0.95 * layer.sigma.item()


@pytest.mark.parametrize("training", [True, False])
def test_defect_5_the_coefficient_is_used_and_the_map_is_a_function(training):
    """torchflows never uses its coefficient and starts from a random vector at every call: no two forwards agree."""
    layer = nn.SpectralLinear(20, 20, coeff=0.7).double().train(training)
    layer.weight.detach().mul_(20.0)
    x = torch.randn(5, 20, dtype=torch.float64)
    assert torch.equal(layer(x), layer(x))
    norm = torch.linalg.matrix_norm(layer(torch.eye(20).double()) - layer.bias, 2)
    assert norm.item() == pytest.approx(0.7, rel=1e-3)


def test_defect_5_as_many_layers_as_asked_for():
    """torchflows counts layers by the hidden width: 13 linear layers for one hidden layer."""
    assert len(nn.ResidualBranch.dense([4, 13, 4]).layers) == 2


def test_defect_6_training_keeps_the_contraction_without_any_call():
    """normflows needs update_lipschitz by hand: without it layers of 0.9 have norms up to 2.51 after 300 Adam steps."""
    torch.manual_seed(0)
    block = dense_block(PowerSeries(3)).float()
    optimizer = torch.optim.Adam(block.parameters(), 0.01)
    x = torch.randn(32, 4)
    for _ in range(300):
        z, logdet = block(x)
        optimizer.zero_grad()
        (0.01 * z.square().sum(1) - logdet).mean().backward()
        optimizer.step()
    block(x)
    for layer, weight in zip(block.branch.layers, block.branch.stages()[0], strict=True):
        assert torch.linalg.matrix_norm(layer.weight, 2) > 0.95  # training did push against the bound
        assert torch.linalg.matrix_norm(weight, 2) <= 0.9 * 1.02


def test_defect_6_evaluation_sees_weights_changed_since():
    """i-ResNet updates u, v in training forwards only: after an EMA swap evaluation uses those of other weights."""
    layer = nn.SpectralLinear(6, 6).double().eval()
    layer(torch.eye(6).double())
    with torch.no_grad():
        layer.weight.copy_(10.0 * torch.randn(6, 6))
    layer(torch.eye(6).double())
    assert layer.sigma.item() == pytest.approx(torch.linalg.matrix_norm(layer.weight, 2).item(), rel=1e-3)
    assert "sigma" in layer.state_dict()


def test_defect_6_an_inverse_in_training_inverts_one_map():
    """In i-ResNet each iteration of an inverse in training mode updates sigma, and so changes the map it inverts."""
    block = dense_block().train()
    x = torch.randn(5, 4, dtype=torch.float64)
    z, _ = block(x)
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    torch.testing.assert_close(block.inverse(z)[0], x, rtol=0.0, atol=1e-9)
    assert all(torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items())


def test_defect_7_an_update_between_forward_and_backward_is_harmless():
    """residual-flows changes u and v in place while autograd holds them: "modified by an inplace operation"."""
    gradients = []
    for update in (False, True):
        torch.manual_seed(0)
        block = dense_block(Exact())
        loss = sum(out.sum() for out in block(torch.ones(3, 4, dtype=torch.float64)))
        if update:
            nn.update_spectral_norm(block, n_iterations=3)
        gradients.append(torch.autograd.grad(loss, list(block.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_defect_9_convolutions_and_matrices_are_normalised_alike():
    """i-ResNet adds 1e-5 to the factor of convolutions and not to that of matrices."""
    for scale in (0.1, 10.0):
        weight = scale * torch.randn(3, 4, dtype=torch.float64)
        arguments = [weight, weight[:, :, None, None]], [torch.ones(3).double(), torch.ones(3, 5, 6).double()]
        vs, geometry = [torch.ones(4).double(), torch.ones(4, 5, 6).double()], [None, ConvGeometry((5, 6))]
        sigmas, us, vs, _ = ops.spectral_norm(*arguments, vs, geometry, 200)
        dense, conv = ops.spectral_normalize(arguments[0], sigmas, us, vs, geometry, 0.9)
        torch.testing.assert_close(conv[:, :, 0, 0], dense, rtol=1e-12, atol=0.0)
        torch.testing.assert_close(dense, weight * min(1.0, 0.9 / sigmas[0].item()), rtol=1e-14, atol=0.0)


def test_defect_10_an_inverse_does_not_normalise_again():
    """residual-flows normalises the weights in every evaluation of g: 61 operations per iteration where 18 would do."""
    branch = nn.ResidualBranch.conv([2, 4, 2], [3, 1], image_size=5)
    block = nn.InvertibleResidualBlock(branch, None, FixedPoint(1e-3)).eval()
    z = torch.randn(3, 2, 5, 5)
    with torch.no_grad():
        block.inverse(z)
        with RecordedOps() as recorded:
            _, iterations, _ = block.solve(z)
    assert iterations.min() > 2
    assert recorded.names == ["fingerprint", "residual_inverse"]  # has somebody written the weights?


def test_defect_11_a_state_dict_loads_before_any_forward():
    """residual-flows and normflows refuse it for convolutions, "size mismatch for u", unless a forward ran before."""
    torch.manual_seed(0)
    blocks = [
        nn.InvertibleResidualBlock(
            nn.ResidualBranch.conv([2, 3, 2], [3, 3], activation="lipswish"), PowerSeries(3)
        ).eval()
        for _ in range(2)
    ]
    x = torch.randn(2, 2, 5, 4)
    expected = blocks[0](x)
    blocks[1].load_state_dict(blocks[0].state_dict())
    for layer, saved in zip(blocks[1].branch.layers, blocks[0].branch.layers, strict=True):
        assert torch.equal(layer.u, saved.u)
        assert torch.equal(layer.v, saved.v)
        assert torch.equal(layer.sigma, saved.sigma)
    assert all(torch.equal(a, b) for a, b in zip(blocks[1](x), expected, strict=True))
