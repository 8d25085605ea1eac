"""An ActNorm that depends on a context: as the plain one until it is trained, then a scale and shift a sample."""

import copy
import pickle

import pytest
import torch
from chains import part_by_part

from iresnet_fast import nn

SHAPES = {"vectors": (5, 3), "images": (5, 3, 4, 2)}
every_shape = pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))


def make(dtype=torch.float64):
    """A layer that has seen a batch, and whose network has learned something."""
    torch.manual_seed(0)
    layer = nn.ActNorm(3, dtype=dtype, context_features=2, context_hidden=4)
    layer(2.0 * torch.randn(64, 3, dtype=dtype) + 1.0, torch.randn(64, 2, dtype=dtype))
    torch.nn.init.normal_(layer.network.second.weight, std=0.5)
    torch.nn.init.normal_(layer.network.second.bias, std=0.5)
    return layer


def batch(shape):
    torch.manual_seed(1)
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape[0], 2, dtype=torch.float64)


@every_shape
def test_it_begins_as_the_plain_layer(shape):
    x, context = batch(shape)
    plain, layer = nn.ActNorm(3, dtype=torch.float64), nn.ActNorm(3, dtype=torch.float64, context_features=2)
    assert (plain.takes_context, layer.takes_context) == (False, True)
    for ours, theirs in zip(layer(x, context), plain(x), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.equal(layer.log_scale, plain.log_scale)
    assert torch.equal(layer.bias, plain.bias)
    layer(x, context)[0].square().sum().backward()
    assert float(layer.network.second.weight.grad.abs().sum()) > 0.0  # zeros that learn


@every_shape
def test_logdet_and_inverse(shape):
    layer, (x, context) = make(), batch(shape)
    z, logdet = layer(x, context)
    assert float(logdet.std()) > 0.1  # each sample its own
    for row, at, expected in zip(x, context, logdet, strict=True):
        jacobian = torch.func.jacrev(lambda a, c=at: layer(a[None], c[None])[0][0])(row).reshape(-1, row.numel())
        torch.testing.assert_close(torch.linalg.slogdet(jacobian.view(row.numel(), -1))[1], expected)
    back, inverse_logdet = layer.inverse(z, context)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse_logdet, -logdet)


@every_shape
def test_gradients(shape):
    layer, (x, context) = make(), batch(shape)
    parameters = dict(layer.named_parameters())
    weights = torch.linspace(1.0, 2.0, len(x), dtype=torch.float64)

    def values(x, context, *parts):
        z, logdet = torch.func.functional_call(layer, dict(zip(parameters, parts, strict=True)), (x, context))
        return z.flatten(1).t() * weights, logdet * weights

    torch.autograd.gradcheck(values, (x.requires_grad_(), context.requires_grad_(), *parameters.values()))


def test_in_a_chain_it_sees_the_context():
    """Parts that run in one call of an op must not take it for a plain one."""
    torch.manual_seed(0)
    block = nn.InvertibleResidualBlock(nn.ResidualBranch.dense([3, 8, 3]))
    chain = nn.Sequential(nn.ActNorm(3), block, make(torch.float32), nn.ActNorm(3)).train()
    x, context = (part.float() for part in batch((64, 3)))
    chain(x, context)
    chain.eval()
    with torch.no_grad():
        together, alone = chain(x, context), part_by_part(chain, x, context)
        elsewhere = chain(x, context.flip(0))
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert float((elsewhere[0] - together[0]).abs().max()) > 0.1


def test_copies_and_reset():
    layer, (x, context) = make().eval(), batch((5, 3))
    expected = layer(x, context)[0]
    other = nn.ActNorm(3, dtype=torch.float64, context_features=2, context_hidden=4)
    other.load_state_dict(layer.state_dict())
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
        assert torch.equal(again(x, context)[0], expected)
    assert "context_features=2" in repr(layer)
    layer.reset_parameters()
    z, logdet = layer.train()(x, context)  # which starts it anew
    torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=torch.float64))
    assert float(logdet.std()) == 0.0


@pytest.mark.parametrize(
    ("context", "error", "message"),
    [
        (None, ValueError, r"context must be given for a conditional ActNorm, got None; pass one of shape \(5, 2\)"),
        (torch.zeros(4, 2).double(), ValueError, r"context must have shape \(5, 2\), got \(4, 2\); pass one row for"),
        (torch.zeros(2).double(), ValueError, r"context must have shape \(5, 2\), got \(2,\); pass one row for"),
        (torch.zeros(5, 2), TypeError, "context must have the dtype of the ActNorm, torch.float64, got torch.float32"),
        ([[0.0, 0.0]] * 5, TypeError, "context must be a torch.Tensor, got list"),
    ],
)
def test_errors(context, error, message):
    layer, (x, _) = make(), batch((5, 3))
    for call in (layer, layer.inverse):
        with pytest.raises(error, match=message):
            call(x, context)


def test_errors_of_arguments():
    with pytest.raises(ValueError, match="context_features must be"):
        nn.ActNorm(3, context_features=-1)
    with pytest.raises(ValueError, match="context_hidden must be"):
        nn.ActNorm(3, context_features=1, context_hidden=0)
