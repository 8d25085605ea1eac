"""Exact first terms in the kernels: the closed forms that they fuse, beside their twin, and traces of any stages."""

from functools import cache

import pytest
import test_residual_logdet
import torch
from comparison import (
    RecordedOps,
    assert_compiles,
    assert_deterministic,
    assert_second_derivatives_agree,
    assert_within_rounding,
)
from problems import DTYPES, ISAS, KERNEL_ACTIVATIONS, LIPSCHITZ, Case, gradients, make, named, run_on, upstream

from iresnet_fast import _library, ops, reference
from iresnet_fast._stages import Stages
from iresnet_fast._steps import Residual
from iresnet_fast._traces import maps_of, places_of
from iresnet_fast.reference.jacobian_traces import traces_of_maps
from iresnet_fast.reference.residual_logdet import split_coefficients

PLAIN = ("identity", "elu")
CLOSED = [
    # One stage.
    Case("one number", (1,), batch=1, activations=("tanh",)),
    Case("one layer", (9,), batch=17, activations=("lipswish",), probes=2, per_sample=True),
    Case("one layer of a batch", (31,), batch=130, activations=("sin",), sample_factor=(0,)),
    Case("one convolution", (3, 5, 7), kernels=(3,), batch=5, activations=("lipswish",), sample_factor=(0,)),
    Case("one pointwise", (2, 3, 8), kernels=(1,), batch=17, activations=("softplus",), pixel_factor=(0,)),
    # Two stages, the first without an activation.
    Case("two layers", (5,), (7,), batch=13, activations=PLAIN),
    Case("two wide layers", (31,), (33,), batch=33, activations=("identity", "lipswish"), per_sample=True),
    Case("several tiles", (2,), (19,), batch=300, activations=("identity", "lipswish"), probes=3),
    Case("factor", (7,), (9,), batch=33, activations=("identity", "sin"), sample_factor=(1,), sample_bias=(0,)),
    Case("sliced", (6,), (5,), batch=5, activations=PLAIN, memory="sliced", per_sample=True),
    Case("pointwise", (3, 5, 7), (9,), (1, 1), batch=5, activations=("identity", "lipswish"), pixel_factor=(1,)),
    Case("two kernels", (2, 5, 7), (5,), (3, 3), batch=5, activations=PLAIN, probes=2, pixel_bias=(0,)),
    Case("width 16", (2, 3, 16), (6,), (3, 5), activations=("identity", "lipswish"), pixel_factor=(1,)),
    Case("width 14", (2, 14, 14), (20,), (5, 3), batch=9, activations=("identity", "tanh"), per_sample=True),
    Case("kernel larger than the image", (1, 3, 4), (2,), (7, 5), batch=2, activations=PLAIN),
    Case("many images", (1, 2, 3), (2,), (3, 3), batch=130, activations=("identity", "lipswish")),
    # Two stages with activations.
    Case("activation first", (8,), (16,), batch=16, activations=("lipswish", "tanh"), probes=2),
    Case("masks", (7,), (5,), batch=130, activations=("lipswish",), sample_factor=(0, 1)),
    Case("factor in front", (6,), (9,), batch=33, activations=("identity", "elu"), sample_factor=(0,)),
    Case("kernels", (2, 5, 7), (4,), (3, 3), batch=5, activations=("elu", "lipswish"), per_sample=True),
    Case("kernels 1 and 5", (3, 2, 9), (4,), (5, 1), batch=4, activations=("sin", "lipswish"), probes=2),
    Case("odd images", (3, 4, 5), (4,), (3, 5), batch=6, activations=("lipswish",), sample_factor=(0, 1)),
    # Three pointwise stages.
    Case("three layers", (9,), (17, 31), batch=17, activations=("identity", "lipswish", "tanh"), no_bias=(0, 1)),
    Case("three layers of masks", (5,), (7, 4), batch=140, activations=PLAIN * 2, sample_factor=(1, 2), probes=2),
    Case("three pointwise", (2, 4, 6), (5, 3), (1, 1, 1), batch=5, activations=("identity", "lipswish", "sin")),
    *(Case(f"dense {name}", (4,), (6,), batch=5, activations=(name,)) for name in KERNEL_ACTIVATIONS[1:]),
    *(Case(f"conv {name}", (2, 3, 5), (4,), (3, 3), activations=("identity", name)) for name in KERNEL_ACTIVATIONS[1:]),
]
TINY = [
    Case("dense", (3,), (4,), activations=("identity", "lipswish"), batch=2, terms=3, probes=2, sample_factor=(1,)),
    Case("conv", (2, 2, 3), (2,), (3, 3), activations=("softplus", "lipswish"), batch=2, terms=3, per_sample=True),
    Case("one", (2, 2, 3), (), (1,), activations=("lipswish",), batch=2, terms=2, pixel_factor=(0,)),
    Case("three", (3,), (4, 2), activations=("identity", "tanh", "lipswish"), batch=2, terms=3, sample_factor=(2,)),
]
WIDE = [
    Case("dense", (5,), (9,), batch=300, activations=("identity", "lipswish"), probes=2),
    Case("one probe", (5,), (9,), batch=200, activations=("elu", "lipswish")),
    Case("conv", (2, 5, 6), (4,), (3, 3), batch=7, activations=("identity", "lipswish"), sample_factor=(1,)),
]
WAYS = ["tiles", "layers"]


