import math

import pytest
import torch
from layers import LAYERS
from problems import DTYPES

from iresnet_fast import reference
from iresnet_fast.geometry import ConvGeometry
from iresnet_fast.ops.spectral_norm import flat_geometry

from . import operands
from .norm_layers import Layers, named_layers

FEW = ["matrix", "same", "strides"]
# One that ends in a whole block, one that does not, more than a tile of channels, rows across chunks.
LARGER = ["ragged", "streamed", "long u", "packed weights", "streamed weights of groups", "many pixels", "a line"]
SIZES = [*LAYERS, *LARGER]


def prepare(names, dtype):
    """Layers, sigmas below and above their coefficient, and upstream gradients; every dtype gets the same numbers."""
    layers = named_layers(names, torch.float32)
    sigmas, us, vs, _ = reference.spectral_norm(*layers, 2)
    layers = layers._replace(us=us, vs=vs)
    generator = torch.Generator().manual_seed(7)
    grads = [torch.randn(w.shape, generator=generator).to(dtype) for w in layers.weights]
    coeffs = sigmas * torch.tensor([2.0 if i % 3 == 0 else 0.6 for i in range(len(names))])
    converted = [[t.to(dtype) for t in tensors] for tensors in layers[:3]]
    return Layers(*converted, layers.geometry), sigmas.to(dtype), coeffs.to(dtype), grads


def split(packed, tensors):
    return [piece.view(t.shape) for piece, t in zip(packed.split([t.numel() for t in tensors]), tensors, strict=True)]


def forward(emulator, layers, sigmas, coeffs):
    return split(operands.spectral_normalize(emulator, layers.weights, sigmas, coeffs), layers.weights)


def backward(emulator, layers, sigmas, coeffs, grads, through_sigma=True):
    weights, us, vs, geometry = layers
    flat = flat_geometry(weights, geometry)
    packed = operands.spectral_normalize_backward(emulator, grads, weights, us, vs, sigmas, coeffs, flat, through_sigma)
    return split(packed, weights)


def expected(layers, sigmas, coeffs, grads, through_sigma=True):
    """The reference's weights and gradients."""
    weights = [w.clone().requires_grad_() for w in layers.weights]
    outputs = reference.spectral_normalize(weights, sigmas, *layers[1:], coeffs.tolist(), through_sigma)
    gradients = torch.autograd.grad(outputs, weights, grads)
    return [t.detach() for t in outputs], gradients


