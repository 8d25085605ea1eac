import math

import pytest
import torch
from comparison import RecordedOps, assert_deterministic
from lanczos_cases import adversarial, arguments, gap, of_matrix, tensors
from layers import LAYERS, operator_matrix
from problems import DTYPES, ISAS, run_on

from iresnet_fast import ops, reference
from iresnet_fast.geometry import ConvGeometry
from iresnet_fast.ops.spectral_norm import flat_geometry

ALL = list(LAYERS)
PACKAGES = pytest.mark.parametrize("package", [ops, reference], ids=["ops", "reference"])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("isa", ISAS)
def test_sigma_is_the_largest_singular_value_of_the_operator(isa, name):
    """And u, v belong to it: A v = sigma u, A^T u = sigma v."""
    run_on(isa)
    weights, us, vs, companions, geometry = arguments([name])
    matrix = operator_matrix(weights[0], geometry[0])
    largest = torch.linalg.matrix_norm(matrix, 2)
    result = ops.lanczos_norm(weights, us, vs, companions, geometry, 1000, 1e-9)
    u, v = result.us[0].flatten(), result.vs[0].flatten()
    torch.testing.assert_close(result.sigmas[0], largest, rtol=1e-12, atol=0.0)
    assert result.residuals[0] <= 1e-8 * largest
    for vector in (u, v):
        assert vector.norm().item() == pytest.approx(1.0, rel=1e-12)
    torch.testing.assert_close(matrix @ v, largest * u, rtol=0.0, atol=1e-8)
    torch.testing.assert_close(matrix.t() @ u, largest * v, rtol=0.0, atol=1e-8)
    assert [t.shape for t in (result.us[0], result.vs[0], result.companions[0])] == [
        t.shape for t in (us[0], vs[0], companions[0])
    ]


@pytest.mark.parametrize("n_iterations", [1, 2, 5, 14])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("isa", ISAS)
def test_numbers_are_those_of_the_vectors(isa, name, n_iterations):
    """Converged or not, sigma is attained by the shorter vector and the residual is that of the pair."""
    run_on(isa)
    weights, us, vs, companions, geometry = arguments([name])
    matrix = operator_matrix(weights[0], geometry[0])
    result = ops.lanczos_norm(weights, us, vs, companions, geometry, n_iterations, 1e-9)
    u, v = result.us[0].flatten(), result.vs[0].flatten()
    if v.numel() > u.numel():
        matrix, u, v = matrix.t(), v, u
    sigma = (matrix @ v).norm()
    torch.testing.assert_close(result.sigmas[0], sigma)
    torch.testing.assert_close(matrix @ v, sigma * u)
    torch.testing.assert_close(
        result.residuals[0], (matrix.t() @ u - sigma * v).norm(), rtol=1e-6, atol=1e-13 * float(sigma)
    )
    assert sigma <= torch.linalg.matrix_norm(matrix, 2) * (1.0 + 1e-14)
    assert 1 <= result.iterations.item() <= n_iterations
    companion = result.companions[0].flatten()
    assert companion.norm().item() == pytest.approx(1.0, rel=1e-12) or not companion.any()
    assert abs(companion @ v) <= 1e-10


@pytest.mark.parametrize("name", adversarial())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_adversarial_matrices(isa, dtype, name):
    """From nothing, and from the second singular vectors, which power iteration never leaves.

    From there a norm larger by g, of which the vector has a share of 0.5 / sqrt(n) or so, is seen down to a residual of
    2 g times this share: 1e-6 finds g = 1e-4 in all but unlucky draws, and smaller ones need not be found here.
    """
    run_on(isa)
    matrix = adversarial()[name].to(dtype)
    left, values, right = torch.linalg.svd(matrix.double())
    starts = [{}, {"u": left[:, 1].to(dtype), "v": right[1].to(dtype)}]
    starts.append({"v": torch.full((matrix.shape[1],), torch.nan, dtype=dtype), "companion": right[-1].to(dtype)})
    for start in starts:
        for seed in range(5):
            result = of_matrix(matrix, **start, n_iterations=1000, tol=1e-6, seed=seed)
            assert result.sigmas.item() == pytest.approx(values[0].item(), rel=1.01e-4)
            assert result.residuals.item() <= (1e-5 if dtype == torch.float32 else 1.01e-6) * values[0]