@pytest.fixture(autouse=True)
def force():
    """Force a way of the CPU kernels."""
    force = _library.extension().force_cpu_way
    yield force
    force("")


def places(case):
    """The closed forms of a case."""
    problem = make(case)
    return places_of(problem.weights, problem.activations, problem.factors)


def in_closed_form(cases):
    return [
        pytest.param(case, n, id=f"{case.name.replace(' ', '-')}-{n}")
        for case in cases
        for n in range(1, 1 + len(places(case)))
    ]


def call(package, problem, exact_terms, gradient="neumann", **options):
    return test_residual_logdet.call(package, problem, gradient, exact_terms=exact_terms, **options)


def evaluate(package, case, dtype, exact_terms, gradient="neumann", **options):
    """z, logdet and the gradients of all leaves, those that come through the maps too, under an upstream gradient."""
    problem = make(case, dtype).requires_grad()
    outputs = call(package, problem, exact_terms, gradient, **options)[:2]
    return [*outputs, *gradients(outputs, problem.leaves)]


@cache
def expected(case, dtype, exact_terms, gradient="neumann", tol=None):
    """What the reference gives: the same for every instruction set."""
    return evaluate(reference, case, dtype, exact_terms, gradient, tol=tol, lipschitz=LIPSCHITZ)


def check(case, dtype, exact_terms, gradient="neumann", tol=None, **options):
    got = evaluate(ops, case, dtype, exact_terms, gradient, tol=tol, lipschitz=LIPSCHITZ, **options)
    oracles = [expected(case, type_, exact_terms, gradient, tol) for type_ in (dtype, torch.float64)]
    assert_within_rounding(case, got, *oracles)


def test_every_closed_form_is_among_the_cases():
    assert {places(case) for case in CLOSED} == {
        ((0, -1),),
        ((0, -1), (0, 0)),
        ((1, -1),),
        ((1, -1), (1, 1)),
        ((1, 0),),
        ((2, 1),),
    }


@pytest.mark.parametrize(("case", "exact_terms"), in_closed_form(CLOSED))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_matches_reference(isa, dtype, case, exact_terms):
    run_on(isa)
    with RecordedOps() as recorded:
        check(case, dtype, exact_terms)
    assert recorded.names == ["residual_logdet", "branch_backward"]
    check(case, dtype, exact_terms, return_info=True)  # nothing is kept
    check(case, dtype, exact_terms, "series")


@pytest.mark.parametrize(("case", "exact_terms"), in_closed_form(CLOSED))
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_by_layer(force, dtype, case, exact_terms):
    force("layers")
    check(case, dtype, exact_terms)
    check(case, dtype, exact_terms, return_info=True)
    check(case._replace(terms=20), dtype, exact_terms, tol=0.1)


@pytest.mark.parametrize(("case", "exact_terms"), in_closed_form(CLOSED[:25]))
@pytest.mark.parametrize("isa", ISAS)
def test_samples_may_stop(isa, case, exact_terms):
    """Before or after the terms that are exact: those are added whole."""
    run_on(isa)
    for tol in (0.1, 3.0):
        check(case._replace(terms=20), torch.float32, exact_terms, tol=tol)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("case", "exact_terms"), in_closed_form(CLOSED[5:7]))
def test_norms_terms_and_bounds_are_those_of_the_series(force, case, exact_terms, way):
    force(way)
    problem = make(case._replace(terms=20))
    for tol in (None, 0.1):
        plain, exact = (
            call(ops, problem, n, tol=tol, lipschitz=LIPSCHITZ, return_info=True)[2] for n in (0, exact_terms)
        )
        for a, b in zip(plain, exact, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("case", "exact_terms"), in_closed_form(CLOSED[:8]))
