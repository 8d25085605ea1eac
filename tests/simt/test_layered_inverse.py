import pytest
import torch
from comparison import assert_within_rounding
from problems import DTYPES, LIPSCHITZ, Case, make, named
from undone import TOLERANCE as UNDONE
from undone import expected as undone_by_reference
from undone import make_undone

from iresnet_fast import reference

from . import operands
from .branches import CARDS, CASES, FEW, PRECISIONS, run

# Reachable in the dtype, by few iterations.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-5}


def expected(problem, tol, max_iterations, accelerate=False):
    arguments = (*problem.branch, LIPSCHITZ, tol, max_iterations, problem.parameters, accelerate, problem.factors)
    return reference.residual_inverse(problem.x, *arguments)


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


@pytest.mark.parametrize("case", **named(FEW))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("card", CARDS)
def test_accelerated_matches_reference(emulator, card, dtype, case):
    tol = TOLERANCE[dtype]
    problem = make(case, dtype)
    got = inverse(emulator, problem, tol, 60, lipschitz=LIPSCHITZ, card=card)
    same, solution = expected(problem, tol, 60, True), expected(make(case), 1e-13, 1000, True)[0]
    assert torch.equal(got[1], same[1])
    assert_within_rounding(case, got[:1], same[:1], (solution,))
    assert (got[2] <= tol * (1.0 - LIPSCHITZ)).all()


def test_steps_are_undone_as_in_the_reference(emulator, monkeypatch):
    problem = make_undone()
    got = inverse(emulator, problem, UNDONE, 100, lipschitz=LIPSCHITZ)
    want = undone_by_reference(problem, monkeypatch)
    assert torch.equal(got[1], want[1])
    # Rounding grows in the differences of iterates; what is compared are the same iterates.
    torch.testing.assert_close(got[0], want[0], rtol=0.0, atol=1e-10)
    torch.testing.assert_close(got[2], want[2], rtol=1e-2, atol=1e-14)


def test_the_last_update_is_a_plain_one(emulator):
    """Nobody would see whether it had to be undone."""
    problem = make_undone()
    for most in (2, 3, 4, 5):
        got = inverse(emulator, problem, UNDONE, most, lipschitz=LIPSCHITZ)
        want = expected(problem, UNDONE, most, True)
        assert torch.equal(got[1], want[1])
        torch.testing.assert_close(got[::2], want[::2], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", **named(FEW))
@pytest.mark.parametrize(("precision", "eps"), [("tf32", 2.0**-11), ("bf16", 2.0**-8)])
def test_tensor_cores_round_only_operands(emulator, precision, eps, case):
    """Each stage rounds two operands of sums of size 1; what z is off by, x is by 1 / (1 - L) times as much.

    The residual is what z is off by apart from that. It need not reach a limit below the rounding.
    """
    problem = make(case, torch.float32)
    x, iterations, residual = inverse(emulator, problem, 1e-3, 60, card="single", precision=PRECISIONS[precision])
    exact = expected(make(case), 1e-9, 1000)[0]
    assert (iterations < 60).all()
    rounding = 2 * (len(case.hidden) + 1) * eps * max(1.0, exact.abs().max().item())
    assert residual.max() <= 1e-3 * (1.0 - LIPSCHITZ) + rounding
    assert (x - exact).abs().max().item() <= (residual.max().item() + rounding) / (1.0 - LIPSCHITZ)


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