def assert_close(got, same, exact, lengths):
    """Sums of K products: 4 sqrt(K) / 2 eps of the largest number, beyond the 2x rule."""
    for a, b, c, length in zip(got, same, exact, lengths, strict=True):
        error, yardstick = ((t.double() - c).abs().max().item() for t in (a, b))
        floor = 2 * length**0.5 * torch.finfo(a.dtype).eps * max(1.0, c.abs().max().item())
        assert error <= 2.0 * yardstick + floor, tuple(a.shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_match_reference(emulator, dtype):
    layers, sigmas, coeffs, grads = prepare(SIZES, dtype)
    got = forward(emulator, layers, sigmas, coeffs)
    same, exact = expected(layers, sigmas, coeffs, grads)[0], expected(*prepare(SIZES, torch.float64))[0]
    assert_close(got, same, exact, [1] * len(got))
    assert [launch.kernel for launch in emulator.launches] == ["scale<T>"]


@pytest.mark.parametrize("through_sigma", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_match_reference(emulator, dtype, through_sigma):
    layers, sigmas, coeffs, grads = prepare(SIZES, dtype)
    got = backward(emulator, layers, sigmas, coeffs, grads, through_sigma)
    same = expected(layers, sigmas, coeffs, grads, through_sigma)[1]
    exact = expected(*prepare(SIZES, torch.float64), through_sigma)[1]
    # <grad, W>, and d sigma / dW over the pixels.
    lengths = [w.numel() + u[0].numel() for w, u in zip(layers.weights, layers.us, strict=True)]
    assert_close(got, same, exact, lengths)
    kernels = ["sum_products<T>", "gradient<T>"] if through_sigma else ["scale<T>"]
    assert [launch.kernel for launch in emulator.launches] == kernels


def test_below_the_coefficient_nothing_changes(emulator):
    layers, sigmas, _, grads = prepare(FEW, torch.float32)
    coeffs = torch.full_like(sigmas, 1000.0)
    for got, same in (
        (forward(emulator, layers, sigmas, coeffs), layers.weights),
        (backward(emulator, layers, sigmas, coeffs, grads), grads),
    ):
        assert all(torch.equal(a, b) for a, b in zip(got, same, strict=True))


def test_a_nan_sigma_is_seen(emulator):
    """As in the reference, and only in its layer."""
    layers, sigmas, coeffs, grads = prepare(FEW, torch.float32)
    sigmas[1] = torch.nan
    for results in (forward(emulator, layers, sigmas, coeffs), backward(emulator, layers, sigmas, coeffs, grads)):
        assert [bool(t.isnan().all()) for t in results] == [False, True, False]
        assert not results[0].isnan().any()
        assert not results[2].isnan().any()


def test_a_model_of_many_layers(emulator):
    """More layers than the arguments of one kernel hold."""
    names = ["matrix", "stride", "tall matrix"] * 50
    layers, sigmas, coeffs, grads = prepare(names, torch.float32)
    same = expected(layers, sigmas, coeffs, grads)
    exact = expected(*prepare(names, torch.float64))
    assert_close(forward(emulator, layers, sigmas, coeffs), same[0], exact[0], [1] * len(names))
    assert len(emulator.launches) == 2
    lengths = [w.numel() + u[0].numel() for w, u in zip(layers.weights, layers.us, strict=True)]
    assert_close(backward(emulator, layers, sigmas, coeffs, grads), same[1], exact[1], lengths)


def test_layers_without_elements(emulator):
    empty = [torch.zeros(0, 5), torch.zeros(5, 0), torch.zeros(0, 2, 3, 3), torch.ones(2, 2)]
    us = [torch.zeros(0), torch.ones(5), torch.zeros(0, 4, 4), torch.ones(2)]
    vs = [torch.ones(5), torch.zeros(0), torch.ones(2, 4, 4), torch.ones(2)]
    layers = Layers(empty, us, vs, [None, None, ConvGeometry((4, 4), padding=(1, 1)), None])
    for part in (slice(3), slice(4)):
        some = Layers(*(tensors[part] for tensors in layers))
        sigmas, coeffs = torch.full((len(some.weights),), 2.0), torch.ones(len(some.weights))
        assert [t.sum().item() for t in forward(emulator, some, sigmas, coeffs)] == [0.0, 0.0, 0.0, 2.0][part]
        assert [t.sum().item() for t in backward(emulator, some, sigmas, coeffs, some.weights)] == [0, 0, 0, -2][part]


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_weights_at_any_element(checker, shift):
    layers, sigmas, coeffs, grads = prepare(["ragged", "streamed", "packed weights"], torch.float32)
    shifted = [torch.cat((w.new_zeros(shift), w.flatten()))[shift:].view(w.shape) for w in layers.weights]
    elsewhere = layers._replace(weights=shifted)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            forward(checker, layers, sigmas, coeffs), forward(checker, elsewhere, sigmas, coeffs), strict=True
        )
    )
    for a, b in zip(
        backward(checker, layers, sigmas, coeffs, grads),
        backward(checker, elsewhere, sigmas, coeffs, grads),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["streamed", "streamed weights"])
def test_each_weight_is_read_and_written_once_in_whole_sectors(checker, name):
    layers, sigmas, coeffs, _ = prepare([name], torch.float32)
    size = 4 * layers.weights[0].numel()
    with checker.counting() as counters:
        forward(checker, layers, sigmas, coeffs)
    for kind in ("read", "write"):
        traffic = counters.total(kind, "global", "spectral_normalize.cu")
        assert size <= traffic.bytes <= 1.15 * size
        assert 32 * traffic.sectors <= 1.15 * size


def test_gradient_of_a_matrix_moves_what_it_must(checker):
    """Grad and W for the sum, grad again and the result, by 16 bytes; u and v come from the cache."""
    layers, sigmas, coeffs, grads = prepare(["streamed"], torch.float32)
    size = 4 * layers.weights[0].numel()
    coeffs = 0.5 * sigmas
    with checker.counting() as counters:
        backward(checker, layers, sigmas, coeffs, grads)
    assert counters.total("write", "global").bytes <= 1.01 * size
    by_16_bytes = [
        traffic
        for (_, kind, space), traffic in counters.lines.items()
        if (kind, space) == ("read", "global") and traffic.bytes == 16 * 32 * traffic.requests
    ]
    assert sum(traffic.bytes for traffic in by_16_bytes) >= 3 * size
    assert all(traffic.sectors == 16 * traffic.requests for traffic in by_16_bytes)


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_any_size(emulator, dtype, size):
    """The gradient depends on the weight and its limit by their ratio only."""
    layers, sigmas, coeffs, grads = prepare(FEW, dtype)
    scale = 2.0 ** round(math.log2(size))
    sized = layers._replace(weights=[weight * scale for weight in layers.weights])
    for through_sigma in (True, False):
        got = backward(emulator, sized, sigmas * scale, coeffs * scale, grads, through_sigma)
        plain = backward(emulator, layers, sigmas, coeffs, grads, through_sigma)
        torch.testing.assert_close(got, plain, rtol=1e-5, atol=1e-6)
    # Scaled down to a limit that does not grow with the weight.
    limits = torch.full_like(coeffs, 0.5)
    got = backward(emulator, sized, sigmas * scale, limits * min(scale, 1.0), grads)
    plain = backward(emulator, layers, sigmas, limits, grads)
    torch.testing.assert_close([g * max(scale, 1.0) for g in got], plain, rtol=1e-5, atol=1e-6)
