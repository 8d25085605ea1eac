"""Resident power chains: every family of tiles, every place of weights and derivatives, ragged shapes, stops."""

import pytest
import torch

from .chain_cases import Problem, assert_series, run
from .emulator import project_emulator
from .resident import BF16, FULL, TF32, Choice, Shape, pack_rows, pack_weight

TOY = (2, 128, 128, 128, 2)
IMAGE = (4, 32, 32, 4)
STREAMED = Choice(weights_shared=0, derivatives_shared=0)
DENSE = [
    ("one number", Shape((1, 1), 2), {"terms": 5}, Choice()),
    ("one stage", Shape((43, 43), 10), {"terms": 1}, Choice()),
    ("no terms", Shape((2, 8, 2), 3), {"terms": 0}, Choice()),
    ("toy", Shape(TOY, 5), {"terms": 3}, Choice()),
    ("toy, 16 items", Shape(TOY, 17), {}, Choice(items=16, derivatives_shared=0)),
    ("toy, 32 items on 4 warps", Shape(TOY, 40), {}, Choice(items=32, threads=128)),
    ("toy, 32 items on chip", Shape(TOY, 40), {}, Choice(32, 128, 1, 1)),
    ("toy, 64 items", Shape(TOY, 70), {"terms": 1}, Choice(items=64)),
    ("eight stages", Shape((3, 8, 12, 9, 16, 5, 8, 4, 3), 12), {"identity": (0, 3, 7)}, STREAMED),
    ("odd widths", Shape((2, 130, 65, 2), 7), {"terms": 3}, Choice(items=8, weights_shared=0)),
    ("streamed in ragged chunks", Shape((3, 101, 3), 31), {"terms": 3}, Choice(items=16, weights_shared=0)),
    ("wide", Shape((6, 256, 255, 6), 3), {}, Choice(items=4)),
    ("wide event", Shape((64, 256, 64), 32), {}, Choice(items=16, weights_shared=0)),
    ("wide, some weights resident", Shape((5, 256, 256, 5), 33), {"terms": 1}, Choice(items=32)),
    ("probes and own coefficients", Shape((5, 33, 7, 5), 9), {"probes": 3, "per_sample": True}, Choice(items=8)),
    *(
        (f"ragged, {items} items, weights {w}, D {d}", Shape((5, 33, 7, 5), 33), {"terms": 4}, Choice(items, 0, w, d))
        for items in (4, 8, 16, 32)
        for w, d in ((0, 1), (1, 0))
    ),
]
IMAGES = [
    ("mnist", Shape(IMAGE, 2, (3, 1, 3), (14, 14)), {"terms": 3}, Choice()),
    ("mnist, nothing resident", Shape(IMAGE, 1, (3, 1, 3), (14, 14)), {}, STREAMED),
    ("mnist, rows of 8", Shape(IMAGE, 1, (3, 1, 3), (14, 14)), {}, Choice(family=5, weights_shared=0)),
    ("two images", Shape((16, 24, 24, 16), 3, (3, 1, 3), (7, 7)), {"probes": 2}, Choice(items=2)),
    ("four images on 4 warps", Shape((4, 9, 4), 6, (3, 3), (5, 5)), {}, Choice(items=4, threads=128)),
    ("sixteen pixels", Shape((12, 64, 12), 9, (3, 3), (4, 4)), {"terms": 1}, Choice(items=8)),
    ("one pixel", Shape((2, 3, 2), 2, (3, 1), (1, 1)), {"terms": 3}, Choice()),
    ("one line", Shape((1, 9, 1), 2, (3, 3), (1, 35)), {}, Choice()),
    ("odd kernels", Shape((3, 5, 3), 2, (5, 3), (5, 9)), {"terms": 3, "identity": (1,)}, Choice()),
    ("large kernels", Shape((3, 4, 3), 1, (7, 5), (8, 8)), {}, Choice(derivatives_shared=0)),
    ("tall", Shape((5, 11, 5), 2, (3, 5), (13, 6)), {}, STREAMED),
    ("256 pixels", Shape((3, 9, 9, 3), 1, (3, 1, 3), (16, 16)), {}, Choice()),
    ("without padding", Shape((7, 20, 7), 3, (1, 1), (5, 3)), {"terms": 3}, Choice()),
]


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[c[0] for c in cases])


