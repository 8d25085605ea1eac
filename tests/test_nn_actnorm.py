"""ActNorm: its first batch, its flag, and what it says before."""

import copy
import warnings

import pytest
import torch

from iresnet_fast import nn

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = {"dense": (64, 5), "conv": (8, 5, 4, 3)}


@pytest.mark.parametrize("kind", SHAPES)
def test_first_batch_comes_out_normalised(kind):
    layer = nn.ActNorm(5)
    x = torch.randn(SHAPES[kind]) * 3.0 + 2.0
    z, logdet = layer(x)
    rows = z.detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(5), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(rows.var(1, correction=0), torch.ones(5))
    assert layer.initialized
    torch.testing.assert_close(logdet, torch.full((len(x),), float(layer.log_scale.detach().sum()) * x[0, 0].numel()))
    before = copy.deepcopy(layer.state_dict())
    layer(x + 7.0)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("kind", SHAPES)
def test_defect_28_a_loaded_layer_is_not_initialised_again(kind):
    """i-ResNet's flag is a Python bool: the checkpoint loads, and the next batch overwrites what it brought."""
    layer = nn.ActNorm(5)
    x = torch.randn(SHAPES[kind])
    layer(x * 3.0 + 1.0)
    with torch.no_grad():
        layer.bias.add_(0.5)  # trained since
    loaded = nn.ActNorm(5)
    loaded.load_state_dict(layer.state_dict())
    for other in (loaded, copy.deepcopy(layer)):
        for ours, theirs in zip(other.train()(x), layer(x), strict=True):
            assert torch.equal(ours, theirs)
        assert torch.equal(other.bias, layer.bias)


def test_a_checkpoint_of_a_new_layer_makes_a_layer_new():
    layer, fresh = nn.ActNorm(5), nn.ActNorm(5)
    layer(torch.randn(SHAPES["dense"]))
    layer.load_state_dict(fresh.state_dict())
    x = torch.randn(SHAPES["dense"]) * 4.0
    torch.testing.assert_close(layer(x)[0].var(0, correction=0), torch.ones(5))
    layer.reset_parameters()
    assert not layer.initialized
    torch.testing.assert_close(layer(x * 2.0)[0].var(0, correction=0), torch.ones(5))


def test_before_the_first_batch_it_is_the_identity_and_says_so():
    layer, x = nn.ActNorm(5), torch.randn(SHAPES["dense"])
    with pytest.warns(RuntimeWarning, match="evaluation of an ActNorm that has seen no batch is the identity") as told:
        z, logdet = layer.eval()(x)
    assert told[0].filename == __file__
    assert torch.equal(z, x)
    assert torch.equal(logdet, torch.zeros(64))
    with pytest.warns(RuntimeWarning, match="the inverse of an ActNorm") as told:
        assert torch.equal(layer.inverse(x)[0], x)
    assert told[0].filename == __file__
    assert not layer.initialized
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.train()(x)
        layer.inverse(x)
        layer.eval()(x)


def test_constant_channels_keep_their_scale():
    padded, _ = nn.InjectivePad(2)(torch.randn(16, 3, 2, 2))
    padded[:, 3] = 1000.1
    layer = nn.ActNorm(5)
    z, logdet = layer(padded)
    assert torch.equal(layer.log_scale[3:], torch.zeros(2))
    torch.testing.assert_close(z[:, 3:], torch.zeros(16, 2, 2, 2), atol=1e-3, rtol=0.0)
    assert logdet.isfinite().all()
    alone = nn.ActNorm(3)
    assert torch.equal(alone(torch.ones(1, 3))[0], torch.zeros(1, 3))  # one sample has no variance


def test_an_empty_batch_waits_for_the_next():
    layer = nn.ActNorm(5)
    layer(torch.empty(0, 5))
    assert not layer.initialized
    layer(torch.randn(4, 5))
    assert layer.initialized


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_first_batch_that_is_not_finite_changes_nothing(value):
    layer, x = nn.ActNorm(5), torch.randn(SHAPES["dense"])
    x[3, 2] = value
    with pytest.raises(ValueError, match="first batch of an ActNorm must be finite, got NaN or infinity"):
        layer(x)
    assert not layer.initialized
    assert torch.equal(layer.bias, torch.zeros(5))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_initialises_without_a_graph_and_trains_after(mode):
    layer = nn.ActNorm(5)
    with mode():
        layer(torch.randn(SHAPES["dense"]))
    assert layer.initialized
    layer(torch.randn(SHAPES["dense"]))[0].square().sum().backward()
    assert layer.bias.grad.isfinite().all()


def test_half_precision_statistics_are_not():
    layer = nn.ActNorm(1).bfloat16()
    x = (torch.randn(4096, 1) + 20.0).bfloat16()
    layer(x)
    # bfloat16 itself would sum 4096 numbers of 20 to about 8192; its parameters have 8 bits.
    assert float(layer.bias.detach()) == pytest.approx(-20.0, rel=2**-8)


def test_tracing_an_uninitialised_layer_is_refused():
    layer, x = nn.ActNorm(5), torch.randn(SHAPES["dense"])
    with pytest.raises(RuntimeError, match="must be initialised before it is traced or transformed"):
        torch.func.jacrev(lambda a: layer(a)[0])(x)
    layer(x)
    torch.func.jacrev(lambda a: layer(a)[0])(x)


def started(kind):
    layer = nn.ActNorm(5).double()
    x = torch.randn(SHAPES[kind], dtype=torch.float64)[:3]
    layer(x * 2.0 + 1.0)
    return layer, x, (x, layer.bias.detach().clone(), layer.log_scale.detach().clone())


@pytest.mark.parametrize("kind", SHAPES)
def test_gradients_and_theirs(kind):
    layer, _, inputs = started(kind)

    def outputs(x, bias, log_scale):
        return torch.func.functional_call(layer, {"bias": bias, "log_scale": log_scale}, (x,))

    inputs = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(outputs, inputs)
    assert torch.autograd.gradgradcheck(outputs, inputs)


@pytest.mark.parametrize("kind", SHAPES)
def test_forward_mode(kind):
    layer, x, _ = started(kind)
    tangent = torch.randn_like(x)
    with torch.autograd.forward_ad.dual_level():
        z, _ = layer(torch.autograd.forward_ad.make_dual(x, tangent))
        found = torch.autograd.forward_ad.unpack_dual(z).tangent
    torch.testing.assert_close(found, torch.func.jvp(lambda a: layer(a)[0], (x,), (tangent,))[1])
    torch.testing.assert_close(layer(x + tangent)[0] - layer(x)[0], found)  # it is affine


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.ActNorm(0), ValueError, "num_features must be at least 1, got 0"),
        (lambda: nn.ActNorm(2.0), TypeError, "num_features must be an integer"),
        (lambda: nn.ActNorm(3)(torch.ones(2, 4)), ValueError, r"x must have shape \[B, 3\] or .* got \(2, 4\)"),
        (lambda: nn.ActNorm(3)(torch.ones(3)), ValueError, "x must have shape"),
        (lambda: nn.ActNorm(3).inverse(torch.ones(2, 4)), ValueError, "z must have shape"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
