"""The kernel of the exact log-determinant, also where the op would not choose it, and matrices hard to factorise."""

import importlib
import math

import pytest
import torch
from comparison import assert_deterministic, assert_within_rounding
from problems import CASES, DTYPES, ISAS, TINY, Case, gradients, make, named, run_on
from test_residual_logdet_exact import call, evaluate

from iresnet_fast import _library, ops, reference

EXACT = [
    *(
        Case(f"{d} numbers", (d,), (19, 35), activations=("identity", "elu", "tanh"), batch=21)
        for d in (1, 2, 3, 6, 16)
    ),
    Case("17 numbers", (17,), (33,), activations=("lipswish", "softplus"), batch=18),
    Case("64 numbers", (64,), (21,), activations=("sin", "lipswish"), batch=9),
    Case("few samples", (64,), (21,), batch=1),
    Case("one map", (6,), activations=("lipswish",), batch=40),
    Case("image", (2, 2, 4), (5, 7), (3, 1, 3), ("identity", "elu", "lipswish"), batch=5),
    Case("image, curved at once", (1, 3, 5), (4,), (3, 3), ("lipswish", "sin"), batch=4),
]


@pytest.fixture(autouse=True)
def always_native(monkeypatch):
    module = importlib.import_module("iresnet_fast.ops.residual_logdet_exact")
    monkeypatch.setattr(module, "_LARGEST_NATIVE", {("cpu", 2): 1000, ("cpu", 4): 1000})


@pytest.mark.parametrize(
    "case", **named([*EXACT, *(case for case in CASES if len(case.event) == 3 and math.prod(case.event) <= 128)])
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_matches_reference(isa, dtype, case):
    run_on(isa)
    assert_within_rounding(
        case,
        *(evaluate(*how) for how in ((ops, case, dtype), (reference, case, dtype), (reference, case, torch.float64))),
    )


@pytest.mark.parametrize("case", **named(EXACT))
def test_an_evaluation_has_the_values_of_a_step(case):
    problem = make(case)
    plain = call(ops, problem)
    torch.testing.assert_close(call(ops, problem.requires_grad()), plain)


@pytest.mark.parametrize("case", **named(TINY))
def test_gradcheck(case):
    problem = make(case).requires_grad()
    assert torch.autograd.gradcheck(lambda *_: call(ops, problem), problem.leaves)


@pytest.mark.parametrize("case", **named(EXACT))
def test_deterministic(case):
    assert_deterministic(lambda: evaluate(ops, case, torch.float64))


@pytest.mark.parametrize("case", **named(EXACT))
def test_a_backward_pass_on_other_threads_computes_everything_again(case):
    """Tiles of other sizes: nothing that was kept may be read."""
    problem = make(case._replace(batch=50)).requires_grad()
    torch.set_num_threads(1)
    expected = gradients(call(ops, problem), problem.leaves)
    outputs = call(ops, problem)
    torch.set_num_threads(3)
    _library.set_cpu_isa(ISAS[0])
    torch.testing.assert_close(gradients(outputs, problem.leaves), expected)


def test_much_is_computed_again_and_little_is_kept():
    torch.set_num_threads(1)
    sizes, found = [], []
    for batch in (48, 4096):
        problem = make(Case("much", (6,), (40, 40), batch=batch), torch.float32)
        outputs = torch.ops.iresnet_fast.residual_logdet_exact(*problem.raw("residual_logdet_exact", keep=True)[1])
        sizes.append(outputs[2].numel() / batch)
        overload, arguments = problem.raw(
            "residual_logdet_exact_backward",
            grad_z=problem.x,
            grad_logdet=outputs[1],
            kept=outputs[2],
            input_gradient=True,
        )
        found.append(overload(*arguments))
        torch.testing.assert_close(overload(*arguments[:-1], None), found[-1])
    inverses, walk = 36, 40 * 2 + 40 * 6
    assert inverses + walk <= sizes[0] < 2 * (inverses + walk)
    assert inverses <= sizes[1] < 2 * inverses


@pytest.mark.parametrize("op", ["residual_logdet_exact", "residual_logdet_exact_backward"])
@pytest.mark.parametrize("case", **named(TINY))
def test_opcheck(case, op):
    problem = make(case, torch.float32)
    given = {"grad_z": problem.x, "grad_logdet": problem.x.flatten(1)[:, 0].contiguous(), "input_gradient": True}
    torch.library.opcheck(*problem.raw(op, **given))


def of_matrix(package, matrix, batch=3):
    """log|det| of a matrix, once per sample, and the gradient of the matrix: g(x) = (matrix - I) x."""
    weight = (matrix - torch.eye(len(matrix), dtype=matrix.dtype)).requires_grad_()
    x = torch.ones(batch, len(matrix), dtype=matrix.dtype)
    logdet = package.residual_logdet_exact(x, [weight], [None], ["identity"])[1]
    return logdet.detach(), torch.autograd.grad(logdet.sum(), weight)[0]


@pytest.mark.parametrize("size", [2, 3, 7, 16, 33])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_every_column_needs_a_pivot(isa, dtype, size):
    run_on(isa)
    generator = torch.Generator().manual_seed(size)
    order = torch.randperm(size, generator=generator)
    matrix = torch.eye(size, dtype=dtype)[order] * 3 + 0.1 * torch.randn(size, size, generator=generator).to(dtype)
    tolerance = 100 * torch.finfo(dtype).eps
    for got, want in zip(of_matrix(ops, matrix), of_matrix(reference, matrix), strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("isa", ISAS)
def test_determinants_out_of_range_have_their_logarithms(isa):
    run_on(isa)
    for scale in (1e30, 1e-6):
        matrix = torch.eye(9, dtype=torch.float64) * scale
        torch.testing.assert_close(of_matrix(ops, matrix)[0], torch.full((3,), scale, dtype=torch.float64).log() * 9)
    logdet = of_matrix(ops, torch.eye(4) * 1e30)[0]  # the determinant itself is beyond float32
    torch.testing.assert_close(logdet, torch.full((3,), 1e30).log() * 4)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("isa", ISAS)
def test_a_singular_matrix_has_minus_infinity_also_with_others_beside_it(isa, keep):
    """x + relu(-x) = relu(x): I + J is diagonal, 1 where x > 0 and 0 elsewhere."""
    run_on(isa)
    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, -2.0, 3.0], [-1.0, -2.0, -3.0], [4.0, 5.0, 6.0]])
    problem = (x.requires_grad_(keep), [-torch.eye(3), torch.eye(3)], [None] * 2, ["identity", "relu"])
    logdet = ops.residual_logdet_exact(*problem)[1]
    assert logdet.tolist() == [0.0, -torch.inf, -torch.inf, 0.0]
    if keep:
        gradient = torch.autograd.grad(logdet.sum(), x)[0]
        assert not gradient[[0, 3]].any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("isa", ISAS)