def check(emulator, case, dtype=torch.float32, precision=FULL, transpose=True, card="h100", **options):
    """Compare with float64; return the plan in words."""
    _, shape, kwargs, choice = case
    problem = Problem(shape, **kwargs).rounded(dtype)
    got, text = run(emulator, problem, dtype, transpose, choice=choice, card=card, precision=precision, **options)
    names = ("tail", "tolerance", "relative")
    options = {n: options[n] for n in names if n in options}
    oracles = (problem.solve(d, transpose, **options) for d in (dtype, torch.float64))
    assert_series(problem, got, *oracles, precision)
    return text


@named([*DENSE, *IMAGES])
def test_transposed(emulator, case):
    check(emulator, case)


@named([DENSE[3], DENSE[8], DENSE[14], IMAGES[1], IMAGES[8]])
def test_tangent(emulator, case):
    check(emulator, case, transpose=False)


@named([DENSE[3], DENSE[9], DENSE[14], IMAGES[0], IMAGES[3], IMAGES[10]])
@pytest.mark.parametrize("transpose", [True, False])
def test_float64(emulator, case, transpose):
    name, shape, kwargs, choice = case
    choice = Choice(0, choice.threads, choice.weights_shared, choice.derivatives_shared)
    check(emulator, (name, shape, kwargs, choice), torch.float64, transpose=transpose)


@named([DENSE[3], DENSE[11], DENSE[14], IMAGES[0], IMAGES[3], IMAGES[10]])
@pytest.mark.parametrize("precision", [TF32, BF16])
def test_tensor_cores(emulator, case, precision):
    name, shape, kwargs, choice = case
    choice = Choice(0, choice.threads, choice.weights_shared, choice.derivatives_shared)
    text = check(emulator, (name, shape, kwargs, choice), precision=precision)
    assert "family tensor" in text


@named([DENSE[4], DENSE[14], IMAGES[3]])
def test_a_block_takes_many_groups(emulator, case):
    name, shape, kwargs, choice = case
    text = check(emulator, (name, shape._replace(batch=3 * shape.batch), kwargs, choice), card="single")
    assert "in 1.0 rounds" not in text


@named([DENSE[3], DENSE[14], IMAGES[3]])
@pytest.mark.parametrize("relative", [True, False])
def test_items_stop_by_themselves(emulator, case, relative):
    name, shape, kwargs, choice = case
    kwargs = kwargs | {"terms": 8}
    tail = 0.5 ** torch.arange(8, dtype=torch.float64)
    for tolerance in (1e-2, 1e3):
        options = {"tail": tail, "tolerance": tolerance, "relative": relative, "powers": False}
        check(emulator, (name, shape, kwargs, choice), **options)


def test_a_smaller_plan_does_not_lower_the_limit_of_shared_memory():
    """The emulator takes any two calls for interleaved: a launch may use no more than each of them has asked for."""
    emulator, problem = project_emulator("fast"), Problem(Shape(TOY, 5), terms=1).rounded(torch.float32)
    launches = []
    for on_chip in (0, 1):
        run(emulator, problem, torch.float32, choice=Choice(4, 0, on_chip, on_chip))
        launches += emulator.launches
    small, large = launches
    assert small.kernel == large.kernel
    assert small.shared < large.shared


