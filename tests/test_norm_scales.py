"""Norms of weights of any size: those of a weight of ordinary size, times the size, whatever squares would do."""

import functools
import math

import pytest
import torch
from layers import Layers, make_layers, operator_matrix
from problems import DTYPES, ISAS, run_on

from iresnet_fast import certify, nn, ops, reference


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # all of these are small; a fixture of every test sets it back


MACHINES = pytest.mark.parametrize("machine", [*ISAS, "reference"])
NAMES = ["matrix", "tall matrix", "wide matrix", "same", "strides", "groups"]

SIZES = [1e-30, 1e-19, 1e-7, 1.0, 1e10, 1e16, 1e30]
NOT_FINITE = [math.inf, -math.inf, math.nan]
RELATIVE = 1e-4
N_ITERATIONS = 30


def package_on(machine):
    """Return the ops on this instruction set, or the reference."""
    if machine == "reference":
        return reference
    run_on(machine)
    return ops


@functools.cache
def near_layers():
    """Layers in float64 whose vectors are near the first singular vectors: few iterations find those."""
    layers = make_layers(NAMES, torch.float64)
    for i, (weight, place) in enumerate(zip(layers.weights, layers.geometry, strict=True)):
        left, _, right = torch.linalg.svd(operator_matrix(weight, place), full_matrices=False)
        for vectors, first in ((layers.us, left[:, 0]), (layers.vs, right[0])):
            vectors[i] = first.view_as(vectors[i]) + 1e-3 * vectors[i]
    return layers


def scaled(size, dtype):
    """Layers of this size, and their norms in float64."""
    weights, us, vs, geometry = near_layers()
    layers = Layers(
        [(w * size).to(dtype) for w in weights], [u.to(dtype) for u in us], [v.to(dtype) for v in vs], geometry
    )
    matrices = [operator_matrix(w.double(), place) for w, place in zip(layers.weights, geometry, strict=True)]
    return layers, torch.stack([torch.linalg.matrix_norm(matrix, 2) for matrix in matrices])


