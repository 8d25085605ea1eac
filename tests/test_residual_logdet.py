from functools import cache

import pytest
import torch
from comparison import (
    RecordedOps,
    assert_compiles,
    assert_deterministic,
    assert_second_derivatives_agree,
    assert_within_rounding,
)
from problems import CASES, DTYPES, ISAS, LIPSCHITZ, TINY, WIDE, Case, gradients, make, named, run_on, upstream

from iresnet_fast import ops, reference

GRADIENTS = ["neumann", "series"]


def call(package, problem, gradient="neumann", **options):
    return package.residual_logdet(
        problem.x,
        *problem.branch,
        problem.probe,
        problem.coefficients,
        gradient,
        problem.parameters,
        factors=problem.factors,
        **options,
    )


def evaluate(package, case, dtype, gradient="neumann", **options):
    """z, logdet and the gradients of x, weights, biases and parameters under an upstream gradient of both."""
    problem = make(case, dtype).requires_grad()
    outputs = call(package, problem, gradient, **options)
    return [*outputs, *gradients(outputs, problem.leaves)]


@cache
def expected(case, dtype, gradient, tol=None):
    """What the reference gives: the same for every instruction set."""
    return evaluate(reference, case, dtype, gradient, tol=tol, lipschitz=LIPSCHITZ)


@pytest.mark.parametrize("tol", [None, 0.1])
@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_matches_reference(isa, dtype, case, tol):
    run_on(isa)
    case = case if tol is None else case._replace(terms=20)
    for gradient in GRADIENTS:
        assert_within_rounding(
            case,
            evaluate(ops, case, dtype, gradient, tol=tol, lipschitz=LIPSCHITZ),
            expected(case, dtype, gradient, tol),
            expected(case, torch.float64, gradient, tol),
        )


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_information_matches_reference(isa, dtype, case):
    run_on(isa)
    case = case._replace(terms=20)
    got, same, exact = (
        call(package, make(case, type_), tol=0.1, lipschitz=LIPSCHITZ, return_info=True)[2]
        for package, type_ in ((ops, dtype), (reference, dtype), (reference, torch.float64))
    )
    assert got.terms.dtype == torch.int64
    assert torch.equal(got.terms, same.terms)
    assert not (got.terms == 20).any()
    assert case.batch < 100 or got.terms.unique().numel() > 1
    assert_within_rounding(case, *((info.norms, info.tail_bound) for info in (got, same, exact)))


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("case", **named(TINY))
def test_information_does_not_change_the_result(case, gradient):
    problem = make(case).requires_grad()
    plain, told = (call(ops, problem, gradient, return_info=info) for info in (False, True))
    assert torch.equal(plain[0], told[0])
    assert torch.equal(plain[1], told[1])
    assert told[2].tail_bound is None
    assert not told[2].norms.requires_grad
    assert (told[2].terms == case.terms).all()
    assert isinstance(told[2], reference.LogdetInfo)


