import pytest
import torch
from comparison import assert_within_rounding
from problems import DTYPES, LIPSCHITZ, Case, make, named

from iresnet_fast import reference
from iresnet_fast.reference.branch import linearize, stacked_linear, vector_jacobian_product
from iresnet_fast.reference.series import over_events, sample_dot, sample_norm, signed_coefficients, tail_factors

from . import chain_cases, operands, resident
from .branches import CASES, FEW, IMAGES, PRECISIONS, TENSOR, probes_of, run
from .resident import Shape
from .rounding import rounded

ROUNDING = {"tf32": 2.0**-11, "bf16": 2.0**-8}
# Fills whole tiles: rows of more than one block, columns of more than one tile.
FULL = Case("full tiles", (32, 12, 12), (128,), (1, 1), activations=("relu",), batch=1, terms=2)
PACKED = [  # tiles of 16, 32 or 64 columns, FFMA or tensor cores; a stage without derivatives
    (Shape((5, 33, 7, 5), 9), {"terms": 3, "identity": (1,)}),
    (Shape((70, 130, 70), 140), {"terms": 2}),
    (Shape((4, 32, 32, 4), 3, (3, 1, 3), (7, 7)), {"terms": 2, "probes": 2, "per_sample": True}),
]
STOPPING = [
    Case("dense", (5,), (33,), batch=140, activations=("elu",), terms=12, probes=2),
    Case("image", (3, 12, 13), (5,), (3, 1), batch=3, activations=("tanh",), terms=12, per_sample=True),
    Case("one stage", (2, 13, 11), kernels=(3,), batch=3, activations=("sin",), terms=12),
]


def series(problem, tail=None, tolerance=0.0, relative=False):
    """Return z, value [m, B], neumann, norms, terms of the series with frozen derivatives and the stop per item."""
    g, derivatives = linearize(problem.x, *problem.branch, problem.parameters, problem.factors)
    v, ndim = probes_of(problem), problem.x.dim() - 1
    c = signed_coefficients(problem.coefficients)  # [n, B or 1]
    length = sample_norm(v, ndim)
    limit = tolerance * length if relative else tolerance / length
    w, value, norms = v, torch.zeros_like(length), length
    y = torch.zeros_like(v) if not len(c) else over_events(c[0], problem.x) * v
    active, terms = torch.ones_like(length, dtype=torch.bool), torch.zeros_like(length, dtype=torch.int64)
    for k in range(1, len(c) + 1):
        w = vector_jacobian_product(w, problem.weights, derivatives)
        norm = sample_norm(w, ndim)
        value = torch.where(active, value + c[k - 1] / k * sample_dot(w, v, ndim), value)
        norms, terms = torch.where(active, norm, norms), torch.where(active, k, terms)
        if k < len(c):
            if tail is not None:
                active = active & ~(norm * tail[k - 1] <= limit)
            y = torch.where(over_events(active, problem.x), y + over_events(c[k], problem.x) * w, y)
    return problem.x + g, value, y, norms, terms


def chain(emulator, problem, tail=None, tolerance=0.0, relative=False, **target):
    """The same from the kernels."""
    arguments = probes_of(problem), problem.coefficients, tail, tolerance, relative, True
    return run(emulator, operands.residual_logdet, problem, *arguments, variant="layered_residual_logdet", **target)


def powers(emulator, problem, transpose, **target):
    arguments = probes_of(problem)[0], problem.coefficients.shape[-1], transpose
    return run(emulator, operands.jacobian_powers, problem, *arguments, variant="layered_jacobian_powers", **target)


def expected_powers(problem, transpose):
    derivatives = linearize(problem.x, *problem.branch, problem.parameters, problem.factors)[1]
    w, result = probes_of(problem)[:1], []
    for _ in range(problem.coefficients.shape[-1]):
        if transpose:
            w = vector_jacobian_product(w, problem.weights, derivatives)
        else:
            for weight, d in zip(problem.weights, derivatives, strict=True):
                w = stacked_linear(w if d is None else w * d, weight)
        result.append(w[0])
    return torch.stack(result)


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
def test_series_matches_reference(emulator, dtype, case):
    problem = make(case, dtype)
    got = chain(emulator, problem, card="h100" if case in FEW else "single")
    assert_within_rounding(case, got[:4], series(problem)[:4], series(make(case))[:4])
    assert (got[4] == case.terms).all()