def assert_near(got, want):
    torch.testing.assert_close(got.double(), want, rtol=RELATIVE, atol=0.0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@MACHINES
def test_iterations_find_the_norm(machine, dtype, size):
    package = package_on(machine)
    layers, norms = scaled(size, dtype)
    sigmas, us, vs, _ = package.spectral_norm(*layers, N_ITERATIONS)
    assert_near(sigmas, norms)
    assert_near(package.spectral_norm(*layers._replace(us=us, vs=vs), 0)[0], norms)
    counts = package.spectral_norm(*layers, N_ITERATIONS, 1e-3)[3]
    assert torch.equal(counts, package.spectral_norm(*scaled(1.0, dtype)[0], N_ITERATIONS, 1e-3)[3])
    companions = [v if v.numel() <= u.numel() else u for u, v in zip(us, vs, strict=True)]
    found = package.lanczos_norm(*layers[:3], companions, layers.geometry, 40, 0.0)
    assert_near(found.sigmas, norms)
    assert (found.residuals.double() <= RELATIVE * norms).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_a_power_of_two_changes_no_digit(isa, dtype):
    run_on(isa)
    layers = make_layers(NAMES, dtype)
    plain = ops.spectral_norm(*layers, 5)
    for exponent in (-98, -60, 40, 90):
        other = ops.spectral_norm(*layers._replace(weights=[w * 2.0**exponent for w in layers.weights]), 5)
        torch.testing.assert_close(other[0] / 2.0**exponent, plain[0], rtol=64 * torch.finfo(dtype).eps, atol=0.0)


@pytest.mark.parametrize("value", NOT_FINITE)
@MACHINES
def test_a_weight_that_is_not_finite_has_no_finite_norm(machine, value):
    package = package_on(machine)
    layers = make_layers(NAMES, torch.float32)
    for weight in layers.weights:
        weight.view(-1)[-1] = value
    sigmas, us, vs, _ = package.spectral_norm(*layers, 3)
    assert not sigmas.isfinite().any()
    companions = [v if v.numel() <= u.numel() else u for u, v in zip(layers.us, layers.vs, strict=True)]
    assert not package.lanczos_norm(*layers[:3], companions, layers.geometry).sigmas.isfinite().any()
    for weight in package.spectral_normalize(layers.weights, sigmas, us, vs, layers.geometry, 0.9):
        assert not weight.isfinite().all()


@pytest.mark.parametrize("sigma_gradient", [True, False])
@pytest.mark.parametrize("size", [1e-30, 1e12, 1e30])
@pytest.mark.parametrize("dtype", DTYPES)
@MACHINES
def test_normalised_weights_and_their_gradients(machine, dtype, size, sigma_gradient):
    """Those of float64, where a weight of size s has the gradient of one of size 1 over s, if it is scaled down."""
    package = package_on(machine)
    layers, _ = scaled(size, dtype)
    exact = near_layers()
    coeff = 0.9 * min(size, 1.0)  # so that all but the largest sizes, too, are scaled down
    upstream = [torch.cos(torch.arange(w.numel(), dtype=torch.float64)).view(w.shape) for w in exact.weights]

    def run(which, weights, us, vs, geometry):
        weights = [w.clone().requires_grad_() for w in weights]
        sigmas, us, vs, _ = which.spectral_norm([w.detach() for w in weights], us, vs, geometry, N_ITERATIONS)
        out = which.spectral_normalize(weights, sigmas, us, vs, geometry, coeff, sigma_gradient)
        loss = sum((o * g.to(o.dtype)).sum() for o, g in zip(out, upstream, strict=True))
        return out, torch.autograd.grad(loss, weights)

    weights = [w.double() for w in layers.weights]  # rounded as those in float32 are
    want = run(reference, weights, exact.us, exact.vs, exact.geometry)
    for got, expected in zip(run(package, *layers), want, strict=True):
        for a, b in zip(got, expected, strict=True):
            assert_close_by_norm(a.double(), b)


def assert_close_by_norm(a, b):
    largest = b.abs().max()
    assert ((a - b) / largest).norm() <= 1e-3  # u and v are right to the root of what sigma is


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_know_their_norm(dtype, size, strict, training):
    """Sigma, above the norm by what the layers add in training, and what the layer does with it."""
    for make, x in (
        (lambda: nn.SpectralLinear(20, 24, bias=False, strict=strict), torch.randn(5, 20)),
        (lambda: nn.SpectralLinear(200, 150, bias=False, strict=strict), torch.randn(5, 200)),
        (lambda: nn.SpectralConv2d(3, 4, 3, padding=1, bias=False, strict=strict), torch.randn(2, 3, 6, 5)),
        (lambda: nn.SpectralConv2d(8, 8, 1, bias=False, strict=strict), torch.randn(2, 8, 6, 5)),
    ):
        torch.manual_seed(0)
        layer = make().to(dtype).train(training)
        with torch.no_grad():
            layer.weight.normal_().mul_(size)
        y = layer(x.to(dtype))
        norm = torch.linalg.matrix_norm(operator_matrix(layer.weight.detach().double(), layer.geometry), 2).item()
        assert layer.sigma.item() == pytest.approx(norm, rel=2e-3)
        assert layer.sigma.item() >= norm * (1.0 - 1e-5)
        plain = layer.weight.detach().double() * min(1.0, 0.9 / norm)
        want = operator_matrix(plain, layer.geometry)
        got = y.detach().double()
        if layer.geometry is None:
            want = torch.einsum("oi,bi...->bo...", want, x.double())
        else:
            want = (want @ x.double().flatten(1).t()).t().view(got.shape)
        assert ((got - want).norm() / want.norm()).item() <= 3e-3


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("training", [True, False])
def test_layers_of_weights_that_are_not_finite_return_no_finite_number(training, value):
    for layer, x in (
        (nn.SpectralLinear(20, 24), torch.randn(5, 20)),
        (nn.SpectralConv2d(3, 4, 3, padding=1), torch.randn(2, 3, 6, 5)),
    ):
        layer.train(training)(x)
        with torch.no_grad():
            layer.weight.view(-1)[-1] = value
        y = layer(x)
        assert not layer.sigma.isfinite()
        assert not y.isfinite().all()


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 1e12, 1e30])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "pair", [(1.0, 1.0), (1.0, 2.0), (1.0, math.inf), (2.0, math.inf), (math.inf, math.inf), (2.0, 2.0)]
)
def test_induced_norms(pair, dtype, size):
    """The norm of a weight of any size, and its gradient, of a size that does not depend on that of the weight."""
    for shape in ((5, 7), (4, 3, 3, 3)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        plain = weight.clone().requires_grad_()
        want = nn.induced_norm(plain, *pair)
        large = (weight * size).to(dtype).requires_grad_()
        got = nn.induced_norm(large, *pair)
        assert got.item() == pytest.approx(size * want.item(), rel=1e-5)
        gradients = (torch.autograd.grad(norm, w)[0].double() for norm, w in ((got, large), (want, plain)))
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_induced_norms_of_weights_that_are_not_finite(value):
    weight = torch.randn(5, 7)
    weight[1, 2] = value
    for pair in ((1.0, 2.0), (2.0, math.inf), (2.0, 2.0), (1.0, 1.0), (math.inf, math.inf)):
        assert not nn.induced_norm(weight, *pair).isfinite()


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", DTYPES)
def test_certified_bounds(dtype, size):
    layers, norms = scaled(size, dtype)
    for weight, place, norm in zip(layers.weights, layers.geometry, norms, strict=True):
        bounds = certify.norm_bounds(weight, place)
        assert bounds.lower <= norm * (1 + 1e-12)
        assert norm * (1 - 1e-12) <= bounds.upper <= 1.001 * norm
    large = torch.randn(300, 310, generator=torch.Generator().manual_seed(0)).to(dtype) * size
    bounds, norm = certify.norm_bounds(large), torch.linalg.matrix_norm(large.double(), 2).item()
    assert bounds.lower <= norm * (1 + 1e-12) <= bounds.upper * (1 + 2e-12) <= 1.01 * norm
