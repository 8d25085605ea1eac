import pytest
import torch
from comparison import assert_within_rounding
from problems import DTYPES, Case, make, named

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


@pytest.mark.parametrize(
    ("card", "batch", "columns", "tile"),
    [
        ("single", 128, 64, 64),  # one multiprocessor: a wide tile loads least for its products
        ("single", 128, 20, 16),  # most of a tile of 64 would be for nothing
        ("h100", 129, 64, 16),  # idle multiprocessors: the more tiles, the better
        ("h100/44", 128, 64, 32),  # three multiprocessors: two tiles of 32 at once, or two turns of 16
        ("h100/44", 129, 256, 64),
    ],
)
def test_a_product_takes_the_tiles_that_finish_first(checker, card, batch, columns, tile):
    case = Case("tiles", (3,), (columns,), batch=batch)
    branch(checker, make(case, torch.float32), card=card)
    product = next(launch for launch in checker.launches if launch.kernel.startswith("stage_product_kernel"))
    assert product.grid == (-(-batch // 128) * -(-columns // tile), 1, 1)
