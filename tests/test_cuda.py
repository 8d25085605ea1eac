"""Every op on a GPU against the plain-torch reference on the same GPU: `pytest -m cuda`."""

import pytest
import torch
from comparison import RecordedOps, assert_compiles, assert_second_derivatives_agree, assert_within_rounding
from layers import LAYERS, make_layers
from problems import CASES, DTYPES, LIPSCHITZ, TINY, Case, gradients, make, named
from trace_cases import CASES as TRACES
from trace_cases import closed, places

from iresnet_fast import ops, reference
from iresnet_fast._traces import maps_of

pytestmark = pytest.mark.cuda

# Sizes of real models, so that every way of running a branch occurs: whole samples in the shared memory of a block, one
# sample in it, and layer by layer; weights that fit beside them and weights that do not.
LARGE = [
    Case("toy", (2,), (128, 128, 128), activations=("identity", "elu"), batch=1000, terms=10),
    Case("table", (64,), (128, 128), activations=("identity", "lipswish"), batch=333, terms=5, probes=2),
    Case("wide dense", (96,), (1024, 512), activations=("softplus",), batch=130, terms=5, per_sample=True),
    Case("small images", (4, 14, 14), (32, 32), (3, 1, 3), batch=37, terms=10),
    Case("large kernels", (3, 9, 31), (16,), (7, 5), activations=("tanh",), batch=5, probes=2),
    Case("wide images", (12, 16, 16), (128, 128), (3, 1, 3), activations=("identity", "lipswish"), batch=9, terms=5),
    Case("wider than a block", (12, 16, 16), (512, 512), (3, 1, 3), batch=3, terms=3, per_sample=True),
    Case("long rows", (1, 3, 257), (33,), (3, 3), activations=("sin",), batch=2),
]
# The same of branches whose first terms are exact: traces of few and of very many numbers.
LARGE_TRACES = [
    Case("toy", (2,), (128,), batch=1000, terms=10),
    Case("table", (64,), (512,), activations=("elu", "lipswish"), batch=333, terms=5, probes=2),
    Case("three stages", (32,), (256, 128), activations=("identity", "elu", "lipswish"), batch=300, per_sample=True),
    Case("images", (4, 14, 14), (64,), (3, 3), batch=37, terms=5),
    Case("wide images", (12, 16, 16), (512,), (3, 3), activations=("identity", "lipswish"), batch=9, terms=3),
    Case("activation first", (12, 16, 16), (96,), (3, 3), activations=("lipswish", "elu"), batch=9, terms=3),
]


def branch(package, p):
    return [package.branch(p.x, *p.branch, p.parameters, factors=p.factors)]


def logdet(package, p, gradient="neumann", **options):
    return package.residual_logdet(
        p.x, *p.branch, p.probe, p.coefficients, gradient, p.parameters, factors=p.factors, **options
    )


def series(package, p):
    return logdet(package, p, "series")


def stopped(package, p):
    longer = p._replace(coefficients=p.coefficients[..., :1].expand(*p.coefficients.shape[:-1], 20))
    return logdet(package, longer, tol=0.1, lipschitz=LIPSCHITZ)


def exact(package, p):
    return package.residual_logdet_exact(p.x, *p.branch, p.parameters, factors=p.factors)


def inverse(package, p):
    # A tolerance below rounding: then only rounding is left to differ.
    tol = torch.finfo(p.x.dtype).eps / 8
    return package.residual_inverse(p.x, *p.branch, LIPSCHITZ, tol, 300, p.parameters, factors=p.factors)[:1]


OPS = {f.__name__: f for f in (branch, logdet, series, stopped, exact, inverse)}


def evaluate(function, package, case, dtype, device):
    """The outputs and the gradients of all leaves under upstream gradients that differ everywhere."""
    problem = make(case, dtype, device).requires_grad()
    outputs = function(package, problem)
    return [*outputs, *gradients(outputs, problem.leaves)]


@pytest.mark.parametrize("case", **named(CASES + LARGE))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_matches_reference(op, dtype, case, device):
    if op == "exact" and case in LARGE and case.event[0] != 2:
        pytest.skip("a Jacobian per sample is too large")
    ours, same, oracle = (
        evaluate(OPS[op], package, case, type_, device)
        for package, type_ in ((ops, dtype), (reference, dtype), (reference, torch.float64))
    )
    assert {t.device.type for t in ours if t is not None} == {torch.device(device).type}
    assert_within_rounding(case, ours, same, oracle)


