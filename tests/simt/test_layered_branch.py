import pytest
import torch
from comparison import assert_within_rounding
from problems import DTYPES, make, named

from iresnet_fast import reference

from . import operands
from .branches import CARDS, CASES, PRECISIONS, TENSOR, run

# Relative error of one rounded operand.
ROUNDING = {"tf32": 2.0**-11, "bf16": 2.0**-8}


def branch(emulator, problem, **target):
    return run(emulator, operands.branch, problem, variant="layered_branch", **target)


def expected(problem):
    return reference.branch(problem.x, *problem.branch, problem.parameters)


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("card", CARDS)
def test_matches_reference(emulator, card, dtype, case):
    problem = make(case, dtype)
    got = branch(emulator, problem, card=card)
    assert_within_rounding(case, [got], [expected(problem)], [expected(make(case))])


@pytest.mark.parametrize("case", **named(TENSOR))
@pytest.mark.parametrize("precision", ROUNDING)
def test_tensor_cores_round_only_operands(emulator, precision, case):
    """Each stage rounds two operands, by at most this much of sums whose terms are of size 1."""
    got = branch(emulator, make(case, torch.float32), card="single", precision=PRECISIONS[precision])
    exact = expected(make(case))
    error = (got - exact).abs().max().item()
    assert error <= 2 * (len(case.hidden) + 1) * ROUNDING[precision] * max(1.0, exact.abs().max().item())


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_sample(emulator, dtype):
    problem = make(CASES[3], dtype)
    problem.x[1, 2] = torch.nan
    got = branch(emulator, problem, card="single")
    assert torch.equal(got.isnan(), expected(problem).isnan())