def test_all_terms_may_be_exact(force, case, exact_terms, way):
    """Then no probe counts, and roulettes of other samples may go on."""
    force(way)
    case = case._replace(terms=exact_terms)
    check(case, torch.float64, exact_terms)
    problem = make(case)
    value = call(ops, problem, exact_terms)[1]
    assert torch.equal(call(ops, problem._replace(probe=-3 * problem.probe), exact_terms)[1], value)
    q = problem.coefficients.expand(case.batch, -1)
    longer = torch.nn.functional.pad(q, (0, 4))
    longer[::2] += 1.0  # every second sample has more terms
    both = [call(p, problem._replace(coefficients=longer), exact_terms)[1] for p in (ops, reference)]
    torch.testing.assert_close(*both)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("case", "exact_terms"), in_closed_form(TINY))
def test_gradcheck(force, case, exact_terms, way):
    force(way)
    problem = make(case).requires_grad()
    assert torch.autograd.gradcheck(lambda *_: call(ops, problem, exact_terms, "series")[:2], problem.leaves)


# Maps of any stages, as the raw ops take them: each stage on either side, two traces of the same stage, and any kernel.
STAGES = ("lipswish", "sin", "tanh")
ANY = [
    (Case("dense", (4,), (6, 5), batch=5, activations=STAGES, sample_factor=(1,)), ((0, 1), (2, -1))),
    (Case("dense", (4,), (6, 5), batch=300, activations=STAGES, probes=2), ((2, 1), (1, 2))),
    (Case("dense", (4,), (6, 5), batch=60, activations=STAGES, sample_factor=(0,)), ((1, -1), (1, -1))),
    (Case("dense", (4,), (6, 5), batch=5, activations=("relu", "lipswish"), probes=3), ((0, 0), (0, 2))),
    (Case("images", (2, 5, 7), (3, 4), (3, 5, 1), batch=5, activations=STAGES, pixel_factor=(2,)), ((0, 1), (1, -1))),
    (Case("images", (2, 3, 8), (3, 4), (3, 1, 3), batch=9, activations=STAGES, probes=2), ((2, 2), (2, 0))),
    (Case("images", (2, 4, 6), (3, 4), (5, 1, 3), batch=9, activations=STAGES, sample_factor=(0,)), ((0, -1), (1, 0))),
]


def make_maps(case, problem, any_places):
    """Maps of random numbers for the stages of traces, those of images with kernels of 1 and the largest there is."""
    maps = []
    for number, (left, right) in enumerate(any_places):
        rows = problem.weights[left].shape[1]
        if right < 0:
            shape = (rows, *case.event[1:])
        else:
            side = (max(case.kernels), 1)[number] if case.kernels else None
            shape = (rows, problem.weights[right].shape[1], *((side, side) if side else ()))
        maps.append(torch.randn(shape, generator=torch.Generator().manual_seed(number)).to(problem.x) / rows)
    return maps


def raw_traces(problem, maps, any_places, keep):
    """z, logdet and the packed gradients of a raw call."""
    v = problem.probe if problem.probe.dim() > problem.x.dim() else problem.probe[None]
    traces = {"maps": maps, "stages": [stage for place in any_places for stage in place]}
    traces |= {"coefficients": problem.coefficients}
    op, arguments = problem.raw("residual_logdet", probe=v, neumann=True, keep=keep, **traces)
    z, logdet, y, _, _, kept = op(*(None if a is None else a for a in arguments))
    grad, weight = upstream((z, logdet))
    pair = {"tangents": v, "cotangents": y, "weight": weight, "grad": grad, "kept": kept}
    op, arguments = problem.raw("branch_backward", residual=True, input_gradient=True, **pair, **traces)
    return [z, logdet, *op(*arguments)]


def traces_by_autograd(problem, maps, any_places):
    tensors = [*problem.requires_grad().leaves, *(t.requires_grad_() for t in maps)]
    first, rest = split_coefficients(problem.coefficients, len(maps))
    own = (problem.weights, problem.biases, problem.activations, problem.parameters, problem.factors)
    z, logdet = call(reference, problem._replace(coefficients=rest), 0)
    traces = torch.stack(traces_of_maps(problem.x, Stages(*own), any_places, maps), 1)
    logdet = logdet + (first * traces).sum(-1)
    got = dict(zip(map(id, tensors), gradients((z, logdet), tensors), strict=True))
    by_stage = zip(problem.weights, problem.biases, problem.parameters, problem.factors, strict=True)
    packed = [t for stage in by_stage for t in stage if t is not None] + maps
    return [z, logdet, got[id(problem.x)], torch.cat([got[id(t)].flatten() for t in packed])]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("case", "any_places"), ANY, ids=[f"{case.name}-{number}" for number, (case, _) in enumerate(ANY)]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_traces_of_any_stages(force, isa, dtype, case, any_places, way):
    run_on(isa)
    force(way)
    results = []
    for type_ in (dtype, torch.float64):
        problem = make(case, type_)
        results.append(traces_by_autograd(problem, make_maps(case, problem, any_places), any_places))
    problem = make(case, dtype)
    for keep in (False, True)[: 2 if case.probes is None else 1]:
        got = raw_traces(problem, make_maps(case, problem, any_places), any_places, keep)
        assert_within_rounding(case, got, *results)


