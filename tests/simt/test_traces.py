"""Exact first terms of the log-determinant, on the emulated CUDA kernels, against the reference."""

import pytest
import torch
from comparison import assert_within_rounding
from problems import DTYPES, LIPSCHITZ, Case, gradients, make, named, upstream
from trace_cases import CASES, WIDE, closed, places

from iresnet_fast import ops, reference
from iresnet_fast._stages import Stages
from iresnet_fast._traces import maps_of, split_coefficients
from iresnet_fast.reference.jacobian_traces import traces_of_maps

from . import operands
from .branches import probes_of, raw_branch, run
from .conftest import FEW_SCHEDULES
from .emulator import Launch

TF32, BF16 = 1, 2
FEW = pytest.mark.parametrize("emulator", **FEW_SCHEDULES)


def evaluate(package, exact, dtype, gradient="neumann"):
    p = make(exact.case, dtype).requires_grad()
    outputs = package.residual_logdet(
        p.x, *p.branch, p.probe, p.coefficients, gradient, p.parameters, factors=p.factors, exact_terms=exact.terms
    )
    return [*outputs, *gradients(outputs, p.leaves)]


def compare(exact, dtype, gradient="neumann"):
    assert_within_rounding(
        exact.case,
        evaluate(ops, exact, dtype, gradient),
        evaluate(reference, exact, dtype, gradient),
        evaluate(reference, exact, torch.float64, gradient),
    )


