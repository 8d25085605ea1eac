"""Products of the layered way that leave sums in memory: what runs, that every epilogue is right behind it, and what
the second kernel asks of memory."""

import pytest
import torch
from comparison import assert_within_rounding
from problems import DTYPES, LIPSCHITZ, Case, make, named

from iresnet_fast.reference.series import tail_factors

from . import test_branch_backward, test_layered_branch, test_layered_chain, test_layered_inverse
from .branches import PRECISIONS
from .test_layered_chain import between_items, chain, series

# The last stage of each takes one product over all taps on an H100: few columns, columns wider than the lanes of the
# second kernel, taps that lie outside every image, and a reduction long enough to be split as well.
BY_TAPS = [
    Case("few columns", (5, 6, 7), (66,), (3, 3), batch=3, activations=("identity", "elu"), terms=3),
    Case("wider than the lanes", (35, 5, 9), (66,), (3, 3), batch=3, activations=("tanh", "lipswish"), terms=2),
    Case("taps beyond the image", (3, 2, 3), (40,), (5, 5), batch=5, activations=("elu", "sin"), terms=3, probes=2),
    Case("split by taps", (4, 5, 5), (260,), (3, 3), batch=2, activations=("elu",), terms=2),
]
# Long enough for its reduction to be split in float64, and on one multiprocessor with bf16.
SPLIT = Case("split", (3,), (260,), batch=130, activations=("elu",), terms=2)
CASES = [*BY_TAPS, SPLIT]
BACKWARD = [case for case in CASES if case.probes is None]


def routes(emulator):
    """How often the last call gathered sums, and over how many splits its products were shared out at most."""
    products = [launch for launch in emulator.launches if launch.kernel.startswith("stage_product_kernel")]
    gathers = [launch for launch in emulator.launches if launch.kernel.startswith("gather_sums_kernel")]
    return len(gathers), max(launch.grid[1] for launch in products)


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_and_series_match_reference(emulator, dtype, case):
    problem = make(case, dtype)
    got = test_layered_branch.branch(emulator, problem)
    expected = test_layered_branch.expected
    assert_within_rounding(case, [got], [expected(problem)], [expected(make(case))])
    got = chain(emulator, problem, card="h100")
    gathers, splits = routes(emulator)
    assert (gathers > case.terms) == (case is not SPLIT or dtype == torch.float64)
    assert (splits > 1) == (case.name.startswith("split") and (case is not SPLIT or dtype == torch.float64))
    assert_within_rounding(case, got[:4], series(problem)[:4], series(make(case))[:4])


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_tensor_cores_round_only_operands(emulator, precision, case):
    test_layered_chain.test_tensor_cores_round_only_operands(emulator, precision, case)
    problem = make(case, torch.float32)
    chain(emulator, problem, card="h100", precision=PRECISIONS[precision])
    long_enough = precision == "tf32" or case.hidden[0] > 66 or case.kernels == (5, 5)  # bf16 halves the reduction
    assert (routes(emulator)[0] > 0) == (long_enough and case is not SPLIT)


@pytest.mark.parametrize("case", **named(BACKWARD))
@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_matches_autograd(every_emulator, dtype, case):
    """Three pairs share their products."""
    test_branch_backward.assert_matches(every_emulator, case, test_branch_backward.REQUESTS["three pairs"], dtype)


@pytest.mark.parametrize("case", **named(BY_TAPS[:2]))
def test_items_that_have_stopped_leave_the_others_alone(emulator, case):
    """The sums of an item that has stopped are not complete: neither its rows nor its state may be touched."""
    case = case._replace(terms=8, batch=7)
    problem = make(case)
    tail = problem.x.new_tensor(tail_factors(LIPSCHITZ, case.terms))
    tolerance = between_items(problem, tail, False, k=3)
    exact = series(problem, tail, tolerance)
    got = chain(emulator, problem, tail, tolerance, card="h100")
    assert routes(emulator)[0] > 0
    assert len(set(exact[4].flatten().tolist())) > 1
    assert torch.equal(got[4], exact[4])
    assert_within_rounding(case, got[:4], exact[:4], exact[:4])


@pytest.mark.parametrize("case", **named(BY_TAPS[:2]))
@pytest.mark.parametrize("accelerated", [False, True])
def test_inverse_matches_reference(emulator, accelerated, case):
    problem = make(case)
    lipschitz = {"lipschitz": LIPSCHITZ} if accelerated else {}
    got = test_layered_inverse.inverse(emulator, problem, 1e-5, 60, card="h100", **lipschitz)
    assert routes(emulator)[0] > 0
    exact = test_layered_inverse.expected(problem, 1e-5, 60, accelerated)
    assert torch.equal(got[1], exact[1])
    assert_within_rounding(case, got[::2], exact[::2], exact[::2])


def test_nothing_but_the_pieces_of_a_row_is_read(checker):
    """Each row of the result reads the pieces of the rows around it that lie in its image, in whole sectors."""
    case = Case("sectors", (8, 6, 7), (64,), (1, 3), batch=3)
    problem = make(case, torch.float32)
    with checker.counting() as counters:
        test_layered_branch.branch(checker, problem)
    assert routes(checker) == (1, 1)
    height, width = case.event[1:]
    neighbours = sum(
        1 for y in range(height) for x in range(width) for i in (-1, 0, 1) for j in (-1, 0, 1)
        if 0 <= y + i < height and 0 <= x + j < width
    )  # fmt: skip
    pieces = counters.total("read", "global", "gather.cuh")
    assert pieces.bytes == case.batch * neighbours * 8 * 4
    assert pieces.sectors * 32 == pieces.bytes
    stored = counters.total("write", "global", "sums.cu")
    assert stored.bytes == case.batch * height * width * 9 * 8 * 4
    assert stored.sectors * 32 == stored.bytes
