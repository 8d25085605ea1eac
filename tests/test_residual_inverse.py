import math
from functools import cache

import pytest
import torch
from comparison import (
    RecordedOps,
    assert_compiles,
    assert_deterministic,
    assert_within_rounding,
)
from problems import CASES, DTYPES, ISAS, LIPSCHITZ, TINY, WIDE, Case, gradients, make, named, run_on

from iresnet_fast import ops, reference

# Reachable in the dtype: residuals come down to some eps of |z|.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 3e-9}


def call(package, problem, tol=1e-9, max_iterations=1000, lipschitz=LIPSCHITZ, accelerate=True):
    arguments = (*problem.branch, lipschitz, tol, max_iterations, problem.parameters, accelerate, problem.factors)
    return package.residual_inverse(problem.x, *arguments)


def evaluate(package, case, dtype, tol, max_iterations, accelerate=True):
    """x, iterations, residual and the gradients of z, weights, biases and parameters."""
    problem = make(case, dtype).requires_grad()
    x, iterations, residual = call(package, problem, tol, max_iterations, accelerate=accelerate)
    assert not iterations.requires_grad
    assert not residual.requires_grad
    return x, iterations, residual, gradients([x], problem.leaves)


@cache
def expected(case, dtype, tol, max_iterations, accelerate=True):
    return evaluate(reference, case, dtype, tol, max_iterations, accelerate)


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_matches_reference(isa, dtype, case):
    run_on(isa)
    tol = TOLERANCE[dtype]
    got, same, exact = (
        evaluate(ops, case, dtype, tol, 1000, False),
        expected(case, dtype, tol, 1000, False),
        expected(case, torch.float64, tol, 1000, False),
    )
    assert got[1].dtype == torch.int64
    assert torch.equal(got[1], same[1])
    assert torch.equal(got[1], exact[1])
    assert_within_rounding(case, (got[0], got[2]), (same[0], same[2]), (exact[0], exact[2]))
    assert ((got[2] / (1.0 - LIPSCHITZ)) <= tol).all()


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_accelerated_matches_reference(isa, dtype, case):
    run_on(isa)
    assert check_accelerated(dtype, case) == 0


def check_accelerated(dtype, case):
    """Float64 drops fewer differences of iterates and takes other steps: the oracle is the solution itself.

    Returns by how many evaluations a sample differs from the reference at most.
    """
    tol = TOLERANCE[dtype]
    got, same = evaluate(ops, case, dtype, tol, 1000), expected(case, dtype, tol, 1000)
    solution = expected(case, torch.float64, 1e-13, 1000)[0]
    assert_within_rounding(case, got[:1], same[:1], (solution,))
    problem = make(case)
    x = got[0].detach().double()
    image = x + reference.branch(x, *problem.branch, problem.parameters, factors=problem.factors)
    assert_within_rounding(case, (got[2],), (same[2],), ((problem.x - image).flatten(1).norm(dim=1),))
    assert ((got[2] / (1.0 - LIPSCHITZ)) <= tol).all()
    return max((got[1] - same[1]).abs().tolist(), default=0)


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
def test_takes_at_most_one_evaluation_more_than_the_contraction_guarantees(case, dtype):
    problem, tol = make(case, dtype), TOLERANCE[dtype]
    _, iterations, _ = call(ops, problem, tol)
    first = (
        ops.branch(problem.x, *problem.branch, problem.parameters, factors=problem.factors)
        .double()
        .flatten(1)
        .norm(dim=1)
    )
    guaranteed = (torch.log(tol * (1.0 - LIPSCHITZ) / first) / math.log(LIPSCHITZ)).ceil().clamp(min=0.0)
    assert (iterations <= guaranteed + 1).all()


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_gradients_match_reference(isa, dtype, case):
    """To a tolerance below rounding: then only rounding is left to differ."""
    run_on(isa)
    got, same, exact = (
        evaluate(ops, case, dtype, torch.finfo(dtype).eps / 8, 300),
        expected(case, dtype, torch.finfo(dtype).eps / 8, 300),
        expected(case, torch.float64, torch.finfo(torch.float64).eps / 8, 300),
    )
    assert_within_rounding(case, (got[0], *got[3]), (same[0], *same[3]), (exact[0], *exact[3]))