@pytest.mark.parametrize(("case", "any_places"), [ANY[0], ANY[4]], ids=["dense", "images"])
def test_opcheck(case, any_places):
    problem = make(case, torch.float32)
    maps = make_maps(case, problem, any_places)
    traces = {"maps": maps, "stages": [stage for place in any_places for stage in place]}
    traces |= {"coefficients": problem.coefficients}
    torch.library.opcheck(*problem.raw("residual_logdet", probe=problem.probe[None], neumann=True, **traces))
    pair = {"tangents": problem.probe[None], "cotangents": problem.probe[None], "weight": torch.ones(case.batch)}
    torch.library.opcheck(*problem.raw("branch_backward", input_gradient=True, **pair, **traces))


@pytest.mark.parametrize(("case", "exact_terms"), in_closed_form(TINY))
def test_compiles(case, exact_terms):
    problem = make(case).requires_grad()
    assert_compiles(lambda: call(ops, problem, exact_terms), problem.leaves)


@pytest.mark.parametrize(("case", "exact_terms"), in_closed_form(TINY))
def test_second_derivatives_match_reference(case, exact_terms):
    problem = make(case).requires_grad()
    assert_second_derivatives_agree(
        *(lambda p=p: call(p, problem, exact_terms)[:2] for p in (ops, reference)), problem.leaves
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("case", "exact_terms"), in_closed_form(WIDE))
def test_deterministic(force, case, exact_terms, dtype, way):
    force(way)
    assert_deterministic(lambda: evaluate(ops, case, dtype, exact_terms))


# More samples than a slab holds (csrc/cpu/layerwise_walk.h), the last slab a part.
SLABS = [
    Case("alone", (3,), (2048,), batch=1100, activations=("identity", "lipswish")),
    Case("a matrix", (3,), (2048,), batch=1100, activations=("elu", "tanh"), sample_factor=(0,)),
    Case("images", (2, 5, 5), (512,), (3, 3), batch=100, activations=("identity", "elu")),
]


@pytest.mark.parametrize("case", **named(SLABS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_slabs(force, dtype, case):
    force("layers")
    check(case, dtype, 1)


def make_flow(case, dtype, exact_terms):
    """A residual flow of one block with exact terms, twice: step, tensors and draw of each."""
    problem = make(case, dtype).requires_grad()
    stages = places(case)[:exact_terms]
    maps = maps_of(stages, problem.weights, case.event[1:])
    step = Residual(tuple(problem.activations), "series", stages)
    tensors = [*problem.weights, *problem.biases, *problem.parameters, *problem.factors, *maps]
    return problem, [step] * 2, tensors * 2, [(problem.probe, problem.coefficients)] * 2


@pytest.mark.parametrize(("case", "exact_terms"), in_closed_form(CLOSED[:25]))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", WAYS)
def test_in_a_flow(force, way, dtype, case, exact_terms):
    force(way)
    results = []
    for package, type_ in ((ops, dtype), (reference, dtype), (reference, torch.float64)):
        problem, steps, tensors, draws = make_flow(case, type_, exact_terms)
        outputs = package.residual_flow(problem.x, steps, tensors, draws)
        results.append([*outputs, *gradients(outputs, problem.leaves)])
    assert_within_rounding(case, *results)


@pytest.mark.parametrize("exact_terms", [1, 2])
@pytest.mark.parametrize("kernels", [(), (1, 1)], ids=["dense", "conv"])
def test_maps_keep_float32(kernels, exact_terms):
    """Only products with weights round their operands: whole numbers of a map beyond 8 bits stay what they are."""
    image = (7, 7) if kernels else ()
    x = torch.randint(-9, 10, (5, 12, *image)).float()
    weights = [torch.randint(-3, 4, (*s, *kernels)).float().requires_grad_() for s in ((33, 12), (12, 33))]
    results = []
    for package, dtype in ((ops, torch.float32), (reference, torch.float64)):
        with torch.autocast("cpu", torch.bfloat16, enabled=package is ops):
            _, logdet = package.residual_logdet(
                x.to(dtype),
                [w.to(dtype) for w in weights],
                [None, None],
                ["identity", "relu"],
                x.to(dtype),
                [float(k + 1) for k in range(exact_terms)],
                exact_terms=exact_terms,
            )
        results.append([logdet, *torch.autograd.grad(logdet.sum(), weights)])
    # Every sum is a whole number below 2^24, and so exact.
    assert max(t.abs().max() for t in results[1]) < 2**24
    for got, want in zip(*results, strict=True):
        assert torch.equal(got.double(), want.double())