@pytest.mark.parametrize("isa", ISAS)
def test_a_tight_tolerance_is_reached(isa):
    """Over many bases: each goes on where the one before ended."""
    run_on(isa)
    for relative in (1e-2, 1e-3, 1e-4):
        result = of_matrix(gap(relative, 300), n_iterations=1000, tol=1e-6)
        assert result.residuals.item() <= 1.1e-6
        assert result.sigmas.item() == pytest.approx(1.0, rel=1e-9)
        assert result.iterations.item() <= 300


@PACKAGES
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_value_that_overtakes_is_found_through_the_companion(package, dtype):
    """The second value grows from 0.9 of the first to 1.05; after every change of 1 % one call sees the norm."""
    size = 50
    matrix = gap(0.1, size)
    left, values, right = torch.linalg.svd(matrix)
    hints = [left[:, 0], right[0], torch.zeros(size, dtype=torch.float64)]
    for step in range(16):
        values[1] = 0.9 + 0.01 * step
        weight = (left * values @ right).to(dtype)
        us, vs, companions = ([hint.to(dtype)] for hint in hints)
        result = package.lanczos_norm([weight], us, vs, companions, [None], 12, 1e-3, seed=step)
        assert values.max() <= (result.sigmas.item() + result.residuals.item()) * (1.0 + 1e-3)
        hints = [t[0].double() for t in (result.us, result.vs, result.companions)]


@pytest.mark.parametrize("n_iterations", [1, 3, 6])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_matches_reference(isa, dtype, n_iterations):
    """All layers in one call.

    Fewer steps than a look at convergence needs: so both take the same number, but where the subspace is invariant, and
    that is a comparison with rounding errors. Then, and where two Ritz values are near, vectors may differ.
    """
    run_on(isa)
    got, same = (p.lanczos_norm(*arguments(ALL, dtype), n_iterations, 1e-3, 5) for p in (ops, reference))
    exact = reference.lanczos_norm(*arguments(ALL), n_iterations, 1e-3, 5)
    eps = torch.finfo(dtype).eps
    assert got.iterations.dtype == torch.int64
    assert not any(t.requires_grad for t in tensors(got))
    for a, b, c in zip(tensors(got), tensors(same), tensors(exact), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, c.shape)
    for i, name in enumerate(ALL):
        # Sums of up to 105 products, as in test_spectral_norm.py, in n steps and two products more.
        floor = 65 * eps * exact.sigmas[i].item()
        for part in ("sigmas", "residuals"):
            error, yardstick = (abs(getattr(p, part)[i].item() - getattr(exact, part)[i].item()) for p in (got, same))
            assert error <= 2.0 * yardstick + floor, (name, part)


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_iterations_to_a_tolerance_match_reference(isa, dtype, tol):
    run_on(isa)
    matrices = [gap(relative, size).to(dtype) for relative, size in ((0.3, 50), (0.05, 40), (0.01, 90), (0.02, 35))]
    us, vs = ([t.new_zeros(t.shape[k]) for t in matrices] for k in (0, 1))
    got, expected = (p.lanczos_norm(matrices, us, vs, vs, [None] * 4, 500, tol) for p in (ops, reference))
    assert torch.equal(got.iterations, expected.iterations)
    assert got.iterations.unique().numel() > 1
    torch.testing.assert_close(got.sigmas, expected.sigmas)
    for i, sigma in enumerate(got.sigmas):
        assert got.residuals[i] <= 1.01 * tol * sigma
        vectors = [(getattr(p, part)[i]) for part in ("us", "vs", "companions") for p in (got, expected)]
        for a, b in zip(vectors[::2], vectors[1::2], strict=True):
            torch.testing.assert_close(a, b, rtol=0.0, atol=1e-3 if dtype == torch.float32 else 1e-7)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e16, 1e30])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_tiny_and_huge_weights(isa, dtype, scale):
    run_on(isa)
    plain, scaled = arguments(ALL, dtype), arguments(ALL, dtype)
    scaled[0] = [w * scale for w in scaled[0]]
    small, result = ops.lanczos_norm(*plain, 40, 1e-3), ops.lanczos_norm(*scaled, 40, 1e-3)
    torch.testing.assert_close(result.sigmas / scale, small.sigmas)
    torch.testing.assert_close(result.residuals / scale, small.residuals, rtol=1e-2, atol=1e-5)


