"""Iterations and terms that are enqueued in pieces until nothing moves: how many, and that no result depends on it.

A GPU does not tell how many, so results are compared before that is asked.
"""

import warnings

import pytest
import torch
from problems import DTYPES, LIPSCHITZ, Case, make
from undone import make_undone

from iresnet_fast.ops.residual_inverse import _solve_transposed
from iresnet_fast.reference.fixed_point import enough_terms
from iresnet_fast.reference.series import tail_factors

from . import operands
from .branches import raw_branch, run
from .emulator import Launch

PIECE = 16
CASE = Case("in pieces", (3,), (3,), activations=("identity", "identity"), batch=5)


def make_linear(dtype, slope=0.9, batch=5):
    """g(x) = slope x + constant: every iteration and every term is `slope` times the one before."""
    problem, eye = make(CASE._replace(batch=batch), dtype), torch.eye(3, dtype=dtype)
    return problem._replace(weights=[slope * eye, eye.clone()])


def invert(emulator, problem, limit, max_iterations, captured_iterations=0, lipschitz=0.0):
    """Return x, iterations and residual."""
    arguments = limit, max_iterations, captured_iterations, lipschitz
    return run(emulator, operands.residual_inverse, problem, *arguments, variant="layered_residual_inverse")


def evaluations(emulator):
    """Return how often the last inverse evaluated the branch."""
    return sum(launch.kernel.startswith("advance_kernel") for launch in emulator.launches)


def terms_enqueued(emulator):
    """Return how many terms the last series enqueued."""
    return sum(launch.kernel.startswith("finish_terms_kernel") for launch in emulator.launches)


def in_a_graph(emulator, *arguments):
    with emulator.capturing():
        results = invert(emulator, *arguments)
    assert all(isinstance(call, Launch) or call.startswith("cudaFuncSetAttribute") for call in emulator.calls)
    return results


