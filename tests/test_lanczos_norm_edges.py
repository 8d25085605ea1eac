"""ops.lanczos_norm on weights and hints at the edges: zeros, padding only, NaN, hints that mislead, no elements."""

import math

import pytest
import torch
from lanczos_cases import arguments, gap, tensors
from layers import LAYERS
from problems import DTYPES

from iresnet_fast import ops, reference
from iresnet_fast.geometry import ConvGeometry
from iresnet_fast.reference.lanczos_norm import random_vector

PACKAGES = pytest.mark.parametrize("package", [ops, reference], ids=["ops", "reference"])


@PACKAGES
@pytest.mark.parametrize("dtype", DTYPES)
def test_random_vector(package, dtype):
    """From zeros a matrix that is a multiple of the identity keeps its start: the same numbers in every layer."""
    size = 100
    matrices = [torch.eye(size, dtype=dtype), 2.0 * torch.eye(size, dtype=dtype)]
    zeros = [t.new_zeros(size) for t in matrices]
    for seed in (0, 5, -1, 2**40, 2**63 - 1):
        expected = random_vector(size, seed)
        result = package.lanczos_norm(matrices, zeros, zeros, zeros, [None, None], 1, seed=seed)
        for v in result.vs:
            torch.testing.assert_close(v.double(), expected / expected.norm(), rtol=0.0, atol=torch.finfo(dtype).eps)


def test_random_numbers_are_uniform():
    """Mean 0, variance 1/3, not 0, exact in float32, and another vector for every bit of the seed."""
    size = 100_000
    numbers = random_vector(size, 3) / math.sqrt(3.0 / size)
    assert abs(numbers.mean().item()) <= 4.0 / math.sqrt(3.0 * size)  # four standard deviations
    assert numbers.square().mean().item() == pytest.approx(1.0 / 3.0, abs=4.0 * math.sqrt(4.0 / 45.0 / size))
    assert numbers.abs().max() < 1.0
    exact = numbers * 2.0**24
    assert torch.equal(exact.round(), exact.round().float().double())
    assert (exact.round() % 2).abs().eq(1).all()  # odd, so not 0
    draws = {tuple(random_vector(4, seed).tolist()) for seed in [0, *(1 << k for k in range(63)), -(2**63)]}
    assert len(draws) == 65


@PACKAGES
def test_equal_weights_hide_nothing(package):
    """The only singular vector of a constant matrix: random signs would cancel against it exactly, often."""
    matrix = torch.full((8, 8), 0.1)
    zeros = torch.zeros(8)
    for seed in range(200):
        assert package.lanczos_norm([matrix], [zeros], [zeros], [zeros], [None], seed=seed)[0].item() == pytest.approx(
            0.8
        )


@PACKAGES
def test_a_seed_in_a_tensor(package):
    given = arguments(["matrix", "same"])
    a, b, c = (package.lanczos_norm(*given, 2, 1e-3, seed) for seed in (7, torch.tensor(7), torch.tensor([8])))
    assert all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))
    assert not torch.equal(a.sigmas, c.sigmas)


@PACKAGES
@pytest.mark.parametrize("name", ["matrix", "wide matrix", "same", "strides"])
def test_a_zero_weight_has_norm_zero_and_keeps_its_vectors(package, name):
    weights, us, vs, companions, geometry = arguments([name])
    weights[0].zero_()
    result = package.lanczos_norm(weights, us, [3.0 * v for v in vs], companions, geometry)
    assert (result.sigmas.item(), result.residuals.item()) == (0.0, 0.0)
    torch.testing.assert_close((result.us[0], result.vs[0]), (us[0], vs[0]))
    assert not result.companions[0].any()
    us[0].zero_()
    vs[0].fill_(torch.nan)
    result = package.lanczos_norm(weights, us, vs, companions, geometry)
    for vector in (result.us[0], result.vs[0]):
        assert vector.norm().item() == pytest.approx(1.0)