def test_what_is_not_finite_stays_in_its_sample(isa, bad):
    run_on(isa)
    problem = make(Case("not finite", (3,), (5,), activations=("identity", "tanh"), batch=9))
    good = call(ops, problem.requires_grad())
    clean = gradients(good, [problem.x])[0]
    x = problem.x.detach().clone()
    x[4, 1] = bad
    spoilt = problem._replace(x=x).requires_grad()
    outputs = call(ops, spoilt)
    gradient = gradients(outputs, [spoilt.x])[0]
    others = [i for i in range(9) if i != 4]
    for got, want in ((outputs[0], good[0]), (outputs[1], good[1]), (gradient, clean)):
        torch.testing.assert_close(got[others], want[others])
    if bad != bad:
        assert outputs[1][4].isnan()


def test_a_weight_that_is_not_finite_raises_nothing():
    matrix = torch.eye(3)
    matrix[1, 1] = torch.nan
    logdet, gradient = of_matrix(ops, matrix)
    assert logdet.isnan().all()
    assert not gradient.isfinite().all()


def test_no_samples():
    problem = make(Case("none", (3,), (5,), batch=0)).requires_grad()
    outputs = call(ops, problem)
    assert [tuple(t.shape) for t in outputs] == [(0, 3), (0,)]
    assert not any(g.any() for g in gradients(outputs, problem.leaves))


def test_events_that_are_too_large_are_refused():
    problem = make(Case("large", (513,), (2,), batch=1), torch.float32)
    for op in ("residual_logdet_exact", "residual_logdet_exact_backward"):
        overload, arguments = problem.raw(op)
        with pytest.raises(RuntimeError, match="at most 512 numbers, got 513"):
            overload(*arguments)
