import pytest
import torch
from comparison import assert_within_rounding
from problems import DTYPES, Case, make, named

from iresnet_fast import reference

from . import operands
from .branches import CARDS, CASES, PRECISIONS, TENSOR, run
from .rounding import rounded

# Relative error of one rounded operand.
ROUNDING = {"tf32": 2.0**-11, "bf16": 2.0**-8}


def branch(emulator, problem, **target):
    return run(emulator, operands.branch, problem, variant="layered_branch", **target)


def expected(problem):
    return reference.branch(problem.x, *problem.branch, problem.parameters, problem.factors)


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


# One product of operands that are known exactly: narrow and wide tiles, several of each, steps that are not whole.
PRODUCTS = [
    Case("one channel", (1,), batch=3),
    Case("narrow", (37,), batch=129),
    Case("wide", (150,), batch=130),
    Case("narrow image", (7, 5, 9), kernels=(3,), batch=3),
    Case("wide image", (33, 6, 5), kernels=(3,), batch=5),
    Case("large kernel", (20, 3, 4), kernels=(5,), batch=2),
]


def rounded_once(case, precision, dtype):
    """The twin: a linear branch of one stage whose operands are rounded."""
    problem = make(case, torch.float32)
    x, weight = (rounded(t, PRECISIONS[precision]).to(dtype) for t in (problem.x, problem.weights[0]))
    biases = [b if b is None else b.to(dtype) for b in problem.biases]
    return reference.branch(x, [weight], biases, problem.activations, problem.parameters)


@pytest.mark.parametrize("case", **named([c._replace(activations=("identity",)) for c in PRODUCTS]))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_operands_are_rounded_once(emulator, precision, case):
    got = branch(emulator, make(case, torch.float32), card="single", precision=PRECISIONS[precision])
    same, exact = (rounded_once(case, precision, dtype) for dtype in (torch.float32, torch.float64))
    assert_within_rounding(case, [got], [same], [exact])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_operands_of_half_the_size_are_half_the_bytes(checker, precision):
    """Rows of 64 channels are read once by each tile of columns, and 64 x 64 weights once, in whole sectors."""
    case = Case("square", (64,), batch=128, activations=("identity",))
    with checker.counting() as counters:
        branch(checker, make(case, torch.float32), card="single", precision=PRECISIONS[precision])
    size = 2 if precision == "bf16" else 4
    rows = counters.total("write", "global", "activate.cuh")
    assert rows.bytes == 128 * 64 * (size + 4)  # h, and g as it is
    read = counters.total("read", "global", "product_fetch.cuh")
    (product,) = [launch for launch in checker.launches if launch.kernel.startswith("stage_product_kernel")]
    assert read.bytes == (128 * product.grid[0] + 64) * 64 * size
    for traffic in (rows, read):
        assert traffic.sectors * 32 == traffic.bytes