@pytest.mark.parametrize("case", **named(TINY + WIDE))
def test_certified_error_holds(case):
    """The distance to the solution in float64 is at most residual / (1 - lipschitz), and at most tol."""
    solution = call(reference, make(case), 1e-14)[0]
    for dtype, tol in ((torch.float32, 1e-3), (torch.float64, 1e-2), (torch.float64, 1e-10)):
        x, _, residual = call(ops, make(case, dtype), tol)
        error = (x.double() - solution).flatten(1).norm(dim=1)
        assert (
            error <= residual.double() / (1.0 - LIPSCHITZ) + 8 * torch.finfo(dtype).eps * error.numel() ** 0.5
        ).all()
        assert (error <= tol).all()


@pytest.mark.parametrize("case", **named(TINY))
def test_inverse_of_the_block(case):
    problem = make(case)
    z = problem.x + ops.branch(problem.x, *problem.branch, problem.parameters, factors=problem.factors)
    x, _, _ = call(ops, problem._replace(x=z), 1e-12)
    torch.testing.assert_close(x, problem.x, rtol=0.0, atol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", **named(WIDE))
def test_converged_samples_are_frozen(case, isa, dtype):
    """Bitwise what they are alone, however long the others of the batch go on, and whatever becomes of them."""
    run_on(isa)
    problem = make(case, dtype)
    problem.x[::3] *= 100.0
    problem.x[4] = torch.nan
    x, iterations, residual = call(ops, problem, TOLERANCE[dtype])
    assert iterations.unique().numel() > 2
    assert iterations[4] == 0
    assert residual[4].isnan()
    for i in (0, 1, 2, 3, 5, 6):
        alone = call(ops, problem.of_samples(slice(i, i + 1)), TOLERANCE[dtype])
        assert torch.equal(x[i], alone[0][0])
        assert iterations[i] == alone[1][0]
        assert residual[i] == alone[2][0]


@pytest.mark.parametrize("package", [ops, reference], ids=["ops", "reference"])
def test_a_sample_that_stops_is_finite_or_was_not(package):
    """An infinite z gives a NaN residual at once: it is left as it came, beside samples that go on."""
    problem = make(TINY[0])
    problem.x[1, 0] = torch.inf
    problem.activations[:] = ["identity", "identity"]
    x, iterations, residual = package.residual_inverse(problem.x, *problem.branch, LIPSCHITZ)
    assert iterations[0] > 0
    assert iterations[1] == 0
    assert residual[1].isnan()
    assert torch.equal(x[1], problem.x[1])


@pytest.mark.parametrize("case", **named(TINY))
def test_zero_weights(case):
    problem = make(case)
    for tensor in (*problem.weights, *(b for b in problem.biases if b is not None)):
        tensor.zero_()
    problem.requires_grad()
    x, iterations, residual = call(ops, problem, lipschitz=0.0)
    assert torch.equal(x, problem.x)
    assert not iterations.any()
    assert not residual.any()
    (gradient,) = torch.autograd.grad((x * x).sum(), problem.x)
    assert torch.equal(gradient, 2.0 * problem.x)


@pytest.mark.parametrize("case", **named(TINY))
def test_a_limit_of_iterations(case):
    problem = make(case)
    for limit in (0, 1, 2):
        got, want = (call(package, problem, 1e-12, limit) for package in (ops, reference))
        assert (got[1] == limit).all()
        torch.testing.assert_close(got, want)
    assert torch.equal(call(ops, problem, 1e-12, 0)[0], problem.x)


@pytest.mark.parametrize("case", **named(TINY))
def test_gradcheck(case):
    problem = make(case).requires_grad()
    assert torch.autograd.gradcheck(lambda *_: call(ops, problem, 1e-13)[0], problem.leaves)


@pytest.mark.parametrize("case", **named(TINY))
def test_frozen_tensors_get_no_gradient(case):
    full = make(case).requires_grad()
    all_gradients = gradients(call(ops, full)[:1], full.leaves)
    for index in range(len(full.leaves)):
        problem = make(case)
        leaf = problem.leaves[index].requires_grad_()
        assert torch.equal(gradients(call(ops, problem)[:1], [leaf])[0], all_gradients[index])


def test_a_branch_that_is_no_contraction_is_reported():
    """A gradient of 1 + J with J = 0.99 cannot be had with the series for a constant of 0.1."""
    weight = torch.tensor([[0.99]], requires_grad=True)
    x, *_ = ops.residual_inverse(torch.ones(1, 1), [weight], [None], ["identity"], 0.1)
    with pytest.warns(RuntimeWarning, match="did not reach tol = 1e-05 in .* not a contraction with lipschitz = 0.1"):
        x.sum().backward()


@pytest.mark.parametrize("case", **named(TINY))
def test_opcheck(case):
    problem = make(case, torch.float32)
    torch.library.opcheck(*problem.raw("residual_inverse", residual_limit=1e-3, max_iterations=100))


@pytest.mark.parametrize("case", **named(TINY))
def test_compiles(case):
    problem = make(case).requires_grad()
    assert_compiles(lambda: call(ops, problem)[:1], problem.leaves)


def test_compiles_for_any_constant():
    """Dynamo makes a symbol of a float that changes: no arithmetic of ours may pin it before torch does."""
    problem = make(TINY[0])
    compiled = torch.compile(lambda c: call(ops, problem, lipschitz=c)[0], fullgraph=True, backend="aot_eager")
    for lipschitz in (0.5, 0.6, 0.7, 0.9, 0.0):
        assert torch.equal(compiled(lipschitz), call(ops, problem, lipschitz=lipschitz)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", **named(WIDE))
def test_deterministic(case, dtype):
    def run():
        x, iterations, residual, grads = evaluate(ops, case, dtype, TOLERANCE[dtype], 1000)
        return [x, iterations, residual, *grads]

    assert_deterministic(run)


def test_the_kernels_are_used(monkeypatch):
    monkeypatch.setattr(reference, "residual_inverse", None)
    with RecordedOps() as recorded:
        evaluate(ops, TINY[0], torch.float32, 1e-3, 100)
    assert recorded.names == ["residual_inverse", "residual_logdet", "branch_backward"]


def test_inference_mode_and_no_grad():
    problem = make(TINY[0], torch.float32)
    plain = call(ops, problem, 1e-3)
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(call(ops, problem, 1e-3), plain, strict=True))
    with torch.no_grad():
        assert not call(ops, problem.requires_grad(), 1e-3)[0].requires_grad


def test_function_transforms():
    problem = make(TINY[0])

    def loss(z, weight):
        x, *_ = call(ops, problem._replace(x=z, weights=[weight, *problem.weights[1:]]))
        return (x * x * x).sum()

    got = torch.func.grad(loss, argnums=(0, 1))(problem.x, problem.weights[0])
    leaves = [problem.x.requires_grad_(), problem.weights[0].requires_grad_()]
    torch.testing.assert_close(got, torch.autograd.grad(loss(*leaves), leaves))


@pytest.mark.parametrize("module", [ops, reference], ids=["kernels", "reference"])
def test_second_derivatives(module):
    problem = make(TINY[0])

    def solution(x, weight):
        weights = [weight, *problem.weights[1:]]
        branch = (weights, problem.biases, problem.activations)
        return module.residual_inverse(x, *branch, LIPSCHITZ, 1e-12, 1000, problem.parameters, factors=problem.factors)[
            0
        ]

    leaves = tuple(t.clone().requires_grad_() for t in (problem.x[:1], problem.weights[0]))
    assert torch.autograd.gradgradcheck(solution, leaves, atol=1e-4)


def test_a_first_derivative_has_no_graph_unless_asked_for():
    problem = make(TINY[0]).requires_grad()
    (found,) = torch.autograd.grad((call(ops, problem)[0] ** 2).sum(), problem.x)
    assert not found.requires_grad


GOOD = {
    "z": torch.ones(2, 3),
    "weights": [torch.ones(4, 3), torch.ones(3, 4)],
    "biases": [None, None],
    "activations": ["elu", "relu"],
    "lipschitz": 0.5,
}


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"z": torch.ones(2, 5)}, ValueError, r"z must have shape \[B, 3\] for weights\[0\] of shape"),
        ({"z": torch.ones(2, 3).int()}, TypeError, "z must be a floating point tensor"),
        ({"z": torch.ones(2, 3).double()}, TypeError, r"z must have the dtype of the weights"),
        ({"lipschitz": 1.0}, ValueError, r"lipschitz must be in \[0, 1\), got 1.0"),
        ({"lipschitz": float("nan")}, ValueError, r"lipschitz must be in \[0, 1\), got nan"),
        ({"tol": 0.0}, ValueError, "tol must be positive, got 0.0"),
        ({"max_iterations": -1}, ValueError, "max_iterations must be at least 0, got -1"),
        ({"max_iterations": 1.5}, TypeError, "max_iterations must be an integer, got 1.5"),
    ],
)
@pytest.mark.parametrize("package", [ops, reference], ids=["ops", "reference"])
def test_errors(package, changes, error, sentence):
    with pytest.raises(error, match=sentence):
        package.residual_inverse(**{**GOOD, **changes})


def test_fullsort_is_served_by_the_reference():
    problem = make(Case("sorted", (4,), (6,), activations=("identity", "fullsort")))
    for got, want in zip(call(ops, problem), call(reference, problem), strict=True):
        assert torch.equal(got, want)