@pytest.mark.parametrize("used", [("z",), ("logdet",), ("z", "logdet")])
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("case", **named(TINY))
def test_gradients_of_what_is_used(case, gradient, used):
    results = []
    for package in (ops, reference):
        problem = make(case).requires_grad()
        outputs = dict(zip(("z", "logdet"), call(package, problem, gradient), strict=True))
        grads = gradients([outputs[name] for name in used], problem.leaves)
        results.append([torch.zeros_like(t) if g is None else g for g, t in zip(grads, problem.leaves, strict=True)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("case", **named(TINY))
def test_frozen_tensors_get_no_gradient(case, gradient):
    full = make(case).requires_grad()
    all_gradients = gradients(call(ops, full, gradient), full.leaves)
    for index in range(len(full.leaves)):
        problem = make(case)
        leaf = problem.leaves[index].requires_grad_()
        (got,) = gradients(call(ops, problem, gradient), [leaf])
        assert torch.equal(got, all_gradients[index])


@pytest.mark.parametrize("case", **named(TINY))
def test_gradcheck(case):
    problem = make(case).requires_grad()
    assert torch.autograd.gradcheck(lambda *_: call(ops, problem, "series"), problem.leaves)
    # The Neumann gradient is that of <y, J v> with y held constant, not of the value: z is what can be checked.
    assert torch.autograd.gradcheck(lambda *_: call(ops, problem)[0], problem.leaves)


@pytest.mark.parametrize("case", **named(TINY))
def test_opcheck(case):
    problem = make(case, torch.float32)
    probe = problem.probe if problem.probe.dim() > problem.x.dim() else problem.probe[None]
    for tail in (None, torch.ones(case.terms)):
        arguments = {"coefficients": problem.coefficients, "tail": tail, "tolerance": 0.1, "neumann": tail is not None}
        torch.library.opcheck(*problem.raw("residual_logdet", probe=probe, **arguments))
    for transpose in (False, True):
        arguments = problem.raw("jacobian_powers", start=probe[0].contiguous(), count=2, transpose=transpose)
        torch.library.opcheck(*arguments)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("case", **named(TINY))
def test_compiles(case, gradient):
    problem = make(case).requires_grad()
    assert_compiles(lambda: call(ops, problem, gradient), problem.leaves)


@pytest.mark.slow
def test_compiles_with_inductor():
    problem = make(TINY[0], torch.float32).requires_grad()
    assert_compiles(lambda: call(ops, problem, tol=0.1, lipschitz=LIPSCHITZ), problem.leaves, "inductor")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("case", **named(WIDE))
def test_deterministic(case, gradient, dtype):
    assert_deterministic(lambda: evaluate(ops, case, dtype, gradient))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_kernels_are_used(monkeypatch, gradient):
    monkeypatch.setattr(reference, "residual_logdet", None)
    with RecordedOps() as recorded:
        evaluate(ops, TINY[0], torch.float32, gradient)
    powers = [] if gradient == "neumann" else ["jacobian_powers"] * 2 * TINY[0].probes
    assert recorded.names == ["residual_logdet", *powers, "branch_backward"]


def test_inference_mode_and_no_grad():
    problem = make(TINY[0], torch.float32)
    plain = call(ops, problem)
    with torch.inference_mode():
        inferred = call(ops, problem)
    assert all(torch.equal(a, b) for a, b in zip(inferred, plain, strict=True))
    with torch.no_grad(), RecordedOps() as recorded:
        assert not any(t.requires_grad for t in call(ops, problem.requires_grad()))
    assert recorded.names == ["residual_logdet"]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_function_transforms(gradient):
    problem = make(TINY[0])

    def loss(x, weight):
        other = problem._replace(x=x, weights=[weight, *problem.weights[1:]])
        return sum((out * seed).sum() for out, seed in zip(call(ops, other, gradient), seeds, strict=True))

    seeds = upstream(call(ops, problem))
    got = torch.func.grad(loss, argnums=(0, 1))(problem.x, problem.weights[0])
    leaves = [problem.x.requires_grad_(), problem.weights[0].requires_grad_()]
    torch.testing.assert_close(got, torch.autograd.grad(loss(*leaves), leaves))


@pytest.mark.parametrize("tol", [None, 0.3])
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("case", **named(TINY))
def test_second_derivatives_match_reference(case, gradient, tol):
    problem = make(case._replace(terms=8)).requires_grad()
    assert_second_derivatives_agree(
        *(lambda p=p: call(p, problem, gradient, tol=tol, lipschitz=LIPSCHITZ) for p in (ops, reference)),
        problem.leaves,
    )


D = torch.ones(2, 3)
GOOD = {
    "x": D,
    "weights": [torch.ones(4, 3), torch.ones(3, 4)],
    "biases": [None, torch.ones(3)],
    "activations": ["elu", "relu"],
    "probe": D,
    "coefficients": [1.0, 1.0],
}


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"biases": [None]}, ValueError, r"biases must have one entry per weight \(2\), got 1"),
        ({"probe": torch.ones(3, 3)}, ValueError, r"probe must have the shape of x, \(2, 3\), or \[m, \*x.shape\]"),
        ({"probe": torch.ones(0, 2, 3)}, ValueError, "probe must have the shape of x"),
        ({"probe": D.double()}, TypeError, "probe must have the dtype of x, torch.float32, got torch.float64"),
        ({"coefficients": []}, ValueError, r"coefficients must have shape \[n\] or \[B, n\] with n >= 1"),
        ({"coefficients": torch.ones(3, 4)}, ValueError, r"B = 2, got \(3, 4\)"),
        ({"coefficients": torch.ones(4).int()}, TypeError, "coefficients must be floating point, got torch.int32"),
        ({"gradient": "exact"}, ValueError, "gradient must be 'neumann' or 'series', got 'exact'"),
        ({"tol": 0.1}, ValueError, "lipschitz must be given when tol is"),
        ({"tol": 0.0, "lipschitz": 0.5}, ValueError, "tol must be positive, got 0.0"),
        ({"tol": 0.1, "lipschitz": 1.0}, ValueError, r"lipschitz must be in \[0, 1\), got 1.0"),
        ({"lipschitz": -0.1}, ValueError, r"lipschitz must be in \[0, 1\), got -0.1"),
    ],
)
@pytest.mark.parametrize("package", [ops, reference], ids=["ops", "reference"])
def test_errors(package, changes, error, sentence):
    with pytest.raises(error, match=sentence):
        package.residual_logdet(**{**GOOD, **changes})


def test_fullsort_is_served_by_the_reference():
    problem = make(Case("sorted", (4,), (6,), activations=("identity", "fullsort")))
    for got, want in zip(call(ops, problem), call(reference, problem), strict=True):
        assert torch.equal(got, want)
