"""Sequential and MultiScale: the list, the context, the order of the latent."""

import pytest
import torch

from iresnet_fast import nn
from iresnet_fast.estimators import Exact
from iresnet_fast.solvers import FixedPoint

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. InvertibleResidualBlock runs"),
]


def conditional_block():
    branch = nn.ConditionalBranch.dense([4, 8, 4], context_features=3)
    return nn.InvertibleResidualBlock(branch, Exact(), FixedPoint(1e-6))


def plain_block():
    return nn.InvertibleResidualBlock(nn.ResidualBranch.dense([4, 8, 4]), Exact(), FixedPoint(1e-6))


def test_it_is_a_list():
    layers = [nn.ActNorm(4), plain_block(), nn.InvertibleLinear(4)]
    flow = nn.Sequential(*layers)
    assert len(flow) == 3
    assert flow[1] is layers[1]
    assert list(flow) == layers
    assert isinstance(flow[1:], nn.Sequential)
    assert list(flow[1:]) == layers[1:]
    flow.append(nn.Permutation.reverse(4))
    x = torch.randn(6, 4)
    z, logdet = flow(x)
    expected, total = x, 0.0
    for layer in flow:
        expected, part = layer(expected)
        total = total + part
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(logdet, total)
    assert "(3): Permutation(4)" in repr(flow)
    assert [name for name, _ in flow.named_children()] == ["0", "1", "2", "3"]


def test_empty_is_the_identity():
    x = torch.randn(6, 4)
    for z, logdet in (nn.Sequential()(x), nn.Sequential().inverse(x)):
        assert torch.equal(z, x)
        assert torch.equal(logdet, torch.zeros(6))


class Scale(torch.nn.Module):
    """The logarithm of the first entry as log-determinant, to be added up; it changes nothing."""

    def forward(self, x):
        return x, x[:, 0].abs().log()

    def inverse(self, z):
        return z, -z[:, 0].abs().log()


@pytest.mark.parametrize("n", [2, 5, 16, 33])
def test_log_determinants_are_summed_alike_at_every_place_of_a_batch(n):
    flow, x = nn.Sequential(*(Scale() for _ in range(n))), torch.randn(37, 2)
    whole = flow(x)[1]
    for k in (1, 2, 7, 16, 31):
        assert torch.equal(flow(x[:k])[1], whole[:k])
        assert torch.equal(flow(x[-k:])[1], whole[-k:])


def test_context_reaches_those_that_take_one():
    flow = nn.Sequential(nn.ActNorm(4), plain_block(), nn.Sequential(conditional_block(), nn.InvertibleLinear(4)))
    assert [module.takes_context for module in flow] == [False, False, True]
    assert flow.takes_context
    x, context = torch.randn(6, 4), torch.randn(6, 3, requires_grad=True)
    z, logdet = flow(x, context)
    assert not torch.allclose(z, flow(x, context + 1.0)[0])
    back, inverse_logdet = flow.inverse(z, context)
    torch.testing.assert_close(back, x, atol=1e-4, rtol=0.0)
    torch.testing.assert_close(inverse_logdet, -logdet, atol=1e-4, rtol=0.0)
    (gradient,) = torch.autograd.grad(logdet.sum() + z.sum(), context)
    assert gradient.abs().sum() > 0
    scales = nn.MultiScale([flow, nn.Sequential()], (4,))
    torch.testing.assert_close(scales(x, context)[0].sort(1)[0], z.sort(1)[0])
    with pytest.raises(ValueError, match="context must be given for a ConditionalBranch, got None"):
        flow(x)


