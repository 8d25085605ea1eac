"""The branch as users call it, on the emulated CUDA kernels: resident or layer by layer, as planned."""

import pytest
import torch
from comparison import assert_within_rounding
from problems import CASES, DTYPES, TINY, Case, make, named

from iresnet_fast import ops, reference

from . import operands

SMALL = [case for case in CASES if case.batch <= 33]
WIDE = Case("layer by layer", (3, 4, 4), (520,), (3, 1), batch=2)


def evaluate(package, case, dtype):
    problem = make(case, dtype)
    return [package.branch(problem.x, *problem.branch, problem.parameters, problem.factors)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", **named([*SMALL, WIDE]))
def test_matches_the_reference(emulated_ops, case, dtype):
    emulated_ops("h100")
    same, exact = evaluate(reference, case, dtype), evaluate(reference, case, torch.float64)
    assert_within_rounding(case, evaluate(ops, case, dtype), same, exact)


def test_wide_branches_go_layer_by_layer(emulated_ops):
    emulator = emulated_ops("h100")
    evaluate(ops, WIDE, torch.float32)
    products = [launch for launch in emulator.launches if launch.kernel.startswith("stage_product_kernel")]
    assert len(products) == len(WIDE.kernels)


@pytest.mark.parametrize("card", ["h100", "layered"])
@pytest.mark.parametrize("case", **named([*TINY, WIDE]))
def test_of_a_block_without_a_log_determinant(emulator, case, card):
    problem = make(case, torch.float32)
    arguments = problem.raw("branch")[1][:-1]
    g, z = (operands.branch(emulator, *arguments, residual=residual, card=card) for residual in (False, True))
    assert torch.equal(z, problem.x + g)
