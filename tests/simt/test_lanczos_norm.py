import math

import pytest
import torch
from lanczos_cases import adversarial, gap, with_singular_values
from layers import LAYERS, operator_matrix
from problems import DTYPES

from iresnet_fast import reference
from iresnet_fast.geometry import ConvGeometry
from iresnet_fast.ops.spectral_norm import flat_geometry
from iresnet_fast.reference import LanczosNorms
from iresnet_fast.reference.lanczos_norm import random_vector

from . import operands
from .conftest import SCHEDULES
from .norm_layers import LARGE, Layers, named_layers

CARDS = ["h100", "t4"]
ONE_LAUNCH = ["store_page<Row>", "store_page<Row>", "lanczos_iteration<T>"]


def lanczos_norm(emulator, weights, us, vs, companions, geometry, n_iterations, tol=0.0, seed=0, card="h100"):
    flat, seed = flat_geometry(weights, geometry), torch.tensor([seed])
    norms, iterations, packed = operands.lanczos_norm(
        emulator, weights, us, vs, companions, seed, flat, n_iterations, tol, card=card
    )
    shapes, n = [*us, *vs, *companions], len(weights)
    vectors = [p.view(t.shape) for p, t in zip(packed.split([t.numel() for t in shapes]), shapes, strict=True)]
    return LanczosNorms(*norms, vectors[:n], vectors[n : 2 * n], vectors[2 * n :], iterations)


def shorter(us, vs):
    return [v if v.numel() <= u.numel() else u for u, v in zip(us, vs, strict=True)]


def arguments(layers):
    return (*layers[:3], [t.flip(0) + 0.5 * t for t in shorter(layers.us, layers.vs)], layers.geometry)


def of_matrices(emulator, matrices, n_iterations, tol=0.0, **options):
    """From zeros."""
    us, vs = ([t.new_zeros(t.shape[k]) for t in matrices] for k in (0, 1))
    return lanczos_norm(emulator, matrices, us, vs, shorter(us, vs), [None] * len(us), n_iterations, tol, **options)