def test_defect_16_logdet_carries_its_gradient_and_that_of_the_inverse_belongs_to_x():
    """FrEIA's IResNetLayer returns a log-determinant without a graph, and in reverse takes it at z instead of x."""
    flow = nn.Sequential(nn.ActNorm(4), plain_block(), plain_block())
    x = torch.randn(6, 4, requires_grad=True)
    z, logdet = flow(x)
    assert logdet.requires_grad
    (gradient,) = torch.autograd.grad(logdet.sum(), flow[1].branch.layers[0].weight, retain_graph=True)
    assert gradient.abs().sum() > 0
    _, inverse_logdet = flow.inverse(z.detach())
    torch.testing.assert_close(inverse_logdet, -logdet, atol=1e-4, rtol=0.0)
    assert inverse_logdet.requires_grad


def doubling():
    return nn.Sequential(nn.Affine(2.0))


def test_multiscale_order():
    scales = nn.MultiScale([doubling(), nn.Sequential(nn.Squeeze(), doubling()), doubling()], (3, 2, 2))
    x = torch.arange(24.0).view(2, 3, 2, 2)
    z, logdet = scales(x)
    assert scales.latent_shapes == [(2, 2, 2), (2, 1, 1), (2, 1, 1)]
    assert scales.output_shape((3, 2, 2)) == (12,)
    # channels 1 and 2 leave first, then pixels 2 and 3 of channel 0, then its pixels 0 and 1
    expected = torch.cat((2 * x[:, 1:].flatten(1), 4 * x[:, 0].flatten(1)[:, 2:], 8 * x[:, 0].flatten(1)[:, :2]), 1)
    assert torch.equal(z, expected)
    torch.testing.assert_close(logdet, torch.full((2,), 18.0).mul(torch.tensor(2.0).log()))
    back, inverse_logdet = scales.inverse(z)
    assert torch.equal(back, x)
    torch.testing.assert_close(inverse_logdet, -logdet)


def test_defect_23_the_last_piece_is_what_the_last_scale_returned():
    """residual-flows hands the last classifier the half that left before, and drops the last activations."""
    last = nn.Sequential(nn.Affine(-1.0))
    seen = []
    last.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    scales = nn.MultiScale([doubling(), last], (4, 3, 3))
    z, _ = scales(torch.randn(2, 4, 3, 3))
    pieces = scales.pieces(z)
    assert [piece.shape[1:] for piece in pieces] == scales.latent_shapes
    assert torch.equal(pieces[-1], seen[0])
    assert not torch.equal(pieces[0], pieces[1])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: nn.Sequential(nn.ActNorm(4), torch.nn.Linear(4, 4)),
            TypeError,
            "Sequential must hold modules with forward and inverse, got Linear as '1'; wrap it",
        ),
        (lambda: nn.Sequential().append(torch.nn.Tanh()), TypeError, "got Tanh as '0'"),
        (lambda: nn.Sequential(nn.ActNorm(4))(torch.ones(2, 4), 1.0), ValueError, "no transform here takes one"),
        (lambda: nn.Sequential(nn.ActNorm(4)).inverse(torch.ones(2, 4), 1.0), ValueError, "no transform here"),
        (lambda: nn.Sequential(nn.Squeeze(), nn.Squeeze()).output_shape((1, 6, 6)), ValueError, r"\(4, 3, 3\)"),
        (lambda: nn.MultiScale([], (4,)), ValueError, "scales must hold at least one"),
        (lambda: nn.MultiScale([torch.nn.Tanh()], (4,)), TypeError, r"scales\[0\] must have an inverse, got Tanh"),
        (lambda: nn.MultiScale([doubling(), doubling()], (1, 4, 4)), ValueError, "at least 2 channels"),
        (lambda: nn.MultiScale([nn.Squeeze()], (1, 5, 4)), ValueError, "H and W divisible by 2"),
        (lambda: nn.MultiScale([doubling()], (4,))(torch.ones(2, 5)), ValueError, r"x must have shape \[B, 4\]"),
        (lambda: nn.MultiScale([doubling()], (4,)).inverse(torch.ones(2, 5)), ValueError, r"z must have shape \[B, 4"),
        (lambda: nn.MultiScale([doubling()], (4,))(torch.ones(2, 4), 1.0), ValueError, "no scale here takes one"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
