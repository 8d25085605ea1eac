"""SpectralLinear and SpectralConv2d: sigma follows the weights, whatever changes them."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from nn_models import (
    CLOSE,
    CONVOLUTIONS,
    grow,
    input_of,
    make_conv,
    make_linear,
    matrix_of,
    true_norm,
)

from iresnet_fast import nn, ops
from iresnet_fast.nn import spectral

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = [pytest.param(make_linear, id="linear"), pytest.param(make_conv, id="conv")]


@pytest.mark.parametrize("name", ["linear", *CONVOLUTIONS])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_sigma_is_the_spectral_norm(name, training, dtype):
    layer = (make_linear() if name == "linear" else make_conv(name)).to(dtype).train(training)
    grow(layer, 10.0)
    out = layer(input_of(layer))
    norm = true_norm(layer, layer.weight)
    assert out.dtype == dtype
    assert float(layer.sigma) == pytest.approx(norm, rel=CLOSE)
    (weight,) = spectral.effective_weights([layer])
    torch.testing.assert_close(weight, layer.weight / max(1.0, float(layer.sigma) / 0.9))
    assert true_norm(layer, weight) <= 0.9 * (1 + CLOSE)


@pytest.mark.parametrize("name", ["linear", *CONVOLUTIONS])
def test_forward_is_the_torch_layer_with_the_effective_weight(name):
    layer = make_linear() if name == "linear" else make_conv(name)
    x = input_of(layer)
    (weight,) = spectral.effective_weights([layer])
    if name == "linear":
        expected = F.linear(x, weight, layer.bias)
        assert layer(x[None]).shape == (1, 3, 5)
    else:
        expected = F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        torch.testing.assert_close(layer(x[0]), expected[0])
    torch.testing.assert_close(layer(x), expected)


def test_weights_below_the_bound_are_left_alone():
    layer = make_linear(coeff=100.0)
    torch.testing.assert_close(layer(torch.eye(7)) - layer.bias, layer.weight.t())


@pytest.mark.parametrize("make", LAYERS)
def test_construction_draws_only_what_the_torch_layer_draws(make):
    torch.manual_seed(1)
    layer = make()
    state = torch.get_rng_state()
    torch.manual_seed(1)
    plain = torch.nn.Linear(7, 5) if isinstance(layer, torch.nn.Linear) else torch.nn.Conv2d(3, 5, 3, padding=1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(layer.weight, plain.weight)
    torch.manual_seed(2)
    assert torch.equal(make().u, layer.u)


@pytest.mark.parametrize("make", LAYERS)
def test_one_refresh_per_optimizer_step(make, calls):
    layer = make()
    optimizer = torch.optim.Adam(layer.parameters(), 0.1)
    for step in range(4):
        for _ in range(2):  # two forwards, two backwards
            layer(input_of(layer)).square().sum().backward()
        assert len(calls) == step + 1
        optimizer.step()
        optimizer.zero_grad()


def test_training_goes_on_from_the_vectors_and_evaluation_starts_anew(monkeypatch):
    settings, original = [], ops.lanczos_norm

    def watched(*arguments, **options):
        hints = arguments[1] + arguments[2]
        settings.append((any(bool(hint.any()) for hint in hints), *arguments[5:7]))
        return original(*arguments, **options)

    monkeypatch.setattr(ops, "lanczos_norm", watched)
    layer = nn.SpectralLinear(300, 400, n_iterations=30, tol=1e-2)
    x = torch.randn(3, 300)
    layer(x)
    grow(layer)
    layer(x)
    grow(layer)
    layer(x)
    layer.eval()(x)
    layer(x)
    fresh = [(False, 1000, 1e-5)] * 2  # two random starts
    following, beside = (True, 30, 1e-2), (False, 30, 1e-2)  # the second where the vectors have no companion yet
    assert settings == [*fresh, following, beside, following, *fresh]


@pytest.mark.parametrize(("side", "steps"), [(20, (40, 0.0)), (200, (40, 2e-3)), (300, (16, 1e-2))])
def test_small_layers_take_more_steps(monkeypatch, side, steps):
    settings, original = [], ops.lanczos_norm
    monkeypatch.setattr(ops, "lanczos_norm", lambda *a, **k: settings.append(a[5:7]) or original(*a, **k))
    layer = nn.SpectralLinear(side, 400, tol=1e-2)
    x = torch.randn(3, side)
    layer(x)
    settings.clear()
    grow(layer)
    layer(x)
    assert set(settings) == {steps}


def test_what_training_cannot_settle_is_settled_and_counted():
    layer = nn.SpectralLinear(300, 400, n_iterations=1)
    x = torch.randn(3, 300)
    layer(x)
    for step in range(3):
        with torch.no_grad():
            layer.weight.normal_()
        layer(x)
        assert float(layer.sigma) == pytest.approx(true_norm(layer, layer.weight), rel=CLOSE)
        assert layer.group.n_unsettled() == step + 1


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("change", ["in place", "load", "data", "functional"])
def test_evaluation_follows_every_change_of_the_weights(make, change):
    layer = make().eval()
    x = input_of(layer)
    layer(x)
    if change == "in place":  # an exponential moving average
        other = make()
        for _ in range(3):
            with torch.no_grad():
                layer.weight.lerp_(20.0 * other.weight, 0.5)
    elif change == "load":
        other = make()
        grow(other, 5.0)
        layer.load_state_dict(other.state_dict())
    elif change == "data":  # no version counts this, a change of the mode does
        layer.train()
        layer(x)
        layer.weight.data.mul_(5.0)
        layer.eval()
    else:
        weight = 5.0 * layer.weight.detach()
        out = torch.func.functional_call(layer, {"weight": weight}, (x,))
        expected = make().eval()
        expected.load_state_dict(dict(layer.state_dict(), weight=weight))
        torch.testing.assert_close(out, expected(x), rtol=1e-4, atol=1e-5)
    layer(x)
    assert float(layer.sigma) == pytest.approx(true_norm(layer, layer.weight), rel=CLOSE)


def test_temporary_weights_at_the_same_address_are_told_apart():
    layer = make_linear().eval()
    for factor in (1.0, 10.0, 100.0, 1000.0):
        # Each of these lives only for one call, so the allocator may hand out the same address again.
        torch.func.functional_call(layer, {"weight": factor * layer.weight.detach()}, (torch.zeros(1, 7),))
        assert float(layer.sigma) == pytest.approx(factor * true_norm(layer, layer.weight), rel=CLOSE)


def test_functional_call_with_own_buffers_leaves_no_stale_sigma():
    layer = make_linear().eval()
    tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    torch.func.functional_call(layer, tensors, (torch.zeros(1, 7),))
    layer(torch.zeros(1, 7))
    assert float(layer.sigma) == pytest.approx(true_norm(layer, layer.weight), rel=CLOSE)


def test_defect_3_a_new_image_size_starts_anew():
    layer = nn.SpectralConv2d(3, 4, 3, padding=1, coeff=0.5)
    grow(layer)
    sigmas = []
    for size in ((4, 4), (9, 7), (4, 4)):
        layer(torch.randn(2, 3, *size))
        sigmas.append(float(layer.sigma))
        assert layer.v.shape == (3, *size)
        assert layer.u.shape == (4, *size)
        assert sigmas[-1] == pytest.approx(true_norm(layer, layer.weight, size), rel=CLOSE)
    assert sigmas[0] == sigmas[2] < sigmas[1]


@pytest.mark.parametrize("make", LAYERS)
def test_effective_weight_is_computed_once_per_version_without_gradients(make, normalisations):
    layer = make()
    x = input_of(layer)
    with torch.no_grad():
        for _ in range(3):
            layer(x)
        assert len(normalisations) == 1
        grow(layer)
        before = layer(x)
        with torch.inference_mode():
            assert torch.equal(layer(x), before)
        assert len(normalisations) == 2
        layer.coeff = 0.3
        assert not torch.equal(layer(x), before)
    layer.requires_grad_(False)
    layer(x.requires_grad_()).sum().backward()
    assert len(normalisations) == 3
    layer.requires_grad_(True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("make", LAYERS)
def test_defect_7_refresh_between_forward_and_backward(make):
    layer = make(coeff=0.1)
    expected = copy.deepcopy(layer)
    x = input_of(layer)
    nn.update_spectral_norm(layer, 50)
    nn.update_spectral_norm(expected, 50)
    out = layer(x).square().sum()
    nn.update_spectral_norm(layer, 3)
    nn.update_spectral_norm(layer.eval())
    out.backward()
    expected(x).square().sum().backward()
    assert torch.equal(layer.weight.grad, expected.weight.grad)


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("sigma_gradient", [True, False])
def test_gradient_goes_through_sigma_if_asked(make, sigma_gradient):
    layer = make(coeff=0.1, sigma_gradient=sigma_gradient).double()
    (weight,) = spectral.effective_weights([layer])
    direction = torch.randn_like(weight)
    (weight * direction).sum().backward()
    scale = 0.1 / layer.sigma
    expected = direction * scale
    if sigma_gradient:  # d sigma / dW by autograd through <u, A v>
        plain = layer.weight.detach().requires_grad_()
        image = matrix_of(layer, plain) @ layer.v.flatten()
        (by_sigma,) = torch.autograd.grad(image @ layer.u.flatten(), plain)
        expected = expected - (direction * layer.weight.detach()).sum() * scale / layer.sigma * by_sigma
    torch.testing.assert_close(layer.weight.grad, expected)


def test_reset_parameters_starts_anew():
    layer = make_linear()
    layer(input_of(layer))
    layer.reset_parameters()
    layer(input_of(layer))
    assert float(layer.sigma) == pytest.approx(true_norm(layer, layer.weight), rel=CLOSE)


@pytest.mark.filterwarnings("ignore:iresnet_fast. there are no kernels for torch.bfloat16")
@pytest.mark.parametrize("make", LAYERS)
def test_half_precision_iterates_in_float32(make):
    layer = make(coeff=0.2).bfloat16()
    out = layer(input_of(layer))
    assert out.dtype == torch.bfloat16
    assert float(layer.sigma) == pytest.approx(true_norm(layer, layer.weight), rel=2**-7)
    out.float().sum().backward()


@pytest.mark.parametrize("make", LAYERS)
def test_nan_and_zero_weights(make):
    layer = make()
    grow(layer, 0.0)
    assert torch.equal(layer(input_of(layer)) * 0.0, layer(input_of(layer)) * 0.0)
    assert float(layer.sigma) == 0.0
    grow(layer, math.nan)
    assert layer(input_of(layer)).isnan().any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_linear(coeff=0.0), "coeff must be positive and finite, got 0.0"),
        (lambda: make_linear(coeff=math.nan), "coeff must be positive"),
        (lambda: make_linear(n_iterations=0), "n_iterations must be at least 1"),
        (lambda: make_linear(tol=-1.0), "tol must be positive"),
        (lambda: nn.SpectralConv2d(1, 1, 3, padding_mode="circular"), "padding_mode must be 'zeros', got 'circular'"),
        (lambda: nn.SpectralConv2d(1, 1, 2, padding="same"), "padding must be numbers, 'valid', or 'same'"),
        (lambda: nn.SpectralConv2d(1, 1, 3, 2, padding="same"), "with stride \\(2, 2\\)"),
        (lambda: nn.SpectralConv2d(1, 1, 3, image_size=2), "image_size must leave at least one output pixel"),
        (lambda: nn.SpectralConv2d(1, 1, 3)(torch.ones(3)), "input must have shape"),
        (lambda: nn.SpectralConv2d(1, 1, 3).geometry, "image_size must be known, got None"),
    ],
)
def test_errors_are_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_repr():
    assert repr(make_linear()) == "SpectralLinear(in_features=7, out_features=5, bias=True, coeff=0.9)"
    assert repr(make_conv()).endswith("padding=(1, 1), coeff=0.9)")
