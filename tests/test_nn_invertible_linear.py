"""InvertibleLinear: its factors, its starts and its determinant."""

import pytest
import torch
import torch.nn.functional as F

from iresnet_fast import nn

pytestmark = pytest.mark.usefixtures("one_thread")


def test_starts_orthogonal_and_reproducibly():
    torch.manual_seed(4)
    layer = nn.InvertibleLinear(7, dtype=torch.float64)
    weight = layer.weight().detach()
    torch.testing.assert_close(weight @ weight.t(), torch.eye(7, dtype=torch.float64))
    torch.testing.assert_close(layer(torch.randn(2, 7).double())[1], torch.zeros(2, dtype=torch.float64))
    torch.manual_seed(4)
    assert torch.equal(nn.InvertibleLinear(7, dtype=torch.float64).weight(), weight)
    assert torch.equal(nn.InvertibleLinear(4, "identity").weight(), torch.eye(4))


def test_it_is_a_linear_layer_and_a_1x1_convolution():
    layer = nn.InvertibleLinear(6)
    x = torch.randn(3, 6, 4, 2)
    torch.testing.assert_close(layer(x)[0], F.conv2d(x, layer.weight()[:, :, None, None]))
    torch.testing.assert_close(layer(x[:, :, 0, 0])[0], x[:, :, 0, 0] @ layer.weight().t())


def test_stays_invertible_in_training():
    layer = nn.InvertibleLinear(5, dtype=torch.float64)
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    x = torch.randn(64, 5, 2, 2, dtype=torch.float64)
    for _ in range(100):
        z, logdet = layer(x)
        optimizer.zero_grad()
        (0.5 * z.square().flatten(1).sum(1) - logdet).mean().backward()
        optimizer.step()
    z, logdet = layer(x)
    expected = torch.linalg.slogdet(layer.weight())[1] * 4
    assert float(expected.detach().abs()) > 0.1
    torch.testing.assert_close(logdet, expected.expand(64))
    torch.testing.assert_close(layer.inverse(z)[0], x)


def test_defect_24_gradients_of_the_weight_reach_all_of_packed():
    layer = nn.InvertibleLinear(4, dtype=torch.float64)
    (layer.weight() * torch.randn(4, 4)).sum().backward()
    assert (layer.packed.grad != 0).all()


def test_the_indices_of_earlier_checkpoints_load():
    layer, loaded = nn.InvertibleLinear(5), nn.InvertibleLinear(5)
    state = layer.state_dict()
    loaded.load_state_dict({**state, "permutation": state["permutation"].argmax(1)})
    assert torch.equal(loaded.weight(), layer.weight())
    assert state["permutation"].dim() == 2  # the caller's


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.InvertibleLinear(0), ValueError, "num_features must be at least 1"),
        (lambda: nn.InvertibleLinear(3, "random"), ValueError, "init must be 'orthogonal' or 'identity', got 'random'"),
        (lambda: nn.InvertibleLinear(3)(torch.ones(2, 4)), ValueError, r"x must have shape \[B, 3\]"),
        (lambda: nn.InvertibleLinear(3).inverse(torch.ones(2, 4)), ValueError, r"z must have shape \[B, 3\]"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_parameter_of_another_dtype_than_the_buffers():
    """FSDP's mixed precision casts parameters, not buffers; those are signs and a permutation, exact in any dtype."""
    layer, x = nn.InvertibleLinear(4), torch.randn(5, 4).bfloat16()
    halves = {"packed": layer.packed.bfloat16()}
    found = torch.func.functional_call(layer, halves, (x,))
    for ours, theirs in zip(found, layer.bfloat16()(x), strict=True):
        assert torch.equal(ours, theirs)