def test_a_layer_gets_the_same_bits_alone_and_in_a_group():
    """So ranks may share layers out, and evaluation depends on the weight alone."""
    given = arguments(["matrix", "same", "strides", "wide matrix"])
    together = ops.lanczos_norm(*given, 9)
    for i in range(4):
        alone = ops.lanczos_norm(*([part[i]] for part in given), 9)
        for whole, part in zip(together, alone, strict=True):
            assert torch.equal(whole[i], part[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_opcheck_and_compile(threads):
    torch.set_num_threads(threads)
    given = arguments(["matrix", "strides"], torch.float32)
    raw = torch.ops.iresnet_fast.lanczos_norm.default
    geometry = flat_geometry(given[0], given[4])
    torch.library.opcheck(raw, (*given[:4], torch.zeros(1, dtype=torch.int64), geometry, 9, 1e-3))
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *t: ops.lanczos_norm(t[:2], t[2:4], t[4:6], t[6:8], given[4], 9, 1e-3, t[8]),
        fullgraph=True,
        backend="aot_eager",
    )
    flat = [t for part in given[:4] for t in part]
    for seed in (0, 1):
        got, expected = compiled(*flat, torch.tensor(seed)), ops.lanczos_norm(*given, 9, 1e-3, seed)
        torch.testing.assert_close(tensors(got), tensors(expected))


def test_one_kernel_call_for_all_layers(monkeypatch):
    monkeypatch.setattr(reference, "lanczos_norm", None)
    with RecordedOps() as recorded, torch.inference_mode():
        ops.lanczos_norm(*arguments(ALL))
    assert recorded.names == ["lanczos_norm"]


@PACKAGES
def test_no_layers(package):
    result = package.lanczos_norm([], [], [], [], [])
    assert [len(part) for part in result] == [0] * 6


@pytest.mark.parametrize("dtype", DTYPES)
def test_deterministic(dtype):
    """Few steps: vectors of near Ritz values turn by more than rounding between instruction sets."""
    assert_deterministic(lambda: tensors(ops.lanczos_norm(*arguments(["matrix", "same", "strides"], dtype), 3))[:2])


GOOD = {
    "weights": [torch.ones(2, 3), torch.ones(4, 1, 3, 3)],
    "us": [torch.ones(2), torch.ones(4, 5, 6)],
    "vs": [torch.ones(3), torch.ones(2, 5, 6)],
    "companions": [torch.ones(2), torch.ones(2, 5, 6)],
    "geometry": [None, ConvGeometry((5, 6), padding=(1, 1), groups=2)],
}


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"us": [torch.ones(2)]}, ValueError, r"us must have one entry per weight \(2\), got 1"),
        ({"companions": [torch.ones(2)]}, ValueError, r"companions must have one entry per weight \(2\), got 1"),
        (
            {"companions": [torch.ones(3), torch.ones(2, 5, 6)]},
            ValueError,
            r"companions\[0\] must have the shape of us\[0\], the shorter vector, \(2,\), got \(3,\)",
        ),
        (
            {"companions": [torch.ones(2), torch.ones(4, 5, 6)]},
            ValueError,
            r"companions\[1\] must have the shape of vs\[1\], the shorter vector, \(2, 5, 6\), got \(4, 5, 6\)",
        ),
        (
            {"companions": [torch.ones(2).double(), torch.ones(2, 5, 6)]},
            TypeError,
            r"companions\[0\] must have the dtype of weights\[0\]",
        ),
        ({"n_iterations": 0}, ValueError, "n_iterations must be at least 1, got 0"),
        ({"n_iterations": 1.0}, TypeError, "n_iterations must be an integer, got 1.0"),
        ({"tol": -1e-3}, ValueError, "tol must not be negative, got -0.001"),
        ({"tol": math.nan}, ValueError, "tol must not be negative, got nan"),
        ({"seed": 1.0}, TypeError, "seed must be an integer of 64 bits or a tensor of one, got 1.0"),
        ({"seed": 2**63}, TypeError, "seed must be an integer of 64 bits"),
        ({"seed": torch.zeros(2).long()}, ValueError, r"seed must be an int64 tensor of one element .* shape \(2,\)"),
        ({"seed": torch.zeros(())}, ValueError, "seed must be an int64 tensor of one element .* got torch.float32"),
    ],
)
@PACKAGES
def test_errors(package, changes, error, sentence):
    with pytest.raises(error, match=sentence):
        package.lanczos_norm(**{**GOOD, **changes})