@FEW
@pytest.mark.parametrize("card", ["h100", "layered"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exact", **named(closed(CASES)))
def test_value_and_gradient_match_the_reference(emulated_ops, exact, dtype, card):
    emulated_ops(card)
    compare(exact, dtype)


@FEW
@pytest.mark.parametrize("exact", **named(closed([CASES[0], CASES[3], CASES[11]])))
def test_gradient_of_the_series_matches_the_reference(emulated_ops, exact):
    emulated_ops()
    compare(exact, torch.float64, "series")


@FEW
@pytest.mark.parametrize("card", ["h100", "layered"])
@pytest.mark.parametrize("exact", **named(closed([CASES[3], CASES[6], CASES[9]])))
def test_samples_stop_where_they_do_without(emulated_ops, exact, card):
    emulated_ops(card)
    case, results = exact.case._replace(terms=12, batch=5), []
    wanted = ((ops, torch.float32, True), (reference, torch.float32, True), (reference, torch.float64, True))
    for package, dtype, is_exact in (*wanted, (ops, torch.float32, False)):
        p = make(case, dtype)
        results.append(
            package.residual_logdet(
                p.x, *p.branch, p.probe, p.coefficients, "neumann", p.parameters, tol=0.1, lipschitz=LIPSCHITZ,
                return_info=True, factors=p.factors, exact_terms=exact.terms if is_exact else 0,
            )
        )  # fmt: skip
    for other in results[1:]:
        assert torch.equal(results[0][2].terms, other[2].terms)
    assert torch.equal(results[0][2].norms, results[3][2].norms)
    assert_within_rounding(case, *((r[0], r[1], r[2].norms) for r in results[:3]))


def traces_of(problem, exact):
    """Return the maps of the traces, and their stages as the raw ops take them."""
    pairs = places(exact.case)[: exact.terms]
    maps = maps_of(pairs, problem.weights, problem.x.shape[2:])
    return maps, [stage for pair in pairs for stage in pair]


def backward(emulator, exact, dtype, input_gradient=True, **target):
    """Return the gradients of x, of all tensors of the stages, and of the maps, under upstream gradients."""
    problem = make(exact.case, dtype)
    maps, stages = traces_of(problem, exact)
    *lists, activations, constants = raw_branch(problem)
    grad, *pair, weight = entering(problem)
    grad_x, packed = operands.branch_backward(
        emulator, problem.x, *lists, activations, constants, grad, *pair, weight, True, input_gradient,
        maps=[t.contiguous() for t in maps], stages=stages, coefficients=problem.coefficients.contiguous(), **target,
    )  # fmt: skip
    of_stages = [t for stage in zip(*lists, strict=True) for t in stage]
    leaves = [*of_stages, *maps]
    pieces = zip(packed.split([t.numel() for t in leaves]), leaves, strict=True)
    return [grad_x if input_gradient else None, *(t.view(leaf.shape) for t, leaf in pieces)]


def entering(problem):
    pairs = 2
    shape = (pairs, *problem.x.shape)
    empty = torch.empty(shape, dtype=problem.x.dtype)
    return (
        *upstream([problem.x], seed=5),
        *upstream([empty] * 2, seed=6),
        *upstream([problem.x.flatten(1)[:, 0]], seed=7),
    )


def by_autograd(exact, dtype, input_gradient=True):
    problem = make(exact.case, dtype).requires_grad()
    pairs = places(exact.case)[: exact.terms]
    maps = [t.detach().requires_grad_() for t in maps_of(pairs, problem.weights, problem.x.shape[2:])]
    grad, tangents, cotangents, weight = entering(problem)
    y = reference.branch(problem.x, *problem.branch, problem.parameters, problem.factors)
    total = (grad * (problem.x + y)).sum()
    stages = Stages(problem.weights, problem.biases, tuple(problem.activations), problem.parameters, problem.factors)
    traces = torch.stack(traces_of_maps(problem.x, stages, pairs, maps), 1)
    total = total + (weight * (split_coefficients(problem.coefficients, exact.terms)[0] * traces).sum(-1)).sum()
    for tangent, cotangent in zip(tangents, cotangents, strict=True):
        scaled = (weight / len(tangents)).view(-1, *[1] * (y.dim() - 1)) * cotangent
        total = total + (torch.autograd.grad(y, problem.x, scaled, create_graph=True)[0] * tangent).sum()
    none = problem.x.new_empty(0)
    lists = problem.weights, problem.biases, problem.parameters, problem.factors
    leaves = [t for stage in zip(*lists, strict=True) for t in stage]
    wanted = [t for t in (problem.x, *leaves, *maps) if t is not None]
    found = iter(torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True))
    all_of_them = [none if t is None else next(found) for t in (problem.x, *leaves, *maps)]
    return [all_of_them[0] if input_gradient else None, *all_of_them[1:]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("input_gradient", [True, False])
@pytest.mark.parametrize("exact", **named(closed(CASES)))
def test_backward_matches_autograd(every_emulator, exact, input_gradient, dtype):
    """Every build and order gives the same bits, and they are right."""
    results = [backward(emulator, exact, dtype, input_gradient) for emulator in every_emulator()]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
    oracles = (by_autograd(exact, t, input_gradient) for t in (dtype, torch.float64))
    assert_within_rounding(exact.case, results[0], *oracles)


@FEW
@pytest.mark.parametrize("card", ["h100", "layered"])
@pytest.mark.parametrize("exact", **named(closed([CASES[3], CASES[7], CASES[11], CASES[14]])))
def test_gradients_of_what_was_kept_are_those_of_what_was_not(emulated_ops, exact, card):
    exact = exact._replace(case=exact.case._replace(probes=None))
    results = []
    for memory in (card, "no memory"):
        emulated_ops(memory)
        results.append(evaluate(ops, exact, torch.float64))
    for kept, walked in zip(*results, strict=True):
        torch.testing.assert_close(kept, walked, rtol=1e-11, atol=1e-11)


@FEW
@pytest.mark.parametrize(("precision", "eps"), [(TF32, 2.0**-11), (BF16, 2.0**-8)])
@pytest.mark.parametrize("exact", **named(closed(WIDE)))
def test_tensor_cores_round_only_operands(emulated_ops, exact, precision, eps):
    """Each product rounds two operands; results are sums of terms of size 1, of parameters over all rows."""
    emulated_ops("h100", precision)
    got, oracle = evaluate(ops, exact, torch.float32), evaluate(reference, exact, torch.float64)
    case = exact.case
    rows = case.batch * torch.Size(case.event[1:]).numel()
    for a, b in zip(got, oracle, strict=True):
        scale = max(1.0 if case.batch in a.shape[:1] else rows**0.5, b.abs().max().item())
        products = 2 * (len(case.hidden) + 1) * case.terms
        assert (a.double() - b).abs().max().item() <= 2 * products * eps * scale


def series(emulator, exact, card, terms=None):
    problem = make(exact.case, torch.float32)
    maps, stages = traces_of(problem, exact._replace(terms=exact.terms if terms is None else terms))
    arguments = probes_of(problem), problem.coefficients, None, 0.0, False, True
    maps = [t.contiguous() for t in maps]
    return run(emulator, operands.residual_logdet, problem, *arguments, card=card, maps=maps, stages=stages)


@FEW
@pytest.mark.parametrize("card", ["h100", "layered"])
@pytest.mark.parametrize("exact", **named(closed([CASES[3], CASES[11], CASES[13]])))
def test_a_call_is_launches_and_nothing_else(emulator, exact, card):
    """It can be captured in a CUDA graph, and has the bits of a call that is not."""
    free = series(emulator, exact, card)
    with emulator.capturing():
        captured = series(emulator, exact, card)
    assert all(map(torch.equal, free, captured))
    others = {call for call in emulator.calls if not isinstance(call, Launch)}
    assert all("cudaFuncSetAttribute" in call for call in others)


@FEW
@pytest.mark.parametrize("card", ["h100", "layered"])
def test_the_series_is_launched_as_without_traces(emulator, card):
    """The trace of two layers is two launches more, one that sums rows and one that adds up."""
    launches = []
    for terms in (0, 1):
        series(emulator, closed([CASES[3]])[0], card, terms)
        launches.append(emulator.launches)
    assert launches[1][: len(launches[0])] == launches[0]
    assert ["to_rows" in launches[1][-2].kernel, "add_traces" in launches[1][-1].kernel] == [True, True]
    assert len(launches[1]) == len(launches[0]) + 2


@FEW
@pytest.mark.parametrize("card", ["h100", "layered"])
def test_neumann_vectors_are_those_of_the_rest(emulator, card):
    """Norms and terms are those of the whole series, also where a roulette ends among the exact terms."""
    exact = closed([Case("roulette", (3,), (9,), batch=9, activations=("identity", "elu"), per_sample=True, terms=4)])[
        1
    ]
    problem = make(exact.case, torch.float32)
    ends = torch.arange(exact.case.batch) % 4 + 1
    problem.coefficients[torch.arange(1, 5) > ends[:, None]] = 0.0
    maps, stages = traces_of(problem, exact)
    rest = problem.coefficients.clone()
    rest[:, :2] = 0.0
    arguments = probes_of(problem), problem.coefficients, None, 0.0, False, True
    z, value, y, norms, terms = run(
        emulator, operands.residual_logdet, problem, *arguments, card=card, maps=maps, stages=stages
    )
    plain = run(emulator, operands.residual_logdet, problem, *arguments, card=card)
    assert torch.equal(terms[0], ends)
    assert torch.equal(norms, plain[3])
    assert torch.equal(z, plain[0])
    only = run(emulator, operands.residual_logdet, problem, probes_of(problem), rest, *arguments[2:], card=card)
    assert torch.equal(y, only[2])
    oracle = make(exact.case)
    stages_of = Stages(oracle.weights, oracle.biases, tuple(oracle.activations), oracle.parameters, oracle.factors)
    pairs = places(exact.case)
    traces = torch.stack(traces_of_maps(oracle.x, stages_of, pairs, maps_of(pairs, oracle.weights, ())), 1)
    first = split_coefficients(problem.coefficients.double(), 2)[0]
    torch.testing.assert_close(value, (only[1].double() + (first * traces).sum(1)).float(), rtol=1e-5, atol=1e-6)
