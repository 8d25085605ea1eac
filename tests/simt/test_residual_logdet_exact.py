"""The exact log-determinant, and the Jacobian it comes from, on the emulated CUDA kernels."""

import pytest
import torch
from comparison import assert_within_rounding
from problems import CASES, DTYPES, TINY, Case, gradients, make, named

from iresnet_fast import ops, reference

from .conftest import FEW_SCHEDULES

pytestmark = pytest.mark.parametrize("emulator", **FEW_SCHEDULES)
SMALL = [case for case in CASES if case.batch <= 5 and not case.name.startswith(("dense ", "conv "))]
LAYERED = Case("layer by layer", (2, 3, 4), (260,), (1, 3), batch=2)


def evaluate(package, case, dtype):
    problem = make(case, dtype).requires_grad()
    outputs = package.residual_logdet_exact(problem.x, *problem.branch, problem.parameters, problem.factors)
    return [*outputs, *gradients(outputs, problem.leaves)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", **named([*SMALL, LAYERED]))
def test_value_and_gradient_match_the_reference(emulated_ops, case, dtype):
    emulated_ops()
    results = [evaluate(package, case, d) for package, d in ((ops, dtype), (reference, dtype))]
    assert_within_rounding(case, *results, evaluate(reference, case, torch.float64))


@pytest.mark.parametrize("case", **named(TINY))
def test_rows_in_several_goes_are_the_same(emulated_ops, case):
    emulated_ops("layered")
    results = [evaluate(package, case, torch.float64) for package in (ops, reference)]
    assert_within_rounding(case, *results, results[1])
