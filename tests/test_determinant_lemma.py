"""The exact log-determinant from the narrowest stage of a dense branch: log det(I_d + P Q) = log det(I_h + Q P)."""

import importlib
import itertools

import pytest
import torch
from comparison import assert_compiles, assert_second_derivatives_agree, assert_within_rounding
from problems import DTYPES, Case, gradients, make, named
from test_residual_logdet_exact import call, evaluate

from iresnet_fast import ops, reference
from iresnet_fast._determinants import narrowest_stage

exact = importlib.import_module("iresnet_fast.ops.residual_logdet_exact")  # the op has its name
LEAST_SAVED = exact._LEAST_SAVED

CASES = [
    Case("two layers", (7,), (3,), activations=("identity", "elu")),
    Case("after an activation", (7,), (3,), activations=("tanh", "lipswish"), no_bias=(1,), batch=19),
    Case("the last of three", (6,), (8, 2), activations=("identity", "elu", "sin")),
    Case("the middle of four", (9,), (11, 4, 12), activations=("lipswish",), batch=2),
    Case("one number", (5,), (1,), activations=("softplus",)),
    Case("identities", (6,), (2,), activations=("identity",)),
    Case("masks", (8,), (3, 5), activations=("tanh",), sample_bias=(0, 2), sample_factor=(0, 1, 2)),
    Case("maxmin", (9,), (4, 5), activations=("identity", "maxmin", "elu")),
    Case("a leading maxmin", (9,), (4,), activations=("maxmin", "elu")),
    Case("no sample", (7,), (3,), batch=0),
    Case("transposed", (7,), (3,), memory="transposed"),
    Case("wide", (150,), (9,), activations=("elu",), batch=2),
]
TINY = [
    Case("tiny", (4,), (2,), activations=("tanh", "lipswish"), batch=2),
    Case("tiny masks", (4,), (2, 5), activations=("lipswish", "sin"), batch=2, sample_bias=(0,), sample_factor=(0, 1)),
]


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """However few multiplications it saves."""
    torch.set_num_threads(1)
    monkeypatch.setattr(exact, "_LEAST_SAVED", 0)


@pytest.fixture
def sizes(monkeypatch):
    """The widths of what the kernels get."""
    seen = []
    forward = exact._forward

    def watched(settings, x, *rest):
        seen.append(x.shape[1])
        return forward(settings, x, *rest)

    monkeypatch.setattr(exact, "_forward", watched)
    return seen


def full_determinant(problem):
    """z and log|det(I + J)| of the whole Jacobian, by autograd."""
    x = problem.x if problem.x.requires_grad else problem.x.clone().requires_grad_()
    value = reference.branch(x, *problem.branch, problem.parameters, problem.factors)
    rows = [torch.autograd.grad(column.sum(), x, create_graph=True)[0] for column in value.unbind(1)]
    return x + value, torch.linalg.slogdet(torch.stack(rows, 1) + torch.eye(x.shape[1], dtype=x.dtype))[1]


@pytest.mark.parametrize("package", [ops, reference], ids=["ops", "reference"])
@pytest.mark.parametrize("case", **named(CASES + TINY))
def test_value_and_gradients_are_those_of_the_full_determinant(case, package, sizes):
    problem = make(case).requires_grad()
    results = []
    for outputs in (call(package, problem), full_determinant(problem)):
        grads = gradients(outputs, problem.leaves)
        results.append(
            [*outputs, *(torch.zeros_like(t) if g is None else g for g, t in zip(grads, problem.leaves, strict=True))]
        )
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)
    narrowest = min(weight.shape[1] for weight in problem.weights)
    assert sizes == ([] if package is reference else [narrowest])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", **named(CASES))
def test_rounds_as_the_twin(case, dtype):
    same, oracle = evaluate(reference, case, dtype), evaluate(reference, case, torch.float64)
    assert_within_rounding(case, evaluate(ops, case, dtype), same, oracle)


@pytest.mark.parametrize("case", **named(TINY))
def test_gradcheck(case, sizes):
    problem = make(case).requires_grad()
    assert torch.autograd.gradcheck(lambda *_: call(ops, problem), problem.leaves)
    assert set(sizes) == {2}


@pytest.mark.parametrize("case", **named(TINY))
def test_second_derivatives(case):
    problem = make(case).requires_grad()
    assert_second_derivatives_agree(lambda: call(ops, problem), lambda: full_determinant(problem), problem.leaves)


@pytest.mark.parametrize("case", **named(TINY))
def test_compiles(case):
    problem = make(case).requires_grad()
    assert_compiles(lambda: call(ops, problem), problem.leaves)


def test_transforms_see_the_same():
    problem = make(TINY[0])

    def logdet(x):
        return call(ops, problem._replace(x=x))[1].sum()

    x = problem.x.clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(logdet)(problem.x), torch.autograd.grad(logdet(x), x)[0])


def test_no_gradient_and_autocast():
    problem = make(CASES[1], torch.float32)
    plain = call(ops, problem)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(call(ops, problem), plain, rtol=0.0, atol=0.0)
    with torch.no_grad():
        assert not any(t.requires_grad for t in call(ops, problem.requires_grad()))


@pytest.mark.parametrize(
    ("channels", "want"),
    [
        # A step of the chain is 2 d h multiplications: d - h of them less, one more, and a smaller factorisation.
        ((8, 3, 8), (1, 48 * 4 + (8**3 - 3**3) // 3)),
        ((8, 7, 8), (1, (8**3 - 7**3) // 3)),
        ((8, 9, 8), (0, 0)),
        ((8, 8, 8), (0, 0)),
        ((8, 20, 5, 8), (2, 300 * 2 + (8**3 - 5**3) // 3)),
        ((2, 1, 2), (1, (8 - 1) // 3)),
        ((1, 1, 1), (0, 0)),
    ],
)
def test_what_is_saved(channels, want):
    weights = [torch.ones(n_out, n_in) for n_in, n_out in itertools.pairwise(channels)]
    assert narrowest_stage(weights) == want
    assert narrowest_stage([weight[:, :, None, None] for weight in weights]) == (0, 0)


@pytest.mark.parametrize(("d", "width"), [(6, 6), (40, 3)])
@pytest.mark.parametrize("batch", [1, 400])
def test_only_where_it_saves_much(d, width, batch, sizes, monkeypatch):
    monkeypatch.setattr(exact, "_LEAST_SAVED", LEAST_SAVED)
    problem = make(Case("much", (d,), (3,), activations=("identity", "elu"), batch=batch))
    call(ops, problem)
    assert sizes == [width]