@pytest.mark.parametrize("exact", **named(closed(TRACES + LARGE_TRACES)))
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_first_terms_match_reference(dtype, exact, device):
    def of(package, type_):
        terms = exact.terms
        return evaluate(lambda *given: logdet(*given, exact_terms=terms), package, exact.case, type_, device)

    ours = of(ops, dtype)
    assert_within_rounding(exact.case, ours, of(reference, dtype), of(reference, torch.float64))
    for a, b in zip(ours, of(ops, dtype), strict=True):
        assert a is b or torch.equal(a, b)


@pytest.mark.parametrize("case", **named(CASES + LARGE))
@pytest.mark.parametrize("dtype", DTYPES)
def test_information_matches_reference(dtype, case, device):
    options = {"tol": 0.1, "lipschitz": LIPSCHITZ, "return_info": True}
    got, same, oracle = (
        logdet(package, make(case._replace(terms=20), type_, device), **options)[2]
        for package, type_ in ((ops, dtype), (reference, dtype), (reference, torch.float64))
    )
    assert torch.equal(got.terms, same.terms)
    assert_within_rounding(case, *((info.norms, info.tail_bound) for info in (got, same, oracle)))


@pytest.mark.parametrize("case", **named(CASES + LARGE[3:4]))
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-3), (torch.float64, 3e-9)])
def test_each_sample_of_the_inverse_stops_by_itself(dtype, tol, case, device):
    problem = make(case, dtype, device)
    got, same = (
        package.residual_inverse(
            problem.x, *problem.branch, LIPSCHITZ, tol, 1000, problem.parameters, factors=problem.factors
        )
        for package in (ops, reference)
    )
    assert torch.equal(got[1], same[1])
    assert (got[2] / (1.0 - LIPSCHITZ) <= tol).all()


@pytest.mark.parametrize("case", **named(TINY + LARGE[:1]))
def test_a_nan_stays_in_its_sample(case, device):
    for dtype in DTYPES:
        problem = make(case, dtype, device)
        problem.x[1] = torch.nan
        for op in (branch, logdet, inverse):
            first = op(ops, problem)[0]
            assert first[1].isnan().all()
            assert first.isfinite().flatten(1).all(1).sum() == len(first) - 1


@pytest.mark.parametrize("op", ["branch", "series", "exact", "inverse"])
@pytest.mark.parametrize("case", **named(TINY))
def test_gradcheck(case, op, device):
    problem = make(case, device=device).requires_grad()
    assert torch.autograd.gradcheck(lambda *_: OPS[op](ops, problem), problem.leaves)


@pytest.mark.parametrize("op", ["branch", "logdet", "exact"])
@pytest.mark.parametrize("case", **named(TINY))
def test_second_derivatives(case, op, device):
    problem = make(case, device=device).requires_grad()
    functions = (lambda package=package: OPS[op](package, problem) for package in (ops, reference))
    assert_second_derivatives_agree(*functions, problem.leaves)


@pytest.mark.parametrize("case", **named(TINY))
def test_opcheck(case, device):
    problem = make(case, torch.float32, device)
    x = problem.x
    probe = problem.probe if problem.probe.dim() > x.dim() else problem.probe[None]
    pairs = {"tangents": probe, "cotangents": probe.clone(), "weight": x.new_ones(len(x))}
    series = {"probe": probe, "coefficients": problem.coefficients}
    for precision in (0, 1, 2):
        for op, arguments in (
            ("branch", {}),
            ("branch_backward", {"grad": x, "residual": True, "input_gradient": True, **pairs}),
            ("residual_logdet", {**series, "neumann": True}),
            ("residual_logdet", {**series, "tail": x.new_ones(case.terms), "tolerance": 0.1}),
            ("jacobian_powers", {"start": probe[0].contiguous(), "count": 2, "transpose": True}),
            ("jacobian", {}),
            ("residual_inverse", {"residual_limit": 1e-3, "max_iterations": 50}),
        ):
            torch.library.opcheck(*problem.raw(op, precision=precision, **arguments))


@pytest.mark.parametrize("exact", **named(closed(TRACES)))
def test_opcheck_of_traces(exact, device):
    problem = make(exact.case, torch.float32, device)
    x = problem.x
    pairs = places(exact.case)[: exact.terms]
    probe = problem.probe if problem.probe.dim() > x.dim() else problem.probe[None]
    given = {"maps": maps_of(pairs, problem.weights, x.shape[2:]), "stages": [i for pair in pairs for i in pair]}
    given["coefficients"] = problem.coefficients
    torch.library.opcheck(*problem.raw("residual_logdet", probe=probe, neumann=True, **given))
    given |= {"tangents": probe, "cotangents": probe.clone(), "weight": x.new_ones(len(x)), "input_gradient": True}
    torch.library.opcheck(*problem.raw("branch_backward", **given))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", **named(TINY))
def test_compiles(case, op, device):
    problem = make(case, device=device).requires_grad()
    assert_compiles(lambda: OPS[op](ops, problem), problem.leaves)