@pytest.mark.parametrize("per_sample", [False, True])
def test_sums_of_terms_are_finished_sixteen_at_a_time(emulator, per_sample):
    case = Case("many terms", (3, 4, 7), (5,), (3, 1), batch=3, activations=("tanh",), terms=19, probes=2)
    problem = make(case._replace(per_sample=per_sample))
    got, exact = chain(emulator, problem, card="h100"), series(problem)
    finished = [launch for launch in emulator.launches if launch.kernel.startswith("finish_terms_kernel")]
    assert len(finished) == 2
    assert_within_rounding(case, got[:4], exact[:4], exact[:4])
    assert (got[4] == case.terms).all()


@pytest.mark.parametrize(("shape", "options"), PACKED, ids=str)
@pytest.mark.parametrize("precision", [resident.FULL, resident.TF32, resident.BF16])
def test_series_of_packed_operands(emulator, precision, shape, options):
    """With the operands of a resident chain: so the two ways are timed alike."""
    problem = chain_cases.Problem(shape, **options).rounded(torch.float32)
    got, _ = chain_cases.run(
        emulator, problem, torch.float32, powers=False, choice=resident.LAYERED, precision=precision
    )
    exact, same = problem.solve(torch.float64), problem.solve(torch.float32)
    chain_cases.assert_series(problem, got, same, exact, precision)


@pytest.mark.parametrize("case", **named(STOPPING))
@pytest.mark.parametrize("relative", [False, True])
def test_items_stop_where_the_reference_stops(emulator, relative, case):
    problem = make(case)
    tail = problem.x.new_tensor(tail_factors(LIPSCHITZ, case.terms))
    tolerance = between_items(problem, tail, relative, k=3)
    exact = series(problem, tail, tolerance, relative)
    assert (exact[4] == 3).any()
    assert (exact[4] > 3).any()
    got = chain(emulator, problem, tail, tolerance, relative, card="single")
    assert torch.equal(got[4], exact[4])
    assert_within_rounding(case, got[:4], exact[:4], exact[:4])


