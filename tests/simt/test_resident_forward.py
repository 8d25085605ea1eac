"""Resident forward walks and inverses: value, derivatives, the per-sample stop, against the reference."""

import pytest
import torch
from problems import KERNEL_ACTIVATIONS
from undone import TOLERANCE as UNDONE
from undone import expected as undone_by_reference
from undone import make_undone

from .emulator import project_emulator
from .forward_cases import (
    Network,
    assert_close,
    forward_oracle,
    inverse_oracle,
    of_samples,
    random_network,
    run_forward,
    run_inverse,
)
from .resident import BF16, FULL, TF32, Choice, Shape

IMAGE = (4, 32, 32, 4)
CASES = [
    ("one number", Shape((1, 1), 2), Choice()),
    ("toy", Shape((2, 128, 128, 128, 2), 5), Choice()),
    ("toy, 32 items", Shape((2, 128, 128, 2), 33), Choice(items=32, threads=128)),
    ("ragged, streamed", Shape((5, 33, 7, 5), 9), Choice(items=8, weights_shared=0)),
    ("wide", Shape((3, 255, 130, 3), 17), Choice(items=16)),
    ("seven stages", Shape((3, 8, 12, 9, 16, 5, 8, 3), 12), Choice(weights_shared=0)),
    ("mnist", Shape(IMAGE, 2, (3, 1, 3), (14, 14)), Choice()),
    ("mnist, streamed", Shape(IMAGE, 1, (3, 1, 3), (14, 14)), Choice(weights_shared=0)),
    ("two images", Shape((5, 24, 24, 5), 3, (3, 1, 3), (7, 7)), Choice(items=2)),
    ("odd kernels", Shape((3, 5, 3), 2, (5, 3), (5, 9)), Choice()),
    ("one pixel", Shape((2, 3, 2), 2, (3, 1), (1, 1)), Choice()),
    ("one line", Shape((1, 9, 1), 2, (3, 3), (1, 35)), Choice()),
]


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[c[0] for c in cases])


def check(emulator, case, dtype=torch.float32, precision=FULL, activations=None, card="h100", own=False):
    _, shape, choice = case
    network = random_network(shape, activations, dtype)
    network = of_samples(network, dtype) if own else network
    got, text = run_forward(emulator, network, dtype, choice=choice, card=card, precision=precision)
    assert_close(got, forward_oracle(network, dtype, precision), forward_oracle(network, torch.float64, precision),
                 len(network.weights), precision)  # fmt: skip
    return text


@named(CASES)
def test_value_and_derivatives(emulator, case):
    check(emulator, case)


@named([CASES[1], CASES[3], CASES[6], CASES[9]])
def test_float64(emulator, case):
    name, shape, choice = case
    check(emulator, (name, shape, Choice(weights_shared=choice.weights_shared)), torch.float64)


@named([CASES[1], CASES[6], CASES[9]])
@pytest.mark.parametrize("precision", [TF32, BF16])
def test_tensor_cores(emulator, case, precision):
    assert "family tensor" in check(emulator, (case[0], case[1], Choice()), precision=precision)


@named([CASES[3], CASES[8]])
def test_a_block_takes_many_groups(emulator, case):
    assert "in 1.0 rounds" not in check(emulator, (case[0], case[1]._replace(batch=25), case[2]), card="single")


def test_a_smaller_plan_does_not_lower_the_limit_of_shared_memory():
    """As for chains."""
    emulator, network = project_emulator("fast"), random_network(CASES[1][1], None, torch.float32)
    launches = []
    for on_chip in (0, 1):
        run_forward(emulator, network, torch.float32, choice=Choice(items=4, weights_shared=on_chip))
        launches += emulator.launches
    small, large = launches
    assert small.kernel == large.kernel
    assert small.shared < large.shared


@pytest.mark.parametrize("activation", [*KERNEL_ACTIVATIONS, "leaky_relu(0.25)", "sin(3)"])
def test_activations(emulator, activation):
    check(emulator, ("", Shape((5, 6, 5), 9), Choice(items=8)), activations=(activation, activation))