@pytest.mark.parametrize("tail", [None, torch.ones(3)], ids=["all terms", "a stop that none meets"])
def test_nan_stays_in_its_sample(emulator, tail):
    problem = Problem(Shape((4, 9, 4), 6, (3, 3), (5, 5)), terms=3).rounded(torch.float32)
    want = problem.solve(torch.float32)
    problem.derivatives[1][2, 3, 1, 1] = float("nan")
    (value, neumann, norms, terms, _), _ = run(
        emulator, problem, torch.float32, tail=tail, tolerance=1e-30, choice=Choice(items=4)
    )
    others = [0, 1, 3, 4, 5]
    assert value[:, 2].isnan().all()
    assert norms[:, 2].isnan().all()
    assert neumann[:, 2].isnan().any()
    torch.testing.assert_close(value[:, others], want.value[:, others], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(neumann[:, others], want.neumann[:, others], rtol=1e-4, atol=1e-4)
    assert (terms == 3).all()


@pytest.mark.parametrize(("card", "times"), [("h100", 1), ("single", 5)])  # one group of items a block, or more
@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("case", [DENSE[14], IMAGES[8]], ids=lambda c: c[0])
def test_unit_probes_give_rows_of_the_jacobian(emulator, case, transpose, card, times):
    shape = case[1]._replace(batch=times * case[1].batch)
    problem = Problem(shape, probes=4, terms=1, unit_probes=True, first_unit=1).rounded(torch.float32)
    got, text = run(emulator, problem, torch.float32, transpose, card=card, sums=False, neumann=False)
    want = problem.solve(torch.float64, transpose).powers
    torch.testing.assert_close(got.powers.double(), want, rtol=1e-5, atol=1e-6)
    assert ("in 1.0 rounds" in text) == (card == "h100")


@named([DENSE[4], IMAGES[3]])
def test_the_same_bits_in_any_order(checker, case):
    problem = Problem(case[1], **case[2]).rounded(torch.float32)
    results = []
    for order, seed in (("forward", 0), ("random", 7)):
        with checker.schedule(order, seed):
            results.append(run(checker, problem, torch.float32, choice=case[3])[0])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def traffic(checker, case, terms, **options):
    problem = Problem(case[1], **(case[2] | {"terms": terms})).rounded(torch.float32)
    with checker.counting() as counters:
        run(checker, problem, torch.float32, choice=case[3], powers=False, **options)
    return counters, problem


@named([DENSE[3], DENSE[4], DENSE[5], DENSE[9], *IMAGES[:5], IMAGES[8]])
def test_main_loops_are_free_of_bank_conflicts(checker, case):
    counters, _ = traffic(checker, case, 1)
    loops = counters.total("read", "shared", "tile.cuh")
    assert loops.requests > 0
    # Lanes beyond the last column read the first: the phases they share with others may take a second pass.
    assert loops.wavefronts <= 4.05 * loops.requests


@named([DENSE[3], DENSE[6], IMAGES[0]])
def test_on_chip_every_byte_is_read_once(checker, case):
    """Weights once a block, derivatives and probe once; a further term reads nothing but its coefficient."""
    (one, problem), (two, _) = traffic(checker, case, 1), traffic(checker, case, 2)
    read = one.total("read", "global")
    blocks = -(-case[1].batch // {"toy": 4, "toy, 32 items on chip": 32, "mnist": 1}[case[0]])
    weights = sum(4 * pack_weight(w, True, FULL).numel() for w in problem.weights)
    rows = sum(4 * pack_rows(d, FULL).numel() for d in problem.derivatives)
    least = blocks * weights + rows + 4 * problem.probe.numel()
    assert read.bytes <= 1.15 * least
    assert two.total("read", "global").bytes - read.bytes <= 0.05 * least


@named([DENSE[3], IMAGES[0], IMAGES[1]])
def test_contiguous_operands_are_read_in_whole_sectors(checker, case):
    counters, _ = traffic(checker, case, 1)
    for line in ("device.cuh", "resident/product.cuh"):  # asynchronous copies, derivatives in the epilogue
        part = counters.total("read", "global", line)
        assert 32 * part.sectors <= 1.1 * part.bytes