def assert_same(results, others):
    for a, b in zip(results, others, strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
        assert torch.equal(a.isnan(), b.isnan())


def assert_inverse(problem, x, residual):
    """The residual is that of x."""
    g = x
    for weight, bias in zip(problem.weights, problem.biases, strict=True):
        g = torch.nn.functional.linear(g, weight, bias)
    tolerance = 64 * torch.finfo(x.dtype).eps * problem.x.norm(dim=1).max().item()
    torch.testing.assert_close((problem.x - x - g).norm(dim=1), residual, rtol=1e-3, atol=tolerance)


def expected_steps(most, last_stop):
    """One piece is under way behind the piece whose count the host waits for; two are never waited for."""
    return min(most, max(2 * PIECE, PIECE * (last_stop // PIECE + 2)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("max_iterations", "wanted"), [*((n, 1000) for n in (0, 15, 16, 31, 32, 33, 48)), *((1000, n) for n in (5, 20, 40))]
)
def test_an_inverse_is_enqueued_until_all_samples_have_stopped(emulator, max_iterations, wanted, dtype):
    problem = make_linear(dtype)
    limit = 0.9**wanted * problem.x.norm(dim=1).max().item()
    results = invert(emulator, problem, limit, max_iterations)
    x, stops, residual = results
    assert stops.unique().numel() > 1 or stops.eq(max_iterations).all()
    assert torch.all((residual <= limit) | (stops == max_iterations))
    assert_inverse(problem, x, residual)
    assert evaluations(emulator) == expected_steps(max_iterations + 1, stops.max().item())
    every = in_a_graph(emulator, problem, limit, max_iterations, max_iterations)
    assert evaluations(emulator) == max_iterations + 1
    assert_same(results, every)


def test_the_default_call_launches_few_kernels(emulator):
    """At some 20 iterations: two pieces and the one under way behind them, not 1000 iterations."""
    problem = make_linear(torch.float32)
    results = invert(emulator, problem, 0.9**20 * problem.x.norm(dim=1).min().item(), 1000)
    assert PIECE < results[1].max() < 2 * PIECE
    per_evaluation = 2 + len(problem.weights)  # one for each product, to advance and to decide
    around = 1 + 2  # packed weights, and from and to torch's layout
    assert len(emulator.launches) == 3 * PIECE * per_evaluation + around


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_accelerated_inverse_is_the_same_in_a_graph(emulator, dtype):
    """A launch more an evaluation; of 100 iterations recorded all but the first few find that nothing moves."""
    problem = make_undone()._replace(x=make_undone().x.to(dtype))
    problem = problem._replace(
        **{name: [t.to(dtype) for t in getattr(problem, name)] for name in ("weights", "biases")}
    )
    limit = 1e-4 if dtype == torch.float32 else 1e-8
    results = invert(emulator, problem, limit, 100, lipschitz=LIPSCHITZ)
    launches = emulator.launches
    assert sum(launch.kernel.startswith("accelerate_kernel") for launch in launches) == evaluations(emulator)
    assert (results[2] <= limit).all()
    assert_same(results, in_a_graph(emulator, problem, limit, 100, 100, LIPSCHITZ))
    assert evaluations(emulator) == 101


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_inverse_of_a_branch_that_is_no_contraction_ends(emulator, dtype):
    """Each sample when ten evaluations brought nothing better, and at once where it is no number."""
    problem = make_linear(dtype, slope=2.0)
    problem.x[3, 1] = torch.nan
    results = invert(emulator, problem, 1e-3, 1000)
    assert results[1].tolist() == [10, 10, 10, 0, 10]
    assert evaluations(emulator) == 2 * PIECE
    assert_same(results, in_a_graph(emulator, problem, 1e-3, 1000, 20))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_inverse_in_a_graph_is_a_fixed_count(emulator, dtype):
    """The smaller of two counts; what is left unconverged is seen in the residual."""
    problem = make_linear(dtype)
    for max_iterations, captured_iterations in ((50, 7), (7, 50)):
        _, iterations, residual = in_a_graph(emulator, problem, 1e-6, max_iterations, captured_iterations)
        assert evaluations(emulator) == 8
        assert iterations.eq(7).all()
        assert (residual > 1e-6).all()


def test_one_inverse_leaves_nothing_to_the_next(emulator):
    """The count of the last piece of a call arrives when the next one may already run."""
    problem = make_linear(torch.float64)
    first, later = (invert(emulator, problem, limit, 1000) for limit in (1e-1, 1e-6))
    again = [invert(emulator, problem, limit, 1000) for limit in (1e-1, 1e-6)]
    assert first[1].max() + 2 * PIECE < later[1].max()
    assert_same([*first, *later], [*again[0], *again[1]])


def test_a_call_uses_again_what_the_last_one_waited_with(emulator):
    """To lock pages takes longer than most calls."""
    for _ in range(2):
        invert(emulator, make_linear(torch.float32), 1e-3, 1000)
    assert "cudaEventSynchronize" in emulator.calls
    assert "cudaHostAlloc" not in emulator.calls


def series(emulator, problem, terms, tolerance):
    """Return the results of a series with Neumann vectors and a stop."""
    x, tail = problem.x, problem.x.new_tensor(tail_factors(0.9, terms))
    return operands.residual_logdet(
        emulator, x, *raw_branch(problem), problem.probe[None], x.new_ones(terms), tail, tolerance, True, True,
        variant="layered_residual_logdet", card="single",
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("terms", "wanted"), [(32, 1000), (33, 1000), (200, 1000), (200, 5), (200, 20), (200, 40)])
def test_a_series_is_enqueued_until_all_items_have_stopped(emulator, terms, wanted, dtype):
    problem = make_linear(dtype)
    problem.weights[1][1, 1] = 0.5  # the tail is that of 0.9, the norms depend on the probe
    results = series(emulator, problem, terms, 0.9**wanted)
    used = results[4]
    assert used.unique().numel() > 1 or used.eq(terms).all()
    assert used.lt(terms).all() == (wanted < terms)
    assert_same(results, series(emulator, problem, terms, 0.9**wanted))
    assert terms_enqueued(emulator) == expected_steps(terms, used.max().item() - 1)
    waits = [call for call in emulator.calls if call == "cudaEventSynchronize"]
    assert bool(waits) == (terms > 2 * PIECE)
    with emulator.capturing():
        every = series(emulator, problem, terms, 0.9**wanted)
    assert terms_enqueued(emulator) == terms
    assert_same(results, every)


@pytest.mark.parametrize("lipschitz", [0.9, 0.97])
def test_the_implicit_gradient_enqueues_few_terms(emulated_ops, lipschitz):
    """For a constant of 0.97 there are 495 terms, and a branch that contracts by a half needs some 20 of them."""
    emulator = emulated_ops("layered")
    problem = make_linear(torch.float64, slope=0.5)
    right = problem.x.cos()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        u = _solve_transposed(raw_branch(problem), problem.x, right, lipschitz, 1e-5)
    assert (u - right / 1.5).norm() <= 1e-5 * right.norm()
    assert terms_enqueued(emulator) == 3 * PIECE < enough_terms(lipschitz, 1e-5)