def between_items(problem, tail, relative, k):
    """Return a tolerance that some items meet after term k, and others do not."""
    norms = series(problem._replace(coefficients=problem.coefficients[..., :k].contiguous()))[3]
    length = sample_norm(probes_of(problem), problem.x.dim() - 1)
    needed = (norms * tail[k - 1] * (1 / length if relative else length)).flatten().sort().values
    return needed[len(needed) // 2 - 1 : len(needed) // 2 + 1].mean().item()


@pytest.mark.parametrize("relative", [False, True])
def test_an_item_that_is_no_number_never_stops(emulator, relative):
    """Nor does it change another."""
    case = STOPPING[0]
    problem = make(case)
    tail = problem.x.new_tensor(tail_factors(LIPSCHITZ, case.terms))
    tolerance = between_items(problem, tail, relative, k=3)
    clean = chain(emulator, problem, tail, tolerance, relative, card="single")
    problem.probe[1, 7, 2] = torch.nan
    got = chain(emulator, problem, tail, tolerance, relative, card="single")
    assert got[4][1, 7] == case.terms
    assert all(got[i][1, 7].isnan().all() for i in (1, 3))
    others = torch.ones_like(got[4], dtype=torch.bool)
    others[1, 7] = False
    assert all(torch.equal(a[others], b[others]) for a, b in zip(got[1:], clean[1:], strict=True))


def test_no_terms(emulator):
    case = CASES[2]
    problem = make(case)._replace(coefficients=torch.empty(0, dtype=torch.float64))
    got, exact = chain(emulator, problem), series(problem)
    assert_within_rounding(case, got[:4], exact[:4], exact[:4])
    assert not got[4].any()


@pytest.mark.parametrize("case", **named(FEW))
@pytest.mark.parametrize("transpose", [False, True])
def test_powers_match_reference(emulator, transpose, case):
    for dtype in DTYPES:
        problem = make(case, dtype)
        got = powers(emulator, problem, transpose, card="single")
        assert_within_rounding(
            case, [got], [expected_powers(problem, transpose)], [expected_powers(make(case), transpose)]
        )


@pytest.mark.parametrize("case", **named([CASES[2], IMAGES[1]]))
def test_unit_probes_give_the_jacobian(emulator, case):
    problem = make(case)
    got = run(emulator, operands.jacobian, problem, variant="layered_jacobian")
    size = problem.x[0].numel()
    derivatives = linearize(problem.x, *problem.branch, problem.parameters, problem.factors)[1]
    units = torch.eye(size, dtype=torch.float64).view(size, 1, *case.event).expand(size, *problem.x.shape)
    rows = vector_jacobian_product(units, problem.weights, derivatives).flatten(2).movedim(0, 1)
    assert_within_rounding(case, [got], [rows], [rows])


@pytest.mark.parametrize("case", **named(TENSOR))
@pytest.mark.parametrize("precision", ROUNDING)
def test_tensor_cores_round_only_operands(emulator, precision, case):
    """Every product of the chain rounds two operands, in the forward pass and in the terms."""
    problem = make(case, torch.float32)
    got = chain(emulator, problem, card="single", precision=PRECISIONS[precision])
    n_products = (len(case.hidden) + 1) * (case.terms + 1)
    for a, exact in zip(got[1:4], series(make(case))[1:4], strict=True):
        assert (a - exact).abs().max() <= 2 * n_products * ROUNDING[precision] * max(1.0, exact.abs().max())


@pytest.mark.parametrize(
    "case", **named([Case("dense", (37,), batch=140), Case("image", (5, 6, 7), kernels=(3,), batch=3, probes=2)])
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_operands_of_products_are_rounded(emulator, precision, case):
    """Of a linear stage they are known: weights, v and x. What is read besides is exact: v, w_1 and J v."""
    problem = make(case._replace(activations=("identity",), terms=2), torch.float32)
    target = {"card": "single", "precision": PRECISIONS[precision]}
    z, _, neumann, *_ = chain(emulator, problem, **target)
    one_term = problem._replace(coefficients=problem.coefficients[:1].contiguous())
    _, value, _, norms, _ = chain(emulator, one_term, **target)
    powers_of = [powers(emulator, one_term, transpose, **target)[0] for transpose in (False, True)]
    twins = (linear_twin(problem, precision, dtype) for dtype in (torch.float32, torch.float64))
    assert_within_rounding(case, [z, neumann, value, norms, *powers_of], *twins)


def linear_twin(problem, precision, dtype):
    """Return z, the Neumann vector of two terms, value and norm of one, and J v and J^T v of the first probe."""
    w, x, v = (rounded(t, PRECISIONS[precision]).to(dtype) for t in (problem.weights[0], problem.x, probes_of(problem)))
    exact, c = probes_of(problem).to(dtype), signed_coefficients(problem.coefficients).to(dtype).flatten()
    pulled, ndim = vector_jacobian_product(v, [w], [None]), problem.x.dim() - 1
    z = problem.x.to(dtype) + reference.branch(x, [w], [problem.biases[0].to(dtype)], problem.activations)
    value, norm = c[0] * sample_dot(pulled, exact, ndim), sample_norm(pulled, ndim)
    return z, c[0] * exact + c[1] * pulled, value, norm, stacked_linear(v[:1], w)[0], pulled[0]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_memory_is_used_well(checker, precision):
    with checker.counting() as counters:
        chain(checker, make(FULL, torch.float32), card="single", precision=PRECISIONS[precision])
    # Global memory: only sectors that are used whole.
    for file in ("product_fetch.cuh", "chain_step.cuh:4", "rows.cuh"):
        traffic = counters.total("read", "global", file)
        assert traffic.sectors * 32 == traffic.bytes > 0
    for file in ("activate.cuh", "chain_step.cuh", "rows.cuh"):
        traffic = counters.total("write", "global", file)
        assert traffic.sectors * 32 == traffic.bytes > 0
    # Shared memory: no conflict.
    # A pass over the banks serves 128 bytes; lanes of a vector tile share what they read.
    for file in ("product_fetch.cuh", "product.cuh"):
        stores = counters.total("write", "shared", file)
        assert stores.wavefronts * 128 == stores.bytes > 0
    loads = counters.total("read", "shared", "tile.cuh")
    assert loads.wavefronts == loads.requests * 4 > 0
    sums = counters.total("read", "shared", "product.cuh")
    assert sums.wavefronts * 128 == sums.bytes > 0
