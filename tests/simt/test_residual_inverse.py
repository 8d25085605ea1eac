"""The inverse as users call it, on the emulated CUDA kernels: resident or layer by layer, as planned."""

import pytest
import torch
from comparison import assert_within_rounding
from problems import CASES, LIPSCHITZ, Case, make, named

from iresnet_fast import ops, reference

# What is large is left to the tests of the walks.
SMALL = [case for case in CASES if case.batch <= 16 and "identity" not in case.name]
WIDE = Case("layer by layer", (3, 4, 4), (520,), (3, 1), batch=2)


def evaluate(package, case, dtype, tol=1e-3, accelerate=False):
    problem = make(case, dtype)
    arguments = LIPSCHITZ, tol, 40, problem.parameters, accelerate, problem.factors
    return package.residual_inverse(problem.x, *problem.branch, *arguments)


@pytest.mark.parametrize("case", **named([*SMALL, WIDE]))
def test_matches_the_reference(emulated_ops, case):
    emulated_ops("h100")
    got, same, exact = (
        evaluate(ops, case, torch.float32),
        evaluate(reference, case, torch.float32),
        evaluate(reference, case, torch.float64),
    )
    assert torch.equal(got[1], exact[1])
    assert_within_rounding(case, got[::2], same[::2], exact[::2])


@pytest.mark.parametrize("case", **named([*SMALL, WIDE]))
def test_accelerated_matches_the_reference(emulated_ops, case):
    """Float64 takes other steps than float32: the oracle is the solution."""
    emulated_ops("h100")
    got, same = (evaluate(package, case, torch.float32, accelerate=True) for package in (ops, reference))
    problem = make(case)
    arguments = LIPSCHITZ, 1e-13, 1000, problem.parameters, True, problem.factors
    solution, *_ = reference.residual_inverse(problem.x, *problem.branch, *arguments)
    assert torch.equal(got[1], same[1])
    assert_within_rounding(case, got[:1], same[:1], (solution,))
    assert (got[2] <= 1e-3 * (1.0 - LIPSCHITZ)).all()


@pytest.mark.parametrize("case", **named(SMALL[:3]))
def test_double_matches_the_reference(emulated_ops, case):
    emulated_ops("h100")
    got, exact = evaluate(ops, case, torch.float64, 1e-6), evaluate(reference, case, torch.float64, 1e-6)
    assert torch.equal(got[1], exact[1])
    assert_within_rounding(case, got[::2], exact[::2], exact[::2])