@named([CASES[0], CASES[2], CASES[3], CASES[8], CASES[9], CASES[10]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_biases_and_factors_of_samples(emulator, case, dtype):
    name, shape, choice = case
    choice = choice if dtype == torch.float32 else Choice(weights_shared=choice.weights_shared)
    check(emulator, (name, shape, choice), dtype, own=True)
    identities = ("identity",) * (len(shape.channels) - 1)
    check(emulator, (name, shape, choice), dtype, activations=identities, own=True)


@named([CASES[6], CASES[9]])
@pytest.mark.parametrize("precision", [TF32, BF16])
def test_biases_and_factors_of_samples_on_tensor_cores(emulator, case, precision):
    assert "family tensor" in check(emulator, (case[0], case[1], Choice()), precision=precision, own=True)


def test_samples_of_later_groups_have_their_own(emulator):
    name, shape, choice = CASES[8]
    assert "in 1.0 rounds" not in check(emulator, (name, shape._replace(batch=7), choice), card="single", own=True)


def test_more_outputs_than_inputs(emulator):
    network = random_network(Shape((3, 9, 7), 6))
    got, _ = run_forward(emulator, network, torch.float32, residual=False, derivatives=False)
    want = forward_oracle(network, torch.float64)
    torch.testing.assert_close(got[0].double(), want[0], rtol=1e-5, atol=1e-6)


# Kernels and reference may stop one evaluation apart where a residual lies within rounding of the limit: no case does.
INVERSES = [
    ("dense", Shape((2, 64, 64, 2), 5), Choice(), {}),
    ("streamed", Shape((5, 33, 7, 5), 9), Choice(items=8, weights_shared=0), {}),
    ("images", Shape((4, 16, 16, 4), 3, (3, 1, 3), (7, 7)), Choice(items=2), {}),
    ("mnist", Shape(IMAGE, 2, (3, 1, 3), (14, 14)), Choice(), {}),
    ("no step", Shape((2, 16, 2), 5), Choice(), {"max_iterations": 0}),
    ("three steps", Shape((2, 16, 2), 5), Choice(), {"max_iterations": 3}),
    ("no contraction", Shape((2, 16, 2), 5), Choice(), {"scale": 1.6, "linear": True}),
]


@named(INVERSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_inverse(emulator, case, dtype):
    _, shape, choice, options = case
    scale, count = options.get("scale", 0.9), options.get("max_iterations", 100)
    activations = ("identity",) * len(shape.kernels or shape.channels[1:]) if options.get("linear") else None
    if dtype == torch.float64:
        choice = Choice(weights_shared=choice.weights_shared)
    network = random_network(shape, activations, dtype, scale=scale)
    tol = 1e-4
    (x, iterations, residual), _ = run_inverse(emulator, network, dtype, tol * 0.3, count, choice)
    same, want = (inverse_oracle(network, d, 0.7, tol, count) for d in (dtype, torch.float64))
    assert torch.equal(iterations, want[1])
    assert_close((x, residual), same[::2], want[::2], len(network.weights))


@named([INVERSES[1], INVERSES[2]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("accelerate", [False, True])
def test_inverse_with_biases_and_factors_of_samples(emulator, case, dtype, accelerate):
    _, shape, choice, _ = case
    if dtype == torch.float64:
        choice = Choice(weights_shared=choice.weights_shared)
    network = of_samples(random_network(shape, None, dtype, scale=0.9), dtype)
    lipschitz = 0.7 if accelerate else 0.0
    (x, iterations, residual), _ = run_inverse(emulator, network, dtype, 3e-5, 100, choice, lipschitz=lipschitz)
    same = inverse_oracle(network, dtype, 0.7, 1e-4, 100, accelerate)
    want = inverse_oracle(network, torch.float64, 0.7, 1e-13 if accelerate else 1e-4, 1000, accelerate)
    assert torch.equal(iterations, same[1])
    assert_close(x, same[0], want[0], len(network.weights))
    assert (residual <= 3e-5).all()


@named(INVERSES[:-1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_accelerated_inverse(emulator, case, dtype):
    """Float64 takes other steps than float32: the oracle of x is the solution."""
    _, shape, choice, options = case
    count = options.get("max_iterations", 100)
    if dtype == torch.float64:
        choice = Choice(weights_shared=choice.weights_shared)
    network = random_network(shape, None, dtype, scale=0.9)
    tol = 1e-4
    (x, iterations, residual), _ = run_inverse(emulator, network, dtype, tol * 0.3, count, choice, lipschitz=0.7)
    same = inverse_oracle(network, dtype, 0.7, tol, count, True)
    want = inverse_oracle(network, torch.float64, 0.7, 1e-13 if count == 100 else tol, count, True)
    assert torch.equal(iterations, same[1])
    assert_close(x, same[0], want[0], len(network.weights))
    assert ((residual <= tol * 0.3) | (iterations == count)).all()


def test_steps_of_an_inverse_are_undone_as_in_the_reference(emulator, monkeypatch):
    problem = make_undone()
    network = Network(Shape((3, 4, 3), 64), problem.activations, problem.weights, problem.biases, [None] * 2, problem.x)
    (x, iterations, residual), _ = run_inverse(emulator, network, torch.float64, UNDONE * 0.3, 100, lipschitz=0.7)
    want = undone_by_reference(problem, monkeypatch)
    assert torch.equal(iterations, want[1])
    torch.testing.assert_close(x, want[0], rtol=0.0, atol=1e-10)
    torch.testing.assert_close(residual, want[2], rtol=1e-2, atol=1e-14)


def test_an_accelerated_item_is_the_same_at_any_place_of_the_batch(checker):
    """Its history is its own, also where a block takes many groups."""
    network = random_network(Shape((4, 9, 4), 33), scale=1.2)
    arguments = (torch.float32, 1e-5, 50, Choice(items=4))
    results = run_inverse(checker, network, *arguments, card="single", lipschitz=0.8)[0]
    assert results[1].unique().numel() > 1
    moved = network._replace(x=network.x.roll(5, 0))
    for a, b in zip(results, run_inverse(checker, moved, *arguments, card="single", lipschitz=0.8)[0], strict=True):
        assert torch.equal(a.roll(5, 0), b)


def test_inverse_rests_at_the_floor_of_rounding(emulator):
    network = random_network(Shape((2, 16, 2), 9), scale=1.5)
    (x, iterations, residual), _ = run_inverse(emulator, network, torch.float32, 0.0, 1000)
    want = inverse_oracle(network, torch.float64, 0.7, 1e-30, 1000)
    assert (iterations < 200).all()
    assert (residual < 1e-5).all()
    torch.testing.assert_close(x.double(), want[0], rtol=1e-5, atol=1e-5)


def test_nan_stays_in_its_sample(emulator):
    network = random_network(Shape((4, 9, 4), 6, (3, 3), (5, 5)))
    clean = run_inverse(emulator, network, torch.float32, 1e-5, 50, Choice(items=4))[0]
    network.x[2, 0, 0, 0] = float("nan")
    x, iterations, residual = run_inverse(emulator, network, torch.float32, 1e-5, 50, Choice(items=4))[0]
    others = [0, 1, 3, 4, 5]
    assert iterations[2] == 0
    assert residual[2].isnan()
    for a, b in zip((x, iterations, residual), clean, strict=True):
        assert torch.equal(a[others], b[others])


@named([CASES[1], CASES[6], CASES[8]])
def test_main_loops_are_free_of_bank_conflicts(checker, case):
    network = random_network(case[1])
    with checker.counting() as counters:
        run_forward(checker, network, torch.float32, choice=case[2])
    loops = counters.total("read", "shared", "tile.cuh")
    assert loops.requests > 0
    assert loops.wavefronts <= 4.05 * loops.requests


@named([CASES[1], CASES[6]])
def test_derivatives_are_written_in_whole_sectors(checker, case):
    network = random_network(case[1])
    with checker.counting() as counters:
        (_, _, rows), _ = run_forward(checker, network, torch.float32, choice=case[2], residual=False)
    written = counters.total("write", "global")
    least = sum(4 * d.numel() for d in rows if d is not None) + 4 * network.x.numel()
    assert written.bytes == least
    assert 32 * written.sectors <= 1.1 * least