def test_compiles_with_inductor(device):
    problem = make(TINY[0], torch.float32, device).requires_grad()
    assert_compiles(lambda: logdet(ops, problem), problem.leaves, "inductor")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", **named(TINY + LARGE[:1] + LARGE[3:4]))
def test_same_bits_twice(case, op, device):
    if op == "exact" and case in LARGE[3:]:
        pytest.skip("a Jacobian per sample is too large")
    for dtype in DTYPES:
        for a, b in zip(*(evaluate(OPS[op], ops, case, dtype, device) for _ in range(2)), strict=True):
            assert a is b or torch.equal(a, b)


def test_the_kernels_are_used(device):
    problem = make(TINY[0], torch.float32, device).requires_grad()
    with RecordedOps() as recorded:
        for op in OPS.values():
            gradients(op(ops, problem), problem.leaves)
    assert set(recorded.names) >= {"branch", "branch_backward", "residual_logdet", "residual_inverse"}
    assert not {"jacobian", "residual_logdet_exact"}.isdisjoint(recorded.names)  # composed on a GPU, one op on a CPU


@pytest.mark.parametrize("n_iterations", [0, 1, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_spectral_norm_matches_reference(dtype, n_iterations, device):
    (got, same), oracle = (
        [p.spectral_norm(*make_layers(LAYERS, dtype, device), n_iterations) for p in (ops, reference)],
        reference.spectral_norm(*make_layers(LAYERS, device=device), n_iterations),
    )
    assert torch.equal(got[3], same[3])
    for a, b, c in zip(*([result[0], *result[1], *result[2]] for result in (got, same, oracle)), strict=True):
        error, yardstick = ((t.double() - c).abs().max().item() for t in (a, b))
        # As in test_spectral_norm.py: 65 eps of the largest number.
        assert error <= 2.0 * yardstick + 65 * torch.finfo(dtype).eps * c.abs().max().item()


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_iterations_of_the_spectral_norm_to_a_tolerance(dtype, tol, device):
    got, same = (p.spectral_norm(*make_layers(LAYERS, dtype, device), 200, tol) for p in (ops, reference))
    assert torch.equal(got[3], same[3])


@pytest.mark.parametrize("dtype", DTYPES)
def test_lanczos_norm_matches_reference(dtype, device):
    """All steps: sigma is the norm, for which the float64 reference needs no other rounding."""
    weights, us, vs, places = make_layers(LAYERS, dtype, device)
    hints = [v if v.numel() <= u.numel() else u for u, v in zip(us, vs, strict=True)]
    seed = torch.tensor(3, device=device)
    got, same = (p.lanczos_norm(weights, us, vs, hints, places, 60, 0.0, seed) for p in (ops, reference))
    exact = reference.lanczos_norm(
        *([t.double() for t in part] for part in (weights, us, vs, hints)), places, 60, 0.0, 3
    )
    error, yardstick = ((p.sigmas.double() - exact.sigmas).abs() for p in (got, same))
    # As in test_spectral_norm.py: 65 eps.
    assert (error <= 2.0 * yardstick + 65 * torch.finfo(dtype).eps * exact.sigmas).all()
    assert (got.residuals <= 1e-3 * got.sigmas).all()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
def test_fingerprint_matches_reference_to_the_bit(dtype, device):
    weights = [torch.randn(size, device=device).to(dtype) for size in (0, 1, 5, 1001, 100_000)]
    assert torch.equal(ops.fingerprint(weights), reference.fingerprint(weights))


@pytest.mark.parametrize("sigma_gradient", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_spectral_normalize_matches_reference(dtype, sigma_gradient, device):
    """Some layers above their coefficient and some below, in one call."""
    coeffs = [0.5 + 7.0 * (i % 3 == 0) for i in range(len(LAYERS))]
    results = []
    for package, type_ in ((ops, dtype), (reference, dtype), (reference, torch.float64)):
        weights, us, vs, places = make_layers(LAYERS, type_, device)
        sigmas = reference.spectral_norm(*make_layers(LAYERS, device=device), 3)[0].to(type_)
        leaves = [w.requires_grad_() for w in weights]
        outputs = package.spectral_normalize(leaves, sigmas, us, vs, places, coeffs, sigma_gradient)
        results.append([*outputs, *gradients(outputs, leaves)])
    for got, same, oracle in zip(*results, strict=True):
        error, yardstick = ((t.double() - oracle).abs().max().item() for t in (got, same))
        # As in test_spectral_normalize.py: 33 eps.
        assert error <= 2.0 * yardstick + 33 * torch.finfo(dtype).eps * max(1.0, oracle.abs().max().item())
