import warnings

import pytest
import torch
from comparison import (
    RecordedOps,
    assert_compiles,
    assert_deterministic,
    assert_second_derivatives_agree,
    assert_within_rounding,
)
from problems import CASES, DTYPES, ISAS, TINY, WIDE, Case, gradients, make, named, run_on

from iresnet_fast import _backend, ops, reference


def evaluate(package, case, dtype):
    """g(x) and the gradients of x, weights, biases and parameters."""
    problem = make(case, dtype).requires_grad()
    g = package.branch(problem.x, *problem.branch, problem.parameters, factors=problem.factors)
    return [g, *gradients([g], problem.leaves)]


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_matches_reference(isa, dtype, case):
    run_on(isa)
    assert_within_rounding(
        case, evaluate(ops, case, dtype), evaluate(reference, case, dtype), evaluate(reference, case, torch.float64)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_zeros_of_a_weight_may_be_left_out(isa, dtype):
    """Blocks of a matrix that are zero, as masks of graphs leave them, and an identity, whose products are skipped."""
    run_on(isa)
    case = Case("blocks", (5,), (40, 5), batch=33, activations=("identity", "tanh", "identity"), sample_factor=(2,))
    blocks = torch.eye(5).repeat_interleave(8, 1)  # [5, 40]
    blocks[3] = 0.0
    results = []
    for package, precision in ((ops, dtype), (reference, dtype), (reference, torch.float64)):
        problem = make(case, precision)
        problem.weights[1:] = [problem.weights[1] * blocks.to(precision), torch.eye(5, dtype=precision)]
        problem.requires_grad()
        g = package.branch(problem.x, *problem.branch, problem.parameters, factors=problem.factors)
        results.append([g, *gradients([g], problem.leaves)])
    assert_within_rounding(case, *results)


@pytest.mark.parametrize("case", **named(TINY))
def test_gradcheck(case):
    problem = make(case).requires_grad()

    def g(*_):
        return ops.branch(problem.x, *problem.branch, problem.parameters, factors=problem.factors)

    assert torch.autograd.gradcheck(g, problem.leaves)


@pytest.mark.parametrize("case", **named(CASES[:4] + TINY))
def test_without_gradients_the_value_is_the_same(case):
    problem = make(case, torch.float32)
    with torch.inference_mode():
        alone = ops.branch(problem.x, *problem.branch, problem.parameters, factors=problem.factors)
    assert alone.is_inference()
    assert not ops.branch(problem.x, *problem.branch, problem.parameters, factors=problem.factors).requires_grad
    with torch.no_grad():
        assert not ops.branch(
            problem.requires_grad().x, *problem.branch, problem.parameters, factors=problem.factors
        ).requires_grad
    assert torch.equal(ops.branch(problem.x, *problem.branch, problem.parameters, factors=problem.factors), alone)


@pytest.mark.parametrize("kept", range(6))
def test_frozen_tensors_get_no_gradient(kept):
    full, problem = make(TINY[0]).requires_grad(), make(TINY[0])
    expected = gradients([ops.branch(full.x, *full.branch, full.parameters, factors=full.factors)], full.leaves)
    leaf = problem.leaves[kept % len(problem.leaves)].requires_grad_()
    g = ops.branch(problem.x, *problem.branch, problem.parameters, factors=problem.factors)
    assert torch.equal(gradients([g], [leaf])[0], expected[kept % len(problem.leaves)])


def test_a_parameter_left_out_is_the_initial_one():
    problem = make(TINY[0])
    initial = [None, torch.tensor(0.5, dtype=torch.float64)]
    assert torch.equal(ops.branch(problem.x, *problem.branch), ops.branch(problem.x, *problem.branch, initial))


def test_expanded_upstream_gradient():
    problem = make(CASES[2]).requires_grad()
    results = []
    for package in (ops, reference):
        g = package.branch(problem.x, *problem.branch, problem.parameters, factors=problem.factors)
        results.append(torch.autograd.grad(g.sum(), problem.leaves))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("case", **named(TINY))
def test_opcheck(case):
    problem = make(case, torch.float32)
    torch.library.opcheck(*problem.raw("branch"))
    x = problem.x
    ordinary = {"grad": x, "residual": True}
    pairs = {
        "tangents": torch.randn(2, *x.shape),
        "cotangents": torch.randn(2, *x.shape),
        "weight": torch.randn(len(x)),
    }
    for arguments in (ordinary, pairs, ordinary | pairs | {"input_gradient": True}):
        torch.library.opcheck(*problem.raw("branch_backward", **arguments))


@pytest.mark.parametrize("case", **named(TINY))
def test_compiles(case):
    problem = make(case).requires_grad()
    assert_compiles(
        lambda: [ops.branch(problem.x, *problem.branch, problem.parameters, factors=problem.factors)], problem.leaves
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", **named(WIDE))
def test_deterministic(case, dtype):
    assert_deterministic(lambda: evaluate(ops, case, dtype))


def test_the_kernels_are_used(monkeypatch):
    monkeypatch.setattr(reference, "branch", None)
    with RecordedOps() as recorded:
        evaluate(ops, TINY[0], torch.float32)
    assert recorded.names == ["branch", "branch_backward"]


@pytest.mark.parametrize(("dtype", "activation"), [(torch.bfloat16, "elu"), (torch.float64, "fullsort")])
def test_the_reference_serves_what_has_no_kernel(monkeypatch, dtype, activation):
    monkeypatch.setattr(_backend, "_told", set())
    problem = make(Case("fallback", (4,), (6,), activations=(activation,)), dtype)
    with RecordedOps() as recorded:
        with pytest.warns(UserWarning, match="plain-torch reference serves it"):
            g = ops.branch(problem.x, *problem.branch)
        with warnings.catch_warnings():  # said once
            warnings.simplefilter("error")
            ops.branch(problem.x, *problem.branch)
    assert recorded.names == []
    assert torch.equal(g, reference.branch(problem.x, *problem.branch))


def test_function_transforms():
    problem = make(TINY[0])

    def loss(x, weight):
        g = ops.branch(
            x,
            [weight, *problem.weights[1:]],
            problem.biases,
            problem.activations,
            problem.parameters,
            factors=problem.factors,
        )
        return (g * g).sum()

    got = torch.func.grad(loss, argnums=(0, 1))(problem.x, problem.weights[0])
    leaves = [problem.x.requires_grad_(), problem.weights[0].requires_grad_()]
    torch.testing.assert_close(got, torch.autograd.grad(loss(*leaves), leaves))


@pytest.mark.parametrize("case", **named(TINY))
def test_second_derivatives_match_reference(case):
    problem = make(case).requires_grad()
    assert_second_derivatives_agree(
        *(
            lambda p=p: [p.branch(problem.x, *problem.branch, problem.parameters, factors=problem.factors)]
            for p in (ops, reference)
        ),
        problem.leaves,
    )


def without(arguments, **changes):
    return {**arguments, **changes}


D = torch.ones(2, 3)
W = [torch.ones(4, 3), torch.ones(3, 4)]
GOOD = {"x": D, "weights": W, "biases": [None, torch.ones(3)], "activations": ["elu", "relu"]}


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"weights": [], "biases": [], "activations": []}, ValueError, "weights must hold at least one tensor"),
        ({"biases": [None]}, ValueError, r"biases must have one entry per weight \(2\), got 1"),
        ({"activations": ["elu"]}, ValueError, r"activations must have one entry per weight \(2\), got 1"),
        ({"parameters": [None] * 3}, ValueError, r"parameters must have one entry per weight \(2\), got 3"),
        ({"activations": ["elu", "no_such"]}, ValueError, "activation must be one of identity, relu, .* got 'no_such'"),
        ({"x": D.int()}, TypeError, "x must be a floating point tensor, got torch.int32"),
        ({"x": D.double()}, TypeError, r"x must have the dtype of the weights, torch.float32, got torch.float64"),
        ({"x": torch.ones(2, 3, 4)}, ValueError, r"x must have shape \[B, d\] or \[B, C, H, W\], got \(2, 3, 4\)"),
        ({"x": torch.ones(2, 3, 4, 4)}, ValueError, r"x must have shape \[B, 3\] for weights\[0\]"),
        ({"x": torch.ones(2, 5)}, ValueError, r"x must have shape \[B, 3\] for weights\[0\] of shape \(4, 3\), got"),
        ({"weights": [W[0], torch.ones(3, 5)]}, ValueError, r"weights\[1\] must have 4 inputs, the outputs of weights"),
        ({"weights": [W[0], torch.ones(2, 4)]}, ValueError, r"biases\[1\] must have shape \(2,\)"),
        (
            {"weights": [W[0], torch.ones(2, 4)], "biases": [None, None]},
            ValueError,
            r"weights\[1\] must have 3 outputs, the channels of x",
        ),
        ({"biases": [torch.ones(4, 1), None]}, ValueError, r"biases\[0\] must have shape \(4,\), .* got \(4, 1\)"),
        ({"biases": [torch.ones(4).double(), None]}, TypeError, r"biases\[0\] must have the dtype of x"),
        ({"weights": [W[0].to("meta"), W[1]]}, ValueError, r"weights\[0\] must be on the device of x, cpu, got meta"),
        (
            {"parameters": [torch.ones(()), None]},
            ValueError,
            r"parameters\[0\] must be None since elu has no parameter",
        ),
        (
            {"activations": ["lipswish", "elu"], "parameters": [torch.ones(2), None]},
            ValueError,
            r"parameters\[0\] must have shape \(\) or \(1,\), got \(2,\)",
        ),
        (
            {
                "x": torch.ones(2, 1, 4, 4),
                "weights": [torch.ones(1, 1, 2, 2)],
                "biases": [None],
                "activations": ["elu"],
            },
            ValueError,
            r"weights\[0\] must have a square kernel of odd size, got \(2, 2\)",
        ),
        (
            {"factors": [torch.ones(2), None]},
            ValueError,
            r"factors\[0\] must have shape \(2, 3\), one entry per sample and input of weights\[0\], got \(2,\)",
        ),
        ({"factors": [None]}, ValueError, r"factors must have one entry per weight \(2\), got 1; pad it with None"),
        ({"factors": [torch.ones(2, 3).double(), None]}, TypeError, r"factors\[0\] must have the dtype of x"),
        (
            {"biases": [torch.ones(3, 4), None]},
            ValueError,
            r"biases\[0\] must have shape \(4,\), one entry per output of weights\[0\], or \(2, 4\), got \(3, 4\)",
        ),
    ],
)
@pytest.mark.parametrize("package", [ops, reference], ids=["ops", "reference"])
def test_errors(package, changes, error, sentence):
    with pytest.raises(error, match=sentence):
        package.branch(**without(GOOD, **changes))
