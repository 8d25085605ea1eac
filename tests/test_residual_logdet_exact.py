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
from problems import CASES, DTYPES, ISAS, TINY, WIDE, Case, gradients, make, named, run_on, upstream

from iresnet_fast import ops, reference


def call(package, problem):
    return package.residual_logdet_exact(problem.x, *problem.branch, problem.parameters, factors=problem.factors)


def evaluate(package, case, dtype):
    """z, logdet and the gradients of x, weights, biases and parameters under an upstream gradient of both."""
    problem = make(case, dtype).requires_grad()
    outputs = call(package, problem)
    return [*outputs, *gradients(outputs, problem.leaves)]


@cache
def expected(case, dtype):
    """What the reference gives: the same for every instruction set."""
    return evaluate(reference, case, dtype)


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_matches_reference(isa, dtype, case):
    run_on(isa)
    assert_within_rounding(case, evaluate(ops, case, dtype), expected(case, dtype), expected(case, torch.float64))


@pytest.mark.parametrize("case", **named(TINY))
def test_value_and_gradients_are_those_of_slogdet_of_the_autograd_jacobian(case):
    problem = make(case).requires_grad()
    d = problem.x[0].numel()

    def jacobian(i):
        own = problem.of_samples(slice(i, i + 1))

        def f(x):
            return (x[None] + reference.branch(x[None], *own.branch, own.parameters, factors=own.factors))[0]

        return torch.autograd.functional.jacobian(f, problem.x[i], create_graph=True).reshape(d, d)

    jacobians = [jacobian(i) for i in range(len(problem.x))]
    oracle = torch.linalg.slogdet(torch.stack(jacobians))[1]
    _, logdet = call(ops, problem)
    torch.testing.assert_close(logdet, oracle, rtol=1e-12, atol=1e-14)
    for got, want in zip(gradients([logdet], problem.leaves), gradients([oracle], problem.leaves), strict=True):
        torch.testing.assert_close(got, torch.zeros_like(got) if want is None else want, rtol=1e-10, atol=1e-12)


def test_more_dimensions_than_a_tile():
    """A sample's basis vectors fill several dense tiles: 129 is one more than the largest."""
    problem = make(Case("wide", (129,), (7,), batch=2)).requires_grad()
    for got, want in zip(*(gradients(call(p, problem), problem.leaves) for p in (ops, reference)), strict=True):
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(call(ops, problem), call(reference, problem))


def test_a_negative_determinant_has_the_logarithm_of_its_size():
    weight, x = torch.tensor([[-3.0, 0.0], [0.0, 1.0]], dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    assert ops.residual_logdet_exact(x, [weight], [None], ["identity"])[1].item() == pytest.approx(
        torch.tensor(4.0).log()
    )


@pytest.mark.parametrize("case", **named(TINY))
def test_gradcheck(case):
    problem = make(case).requires_grad()
    assert torch.autograd.gradcheck(lambda *_: call(ops, problem), problem.leaves)


@pytest.mark.parametrize("used", [("z",), ("logdet",)])
@pytest.mark.parametrize("case", **named(TINY))
def test_gradients_of_what_is_used(case, used):
    results = []
    for package in (ops, reference):
        problem = make(case).requires_grad()
        outputs = dict(zip(("z", "logdet"), call(package, problem), strict=True))
        grads = gradients([outputs[name] for name in used], problem.leaves)
        results.append([torch.zeros_like(t) if g is None else g for g, t in zip(grads, problem.leaves, strict=True)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("case", **named(TINY))
def test_frozen_tensors_get_no_gradient(case):
    full = make(case).requires_grad()
    all_gradients = gradients(call(ops, full), full.leaves)
    for index in range(len(full.leaves)):
        problem = make(case)
        leaf = problem.leaves[index].requires_grad_()
        assert torch.equal(gradients(call(ops, problem), [leaf])[0], all_gradients[index])


@pytest.mark.parametrize("case", **named(TINY))
def test_opcheck(case):
    torch.library.opcheck(*make(case, torch.float32).raw("jacobian"))


@pytest.mark.parametrize("case", **named(TINY))
def test_compiles(case):
    problem = make(case).requires_grad()
    assert_compiles(lambda: call(ops, problem), problem.leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", **named(WIDE))
def test_deterministic(case, dtype):
    assert_deterministic(lambda: evaluate(ops, case._replace(batch=11), dtype))


def test_the_kernels_are_used(monkeypatch):
    monkeypatch.setattr(reference, "residual_logdet_exact", None)
    with RecordedOps() as recorded:
        evaluate(ops, TINY[0], torch.float32)
    assert recorded.names == ["residual_logdet_exact", "residual_logdet_exact_backward"]


def test_inference_mode_and_no_grad():
    problem = make(TINY[0], torch.float32)
    plain = call(ops, problem)
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(call(ops, problem), plain, strict=True))
    with torch.no_grad():
        assert not any(t.requires_grad for t in call(ops, problem.requires_grad()))


def test_function_transforms():
    problem = make(TINY[0])

    def loss(x, weight):
        outputs = call(ops, problem._replace(x=x, weights=[weight, *problem.weights[1:]]))
        return sum((out * seed).sum() for out, seed in zip(outputs, seeds, strict=True))

    seeds = upstream(call(ops, problem))
    got = torch.func.grad(loss, argnums=(0, 1))(problem.x, problem.weights[0])
    leaves = [problem.x.requires_grad_(), problem.weights[0].requires_grad_()]
    torch.testing.assert_close(got, torch.autograd.grad(loss(*leaves), leaves))


@pytest.mark.parametrize("case", **named(TINY))
def test_second_derivatives_match_reference(case):
    problem = make(case).requires_grad()
    assert_second_derivatives_agree(*(lambda p=p: call(p, problem) for p in (ops, reference)), problem.leaves)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ((torch.ones(2), [torch.eye(2)], [None], ["elu"]), ValueError, r"x must have shape \[B, d\]"),
        ((torch.ones(1, 2), [torch.eye(2)], [None], ["none"]), ValueError, "activation must be one of"),
        (
            (torch.ones(1, 2), [torch.eye(2).double()], [None], ["elu"]),
            TypeError,
            r"x must have the dtype of the weights",
        ),
        ((torch.ones(1, 2), [torch.eye(2)], [], ["elu"]), ValueError, "biases must have one entry per weight"),
    ],
)
@pytest.mark.parametrize("package", [ops, reference], ids=["ops", "reference"])
def test_errors(package, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        package.residual_logdet_exact(*arguments)


def test_a_singular_matrix_spoils_its_own_sample_only():
    """g(x) = -elu(x): I + J is 0 for x > 0 and 1 - exp(x) for x < 0. No check that would wait for a GPU."""
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[-1.0]], dtype=torch.float64)
    logdet = ops.residual_logdet_exact(x, [weight], [None], ["elu"])[1]
    (gradient,) = torch.autograd.grad(logdet.sum(), x)
    assert logdet[0] == -torch.inf
    assert not gradient[0].isfinite()
    e = torch.tensor(-1.0, dtype=torch.float64).exp()
    torch.testing.assert_close(torch.stack((logdet[1], gradient[1, 0])), torch.stack(((1.0 - e).log(), -e / (1.0 - e))))