@PACKAGES
def test_a_kernel_that_meets_padding_only_is_zero(package):
    weight = torch.ones(2, 2, 3, 3)
    weight[:, :, 1, 1] = 0.0
    place, vector = ConvGeometry((1, 1), padding=(1, 1)), torch.zeros(2, 1, 1)
    result = package.lanczos_norm([weight], [vector], [vector], [vector], [place])
    assert (result.sigmas.item(), result.residuals.item()) == (0.0, 0.0)


@PACKAGES
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["matrix", "wide matrix", "same"])
def test_weights_that_are_not_finite_are_seen(package, name, value):
    weights, us, vs, companions, geometry = arguments([name])
    weights[0].view(-1)[-1] = value
    result = package.lanczos_norm(weights, us, vs, companions, geometry, 1000, 1e-6)
    assert result.sigmas.isnan().all()
    assert result.residuals.isnan().all()
    torch.testing.assert_close((result.us[0], result.vs[0]), (us[0], vs[0]))


@PACKAGES
@pytest.mark.parametrize("dtype", DTYPES)
def test_bad_hints_are_dropped(package, dtype):
    """Zero, not finite, or too long for their own square: as if they were not there."""
    weights, us, vs, companions, geometry = arguments(["matrix", "wide matrix", "same", "strides"], dtype)
    zeros = [[torch.zeros_like(t) for t in hints] for hints in (us, vs, companions)]
    expected = package.lanczos_norm(weights, *zeros, geometry, 20)
    for value in (torch.nan, torch.inf, torch.finfo(dtype).max):
        bad = [[torch.full_like(t, value) for t in hints] for hints in (us, vs, companions)]
        got = package.lanczos_norm(weights, *bad, geometry, 20)
        assert all(torch.equal(a, b) for a, b in zip(tensors(got), tensors(expected), strict=True))


@PACKAGES
def test_hints_that_cancel(package):
    """v = 0, and the companion is the random vector turned round: the shares cancel, and the random one serves."""
    companion = -random_vector(4, 0)
    matrix, zeros = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])).double(), torch.zeros(4, dtype=torch.float64)
    result = package.lanczos_norm([matrix], [zeros], [zeros], [companion.double()], [None])
    assert result.sigmas.item() == pytest.approx(4.0)


@PACKAGES
def test_layers_without_elements(package):
    empty = [torch.zeros(0, 5), torch.zeros(5, 0), torch.zeros(0, 2, 3, 3)]
    us = [torch.zeros(0), torch.ones(5), torch.zeros(0, 4, 4)]
    vs = [torch.ones(5), torch.zeros(0), torch.ones(2, 4, 4)]
    companions = [us[0], vs[1], us[2]]
    geometry = [None, None, ConvGeometry((4, 4), padding=(1, 1))]
    result = package.lanczos_norm(empty, us, vs, companions, geometry)
    assert not result.sigmas.any()
    assert [t.shape for t in (*result.us, *result.vs)] == [t.shape for t in (*us, *vs)]


def test_the_vectors_given_are_not_changed():
    given = arguments(list(LAYERS))
    before = [t.clone() for hints in given[1:4] for t in hints]
    ops.lanczos_norm(*given, 2)
    assert all(torch.equal(a, b) for a, b in zip((t for hints in given[1:4] for t in hints), before, strict=True))


def test_non_contiguous_arguments():
    given = arguments(["matrix", "same", "strides"])
    strided = [[torch.stack((t, torch.full_like(t, torch.nan)), -1)[..., 0] for t in part] for part in given[:4]]
    got, expected = ops.lanczos_norm(*strided, given[4], 9), ops.lanczos_norm(*given, 9)
    assert all(torch.equal(a, b) for a, b in zip(tensors(got), tensors(expected), strict=True))


@PACKAGES
def test_without_a_tolerance_all_steps_are_taken(package):
    """tol = 0; an invariant subspace ends it all the same."""
    matrices = [gap(0.3), torch.eye(60, dtype=torch.float64)]
    zeros = [t.new_zeros(60) for t in matrices]
    assert package.lanczos_norm(matrices, zeros, zeros, zeros, [None] * 2, 30, 0.0).iterations.tolist() == [30, 1]