def sum_length(weight, place):
    """The most products that one number of A v or A^T u sums."""
    taps = weight[0, 0].numel()
    return max(weight[0].numel(), len(weight) // (place.groups if place else 1) * taps)


def assert_matches_reference(emulator, names, dtype, n_iterations, card="h100"):
    """Sigma and residual by the 2x rule; beyond it, as in test_spectral_norm.py, what float64 itself may be off by.

    Before a look at convergence, so both take as many steps, but where a subspace is invariant: a comparison of
    rounding errors. The vectors are checked as those that sigma and residual belong to.
    """
    layers = named_layers(names, dtype)
    got = lanczos_norm(emulator, *arguments(layers), n_iterations, seed=5, card=card)
    same = reference.lanczos_norm(*arguments(layers), n_iterations, 0.0, 5)
    exact = reference.lanczos_norm(*arguments(named_layers(names, torch.float64)), n_iterations, 0.0, 5)
    eps = torch.finfo(dtype).eps
    for i, (weight, u, v, place) in enumerate(zip(*layers, strict=True)):
        products = 2 * (2 * (n_iterations + 1) * sum_length(weight, place)) ** 0.5
        floor = (products + (max(u.numel(), v.numel()) / 3) ** 0.5) * eps * exact.sigmas[i].item()
        for part in ("sigmas", "residuals"):
            error, yardstick = (abs(getattr(p, part)[i].item() - getattr(exact, part)[i].item()) for p in (got, same))
            assert error <= 2.0 * yardstick + floor, (weight.shape, part)
        assert got.us[i].norm().item() == pytest.approx(1.0, abs=1e3 * eps)
        assert got.vs[i].norm().item() == pytest.approx(1.0, abs=1e3 * eps)
        near = got.vs[i] if v.numel() <= u.numel() else got.us[i]
        assert abs((near * got.companions[i]).sum().item()) <= 1e3 * eps
        for a, b in zip((got.us[i], got.vs[i], got.companions[i]), (u, v, near), strict=True):
            assert (a.dtype, a.shape) == (dtype, b.shape)


@pytest.mark.parametrize("n_iterations", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference(emulator, dtype, n_iterations):
    """Every kind of layer in one launch."""
    assert_matches_reference(emulator, list(LAYERS), dtype, n_iterations)
    assert [launch.kernel for launch in emulator.launches] == ONE_LAUNCH


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("card", CARDS)
def test_layers_in_and_out_of_shared_memory(emulator, card, dtype):
    assert_matches_reference(emulator, list(LARGE), dtype, 2, card)


def test_a_model_of_many_layers(emulator):
    """More layers than one kernel argument holds; each block finds its own."""
    assert_matches_reference(emulator, ["matrix", "stride", "tall matrix"] * 20, torch.float32, 1)


def test_a_basis_begins_anew(emulator):
    """Two steps more than a basis has, from the Ritz vector of the first."""
    matrix = with_singular_values(torch.linspace(1.0, 0.0, 100, dtype=torch.float64), 100)
    got = of_matrices(emulator, [matrix], 42)
    zeros = [matrix.new_zeros(100)]
    expected = reference.lanczos_norm([matrix], zeros, zeros, zeros, [None], 42, 0.0)
    assert got.iterations.item() == 42
    torch.testing.assert_close(got.sigmas, expected.sigmas)


def test_the_basis_stays_orthogonal(emulator):
    """Where Ritz values converge, three terms alone lose it, and copies of the leading vector enter the companion."""
    matrix = gap(0.3).float()
    got = of_matrices(emulator, [matrix], 30)
    zeros = [torch.zeros(60)]
    expected = reference.lanczos_norm([matrix], zeros, zeros, zeros, [None], 30, 0.0)
    assert got.iterations.item() == 30
    assert abs((got.vs[0] @ got.companions[0]).item()) <= 1e-5
    torch.testing.assert_close(got.companions[0], expected.companions[0], rtol=0.0, atol=1e-3)


def test_scaled_weights(emulator):
    """Beyond the range of squares: the factor of the weight meets sigma and residual."""
    layers = named_layers(["matrix", "same"], torch.float32)
    plain, (weights, *rest) = arguments(layers), arguments(layers)
    small = lanczos_norm(emulator, *plain, 2)
    result = lanczos_norm(emulator, [w * 1e25 for w in weights], *rest, 2)
    torch.testing.assert_close(result.sigmas / 1e25, small.sigmas)
    torch.testing.assert_close(result.residuals / 1e25, small.residuals, rtol=1e-3, atol=1e-5)


# Many steps: in the fast build alone, as what they do the tests above do too.
FAST = pytest.mark.parametrize("emulator", SCHEDULES[-1:], indirect=True, ids=["fast"])


@FAST
@pytest.mark.parametrize("name", ["wide matrix", "same", "everything"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_are_singular(emulator, dtype, name):
    """The norm by SVD, and A v = sigma u, A^T u = sigma v."""
    layers = named_layers([name], dtype)
    result = lanczos_norm(emulator, *arguments(layers), 40)
    matrix = operator_matrix(layers.weights[0], layers.geometry[0])
    u, v, sigma = result.us[0].flatten(), result.vs[0].flatten(), torch.linalg.matrix_norm(matrix.double(), 2).item()
    close = 200 * torch.finfo(dtype).eps
    assert result.sigmas.item() == pytest.approx(sigma, rel=close)
    for a, b in ((matrix @ v, sigma * u), (matrix.t() @ u, sigma * v)):
        torch.testing.assert_close(a, b, rtol=0.0, atol=close**0.5 * sigma)


@FAST
@pytest.mark.parametrize("dtype", DTYPES)
def test_iterations_to_a_tolerance_match_reference(emulator, dtype):
    """Over a look at convergence, and several."""
    matrices = [gap(relative, size).to(dtype) for relative, size in ((0.3, 50), (0.005, 60))]
    zeros = [[t.new_zeros(t.shape[0]) for t in matrices]] * 3
    got, expected = (
        of_matrices(emulator, matrices, 300, 1e-3),
        reference.lanczos_norm(matrices, *zeros, [None] * 2, 300, 1e-3),
    )
    assert torch.equal(got.iterations, expected.iterations)
    assert got.iterations.unique().numel() == 2
    for part in ("us", "vs", "companions"):
        for a, b in zip(getattr(got, part), getattr(expected, part), strict=True):
            torch.testing.assert_close(a, b, rtol=0.0, atol=1e-3 if dtype == torch.float32 else 1e-8)


@FAST
@pytest.mark.parametrize("name", ["rank one", "twice the largest", "orthogonal", "gap of 0.001", "two blocks"])
def test_adversarial_matrices(emulator, name):
    matrix = adversarial()[name].float()
    result = of_matrices(emulator, [matrix, matrix.t().contiguous()], 60, 1e-6)
    for sigma in result.sigmas.tolist():
        assert sigma == pytest.approx(1.0, rel=1.01e-4)


@FAST
@pytest.mark.parametrize("scale", [1e-30, 1e16])
@pytest.mark.parametrize("card", CARDS)
def test_tiny_and_huge_weights(emulator, card, scale):
    layers = named_layers(["matrix", "wide matrix", "same", "strides", "streamed", "packed weights"], torch.float32)
    plain, (weights, *rest) = arguments(layers), arguments(layers)
    small = lanczos_norm(emulator, *plain, 3, card=card)
    result = lanczos_norm(emulator, [w * scale for w in weights], *rest, 3, card=card)
    torch.testing.assert_close(result.sigmas / scale, small.sigmas)
    torch.testing.assert_close(result.residuals / scale, small.residuals, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_weights_without_a_norm_keep_their_vectors(emulator, value):
    layers = named_layers(["matrix", "wide matrix", "same", "strides"], torch.float32)
    for weight in layers.weights:
        weight.mul_(0.0).view(-1)[-1] = value
    result = lanczos_norm(emulator, *arguments(layers), 3)
    for numbers in (result.sigmas, result.residuals):
        assert not numbers.any() if value == 0.0 else numbers.isnan().all()
    torch.testing.assert_close((result.us, result.vs), (layers.us, layers.vs))
    assert not any(companion.any() for companion in result.companions)
    assert not result.iterations.any()


def test_bad_hints(emulator):
    """Zero, not finite, or cancelling the random vector."""
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    zeros, nan = torch.zeros(5), torch.full((5,), math.nan)
    expected = reference.lanczos_norm([matrix], [zeros], [zeros], [zeros], [None], 2)
    for u, v, companion in ((nan, nan, nan), (zeros, zeros, -random_vector(5, 0).float())):
        got = lanczos_norm(emulator, [matrix], [u], [v], [companion], [None], 2)
        torch.testing.assert_close((got.sigmas, got.us[0].abs()), (expected.sigmas, expected.us[0].abs()))
    result = lanczos_norm(emulator, [0.0 * matrix], [nan], [nan], [nan], [None], 2)
    start = (random_vector(5, 0) / random_vector(5, 0).norm()).float()
    torch.testing.assert_close((result.us[0], result.vs[0]), (start, start))


def test_a_kernel_that_meets_padding_only_is_zero(emulator):
    weight = torch.ones(2, 2, 3, 3)
    weight[:, :, 1, 1] = 0.0
    place, vector = ConvGeometry((1, 1), padding=(1, 1)), torch.ones(2, 1, 1)
    result = lanczos_norm(emulator, [weight], [vector], [vector], [vector], [place], 3)
    assert (result.sigmas.item(), result.residuals.item(), result.iterations.item()) == (0.0, 0.0, 1)


def test_layers_without_elements(emulator):
    empty = [torch.zeros(0, 5), torch.zeros(5, 0), torch.zeros(0, 2, 3, 3)]
    us = [torch.zeros(0), torch.ones(5), torch.zeros(0, 4, 4)]
    vs = [torch.ones(5), torch.zeros(0), torch.ones(2, 4, 4)]
    geometry = [None, None, ConvGeometry((4, 4), padding=(1, 1))]
    result = lanczos_norm(emulator, *Layers(empty, us, vs, geometry)[:3], [us[0], vs[1], us[2]], geometry, 2)
    assert not result.sigmas.any()
    for got, given in ((result.us, us), (result.vs, vs)):
        torch.testing.assert_close(got, [t / t.norm() if t.numel() else t for t in given])
