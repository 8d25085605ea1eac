"""The branch as users call it, on the emulated CUDA kernels: resident or layer by layer, as planned."""

import pytest
import torch
from comparison import assert_within_rounding
from problems import CASES, DTYPES, Case, make, named

from iresnet_fast import ops, reference

from .conftest import FEW_SCHEDULES

SMALL = [case for case in CASES if case.batch <= 33]
WIDE = Case("layer by layer", (3, 4, 4), (520,), (3, 1), batch=2)
FEW_SAMPLES = Case("few samples", (31,), (33,), batch=3)
TENSOR = Case("tensor images", (20, 5, 6), (40,), (3, 3), batch=3)


def evaluate(package, case, dtype):
    problem = make(case, dtype)
    return [package.branch(problem.x, *problem.branch, problem.parameters)]


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


@pytest.mark.parametrize("emulator", **FEW_SCHEDULES)
@pytest.mark.parametrize("precision", [1, 2])
@pytest.mark.parametrize(
    ("case", "slower"), [(FEW_SAMPLES, True), (TENSOR, False)], ids=lambda p: getattr(p, "name", p)
)
def test_tensor_cores_run_only_where_they_are_cheaper(emulated_ops, case, slower, precision):
    """Elsewhere the bits are those of full precision."""
    results = []
    for asked in (0, precision):
        emulated_ops("h100", asked)
        results.append(evaluate(ops, case, torch.float32)[0])
    assert torch.equal(*results) == slower
