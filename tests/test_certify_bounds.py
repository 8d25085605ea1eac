"""norm_bounds: both sides of the norm, by the method that fits the size."""

import math

import pytest
import torch
from operators import largest_singular_value, matrix_with, random_convolution, seeded, written_out

from iresnet_fast import certify
from iresnet_fast.certify import bounds as module
from iresnet_fast.certify import gram
from iresnet_fast.certify._operators import Operator
from iresnet_fast.geometry import ConvGeometry

pytestmark = pytest.mark.usefixtures("one_thread")
LAPACK = 1e-13  # what its singular value may be off by, for sides of some hundreds


def check(weight, geometry=None, padding_mode="zeros", method="Cholesky", close=1.002):
    true = largest_singular_value(written_out(weight, geometry, padding_mode))
    found = certify.norm_bounds(weight, geometry, padding_mode)
    assert found.method == method
    assert found.lower * (1.0 - LAPACK) <= true <= found.upper * (1.0 + LAPACK)
    assert found.upper <= close * true
    assert found.lower >= 0.999 * true
    return found


def test_small_sides_by_eigenvalues():
    check(torch.randn(5, 300), method="eigenvalues", close=1.0 + 1e-8)
    check(torch.randn(4, 4, 3, 3), ConvGeometry((5, 7), padding=(1, 1)), method="eigenvalues", close=1.0 + 1e-8)


@pytest.mark.parametrize("kind", ["normal", "rank one", "repeated", "gap", "tiny", "huge", "blocks"])
def test_wider_matrices_by_a_factorisation(kind):
    weight = {
        "normal": lambda: torch.randn(300, 280),
        "rank one": lambda: torch.randn(300, 1) @ torch.randn(1, 280),
        "repeated": lambda: matrix_with([1.0] * 280, 300, 280),
        "gap": lambda: matrix_with([1.0] + [1.0 - 1e-6] * 279, 300, 280),
        "tiny": lambda: 1e-30 * torch.randn(300, 280),
        "huge": lambda: 1e200 * torch.randn(300, 280, dtype=torch.float64),
        "blocks": lambda: torch.block_diag(torch.randn(150, 140), torch.randn(150, 140)),
    }[kind]()
    check(weight)
    check(weight.mT)


@pytest.mark.parametrize(
    ("shape", "geometry", "mode"),
    [
        ((8, 8, 3, 3), ConvGeometry((6, 7), padding=(1, 1)), "zeros"),
        ((8, 12, 3, 5), ConvGeometry((12, 9), (2, 1), (1, 2)), "zeros"),
        ((16, 4, 3, 3), ConvGeometry((12, 13), padding=(2, 2), dilation=(2, 2), groups=2), "zeros"),
        ((6, 6, 3, 3), ConvGeometry((7, 8), padding=(1, 1)), "circular"),
    ],
)
def test_convolutions_by_a_factorisation(shape, geometry, mode):
    check(torch.randn(shape), geometry, mode)


def test_a_wide_pointwise_convolution_is_its_matrix():
    check(torch.randn(300, 300, 1, 1))
    check(torch.randn(600, 300, 1, 1), ConvGeometry((1, 2), groups=2))


def test_large_convolutions_on_the_torus(monkeypatch):
    monkeypatch.setattr(Operator.is_explicit, "__defaults__", (100,))
    weight = torch.randn(4, 4, 3, 3)
    check(weight, ConvGeometry((10, 11), padding=(1, 1)), method="torus", close=1.08)
    check(weight, ConvGeometry((10, 11), padding=(1, 1)), "circular", method="torus", close=1.02)


def test_a_norm_that_lanczos_misses_is_bounded_all_the_same(monkeypatch):
    """The factorisation fails, and Gram iteration takes its place."""
    weight = torch.randn(300, 280)
    true = largest_singular_value(weight.double())
    monkeypatch.setattr(module, "leading", lambda operator: torch.ones(operator.input_shape, dtype=torch.float64))
    found = certify.norm_bounds(weight)
    assert found.lower < 0.6 * true < true <= found.upper <= 1.02 * true


def test_lower_bounds_are_attained_by_convolutions_of_every_geometry():
    rng = seeded(3)
    for _ in range(100):
        weight, geometry, mode = random_convolution(rng)
        true = largest_singular_value(written_out(weight, geometry, mode))
        operator, exponent, _ = gram.prepared(weight, geometry, mode)
        lower = float(gram.attained(operator, module.leading(operator))) * 2.0 ** int(exponent)
        assert 0.999 * true <= lower <= true * (1.0 + LAPACK)


def test_weights_that_are_not_finite_or_zero():
    assert certify.norm_bounds(torch.full((2, 2), math.nan)) == (0.0, math.inf, "none")
    for size in (3, 300):
        assert certify.norm_bounds(torch.zeros(size, size))[:2] == (0.0, 0.0)
        assert certify.norm_bounds(torch.zeros(size, 2 * size))[:2] == (0.0, 0.0)
    outside = certify.norm_bounds(torch.ones(300, 300, 1, 1), ConvGeometry((1, 1), (3, 3), (1, 1)))
    assert outside.lower == outside.upper == 0.0  # it sees nothing but the padding


def test_taps_that_see_nothing_but_padding_count_for_nothing():
    weight, geometry = torch.randn(3, 3, 3, 3), ConvGeometry((1, 1), padding=(1, 1))
    alone = torch.zeros_like(weight)
    alone[..., 1, 1] = weight[..., 1, 1]
    assert certify.norm_bounds(weight, geometry) == certify.norm_bounds(alone, geometry)
    border = weight - alone
    assert certify.norm_bounds(border, geometry)[:2] == (0.0, 0.0)
    assert float(gram.upper_bound(border, geometry, largest_side=0)) == 0.0


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first, second = (certify.norm_bounds(torch.ones(300, 301)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert first == second


def test_bad_arguments():
    with pytest.raises(ValueError, match="n_iterations must be at least 1, got 0"):
        certify.norm_bounds(torch.ones(2, 2), n_iterations=0)
    with pytest.raises(ValueError, match="padding_mode must be"):
        certify.norm_bounds(torch.ones(2, 2), padding_mode="same")
