"""Upper bounds of norms: never below the singular value of the operator written out, and close to it."""

import math

import pytest
import torch
from operators import adversarial_matrix, largest_singular_value, matrix_with, random_convolution, seeded, written_out

from iresnet_fast.certify import gram
from iresnet_fast.certify._operators import Operator
from iresnet_fast.geometry import ConvGeometry

pytestmark = pytest.mark.usefixtures("one_thread")
# What LAPACK's own singular value may be off by, for sides of some hundreds.
LAPACK = 1e-13


def check(weight, geometry=None, padding_mode="zeros"):
    true = largest_singular_value(written_out(weight, geometry, padding_mode))
    exact = gram.norm(weight, geometry, padding_mode)
    assert float(exact.lower) * (1.0 - LAPACK) <= true <= float(exact.upper) * (1.0 + LAPACK)
    assert float(exact.upper) <= float(exact.lower) * (1.0 + 1e-8)
    assert true * (1.0 - LAPACK) <= float(gram.upper_bound(weight, geometry, padding_mode)) <= 1.02 * true
    return true, exact


def test_matrices_that_power_iteration_is_bad_at():
    rng = seeded(0)
    for _ in range(200):
        check(adversarial_matrix(rng))


def test_convolutions_of_every_geometry():
    rng = seeded(1)
    for _ in range(150):
        weight, geometry, mode = random_convolution(rng)
        true, exact = check(weight, geometry, mode)
        if true > 0.0:
            matrix = written_out(weight, geometry, mode)
            assert exact.v.shape == (weight.shape[1] * geometry.groups, *geometry.image_size)
            assert exact.u.shape == (weight.shape[0], *geometry.output_size(weight.shape[2:]))
            reached = torch.linalg.vector_norm(matrix @ exact.v.flatten())
            assert float(exact.u.flatten() @ (matrix @ exact.v.flatten())) == pytest.approx(true, rel=1e-9)
            assert float(reached) == pytest.approx(true, rel=1e-9)


def test_the_torus_bounds_what_is_cut_out_of_it():
    rng = seeded(2)
    for _ in range(150):
        weight, geometry, mode = random_convolution(rng)
        weight = weight / weight.abs().amax()
        operator = Operator(weight, geometry, mode)
        true = largest_singular_value(written_out(weight, geometry, mode))
        bound = float(gram.on_torus(operator, 8))
        assert bound >= true * (1.0 - LAPACK)


@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 3)])
def test_circular_convolutions_are_their_torus(stride):
    weight, geometry = torch.randn(4, 3, 3, 3), ConvGeometry((4, 6), stride, (1, 1))
    assert Operator(weight.double(), geometry, "circular").is_torus
    check(weight, geometry, "circular")


def test_a_large_image_is_bounded_on_a_torus():
    weight, geometry = torch.randn(4, 4, 3, 3), ConvGeometry((13, 14), padding=(1, 1))
    true = largest_singular_value(written_out(weight, geometry))
    torus = float(gram.upper_bound(weight, geometry, largest_side=700))
    assert true <= torus <= 1.05 * true  # of a border of one pixel in 13
    assert true <= float(gram.upper_bound(weight, geometry, largest_side=800)) <= 1.02 * true
    with pytest.raises(ValueError, match=r"a side of at most 2048, got \(2916, 2916\); use norm_bounds"):
        gram.norm(weight, ConvGeometry((27, 27), padding=(1, 1)))


@pytest.mark.parametrize("exponent", [-320, -310, -200, 200, 300])
def test_numbers_at_both_ends_of_float64(exponent):
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64) * float(f"1e{exponent}")
    true = math.hypot(float(weight[0, 0]), float(weight[0, 1]))
    exact = gram.norm(weight)
    assert float(exact.lower) <= true <= float(exact.upper) <= true * (1.0 + 1e-12) + 1e-322
    assert true <= float(gram.upper_bound(weight)) <= true * (1.0 + 1e-12) + 1e-322


def test_float32_weights_at_the_ends_of_their_range():
    for scale in (1e-45, 1e-30, 1e30):
        check(torch.tensor([[scale, 0.0], [scale, scale]]))


def test_zero_and_weights_that_are_not_finite():
    zero = gram.norm(torch.zeros(3, 4))
    assert float(zero.lower) == float(zero.upper) == float(gram.upper_bound(torch.zeros(3, 4))) == 0.0
    for bad in (math.nan, math.inf, -math.inf):
        weight = torch.randn(3, 4)
        weight[1, 2] = bad
        assert float(gram.norm(weight).upper) == float(gram.upper_bound(weight)) == math.inf
        assert float(gram.norm(weight).lower) == 0.0


def test_iterations_bring_it_down_to_the_norm():
    weight = matrix_with([1.0] * 64, 64, 80)
    bounds = [float(gram.upper_bound(weight, n_iterations=n)) for n in range(1, 9)]
    expected = [64.0 ** (0.5 / 2.0**n) for n in range(1, 9)]
    assert bounds == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("proposal", [0.0, 1.0, 1.99, 1.998])
def test_a_proposal_that_is_too_small_proves_nothing(proposal):
    matrix = matrix_with([2.0, 1.0, 1.0], 3, 3)
    operator = Operator(matrix, None, "zeros")
    assert 2.0 * (1.0 - LAPACK) <= float(gram.proved(operator, torch.tensor(proposal, dtype=torch.float64))) <= 2.01


def test_training_and_gradients_are_left_alone():
    weight = torch.randn(4, 5, requires_grad=True)
    assert not gram.norm(weight).upper.requires_grad
    with torch.inference_mode():
        assert float(gram.upper_bound(weight)) >= float(torch.linalg.matrix_norm(weight.double(), 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 2), None, "reflect"), "padding_mode must be 'zeros' or 'circular', got 'reflect'"),
        ((torch.ones(2, 2, 3, 3),), r"weight must have shape \[out, in\] or \[out, in, 1, 1\] without a geometry"),
        ((torch.ones(2, 2), ConvGeometry((3, 3))), r"weight must have shape \[out, in / groups, kh, kw\] with out"),
        ((torch.ones(0, 2),), "weight must hold floating point numbers, got torch.float32 of shape"),
        ((torch.ones(2, 2, dtype=torch.int64),), "weight must hold floating point numbers, got torch.int64"),
        ((torch.ones(3, 2, 1, 1), ConvGeometry((3, 3), groups=2)), "weight must .* out divisible by groups = 2, got"),
        ((torch.ones(2, 2, 3, 3), ConvGeometry((2, 3))), "geometry must leave at least one output pixel"),
    ],
)
def test_bad_arguments(arguments, message):
    for function in (gram.norm, gram.upper_bound):
        with pytest.raises(ValueError, match=message):
            function(*arguments)
