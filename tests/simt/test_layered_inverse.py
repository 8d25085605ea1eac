import pytest
import torch
from comparison import assert_within_rounding
from problems import DTYPES, LIPSCHITZ, Case, make, named

from iresnet_fast import reference

from . import operands
from .branches import CARDS, CASES, FEW, run

# Reachable in the dtype, by few iterations.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-5}


def expected(problem, tol, max_iterations):
    return reference.residual_inverse(problem.x, *problem.branch, LIPSCHITZ, tol, max_iterations, problem.parameters)


def inverse(emulator, problem, tol, max_iterations, **target):
    limit = tol * (1.0 - LIPSCHITZ)
    return run(
        emulator,
        operands.residual_inverse,
        problem,
        limit,
        max_iterations,
        max_iterations,
        variant="layered_residual_inverse",
        **target,
    )


@pytest.mark.parametrize("case", **named(FEW))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("card", CARDS)
def test_matches_reference(emulator, card, dtype, case):
    tol = TOLERANCE[dtype]
    problem = make(case, dtype)
    got, same, exact = (
        inverse(emulator, problem, tol, 60, card=card),
        expected(problem, tol, 60),
        expected(make(case), tol, 60),
    )
    assert torch.equal(got[1], exact[1])
    assert_within_rounding(case, got[::2], same[::2], exact[::2])


@pytest.mark.parametrize("max_iterations", [0, 3])
def test_iterations_are_bounded(emulator, max_iterations):
    case = CASES[2]
    problem = make(case)
    got, exact = inverse(emulator, problem, 1e-9, max_iterations), expected(problem, 1e-9, max_iterations)
    assert torch.equal(got[1], exact[1])
    assert_within_rounding(case, got[::2], exact[::2], exact[::2])


def test_samples_without_progress_stop(emulator):
    """A tolerance below rounding, and a NaN: both end, alone."""
    case = Case("patience", (3,), (4,), batch=5, activations=("identity", "tanh"))
    problem = make(case, torch.float32)
    problem.x[3, 1] = torch.nan
    x, iterations, residual = inverse(emulator, problem, 0.0, 80)
    exact = expected(make(case), 1e-9, 80)[0]
    assert iterations[3] == 0
    assert residual[3].isnan()
    others = torch.tensor([0, 1, 2, 4])
    assert (iterations[others] < 80).all()
    assert (residual[others] < 1e-6).all()
    assert (x[others] - exact[others]).abs().max() < 1e-5
