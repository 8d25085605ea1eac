import pytest
import torch
from comparison import RecordedOps, assert_deterministic
from layers import LAYERS, make_layers, operator_matrix
from problems import DTYPES, ISAS, run_on

from iresnet_fast import ops, reference
from iresnet_fast.geometry import ConvGeometry

ALL = list(LAYERS)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("isa", ISAS)
def test_sigma_is_the_largest_singular_value_of_the_operator(isa, name):
    """The singular vectors of the explicit matrix stay where they are; from anywhere else sigma comes from below."""
    run_on(isa)
    layers = make_layers([name])
    left, singular_values, right = torch.linalg.svd(operator_matrix(layers.weights[0], layers.geometry[0]))
    largest = singular_values[0]
    u, v = left[:, 0].view(layers.us[0].shape), right[0].view(layers.vs[0].shape)
    for n_iterations in (0, 1, 3):
        sigmas, us, vs, _ = ops.spectral_norm(layers.weights, [u], [v], layers.geometry, n_iterations)
        torch.testing.assert_close((sigmas[0], us[0], vs[0]), (largest, u, v), rtol=1e-11, atol=1e-11)
    sigmas, us, vs, _ = ops.spectral_norm(*layers, n_iterations=300)
    assert 0.99 * largest <= sigmas[0] <= largest * (1.0 + 1e-12)
    for vector in (us[0], vs[0]):
        assert vector.norm().item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("n_iterations", [0, 1, 5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_matches_reference(isa, dtype, n_iterations):
    """All layers in one call. The vectors are normalised: eps is their scale, and an iteration contracts errors."""
    run_on(isa)
    (got, same), exact = (
        [p.spectral_norm(*make_layers(ALL, dtype), n_iterations) for p in (ops, reference)],
        reference.spectral_norm(*make_layers(ALL), n_iterations),
    )
    assert torch.equal(got[3], same[3])
    assert got[3].dtype == torch.int64
    assert not got[0].requires_grad
    for a, b, c in zip(
        (got[0], *got[1], *got[2]), (same[0], *same[1], *same[2]), (exact[0], *exact[1], *exact[2]), strict=True
    ):
        assert a.shape == c.shape
        scale = c.abs().max().item()
        error, yardstick = ((t.double() - c).abs().max().item() for t in (a, b))
        # A sum of up to 105 products per number, five iterations: 4 sqrt(105 * 10) / 2 eps, in both dtypes, as the
        # largest error of so short a vector is much a matter of luck.
        assert error <= 2.0 * yardstick + 65 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_iterations_to_a_tolerance_match_reference(isa, dtype, tol):
    run_on(isa)
    got, expected = (p.spectral_norm(*make_layers(ALL, dtype), 200, tol) for p in (ops, reference))
    assert torch.equal(got[3], expected[3])
    assert got[3].unique().numel() > 1
    torch.testing.assert_close(got[0], expected[0])


@pytest.mark.parametrize("n_iterations", [1, 3])
@pytest.mark.parametrize("tol", [None, 1e-3])
@pytest.mark.parametrize("name", ["matrix", "same", "strides"])
def test_a_zero_weight_has_norm_zero_and_keeps_its_vectors(name, tol, n_iterations):
    layers = make_layers([name])
    layers.weights[0].zero_()
    for package in (ops, reference):
        sigmas, us, vs, iterations = package.spectral_norm(*layers, n_iterations, tol)
        assert sigmas.item() == 0.0
        assert tol is not None or iterations.item() == n_iterations
        assert torch.equal(us[0], layers.us[0])
        assert torch.equal(vs[0], layers.vs[0])


@pytest.mark.parametrize("name", ["matrix", "same", "strides"])
def test_a_left_vector_that_sees_nothing_does_not_hide_the_weight(name):
    """u = 0, or u orthogonal to the range of A: sigma = 0 would leave a large weight as it is."""
    layers = make_layers([name])
    layers.us[0].zero_()
    got, expected = (p.spectral_norm(*layers, 4) for p in (ops, reference))
    assert expected[0].item() > 0.1
    torch.testing.assert_close(got[0], expected[0])


@pytest.mark.parametrize("name", ["matrix", "same"])
def test_nan_weights_are_seen(name):
    layers = make_layers([name])
    layers.weights[0][0] = torch.nan
    for package in (ops, reference):
        assert package.spectral_norm(*layers, 3)[0].isnan().all()
        assert package.spectral_norm(*layers, 3, 1e-3)[0].isnan().all()


def test_the_vectors_given_are_not_changed():
    layers = make_layers(ALL)
    before = [t.clone() for t in (*layers.us, *layers.vs)]
    for n_iterations in (0, 2):
        _, us, vs, _ = ops.spectral_norm(*layers, n_iterations)
        assert all(torch.equal(a, b) for a, b in zip((*layers.us, *layers.vs), before, strict=True))
        if n_iterations == 0:
            assert all(torch.equal(a, b) for a, b in zip((*us, *vs), before, strict=True))
            assert not {t.data_ptr() for t in (*us, *vs)} & {t.data_ptr() for t in (*layers.us, *layers.vs)}


def test_non_contiguous_arguments():
    layers = make_layers(["matrix", "same", "strides"])
    strided = [[torch.stack((t, torch.full_like(t, torch.nan)), -1)[..., 0] for t in tensors] for tensors in layers[:3]]
    got, expected = ops.spectral_norm(*strided, layers.geometry, 2), ops.spectral_norm(*layers, 2)
    assert torch.equal(got[0], expected[0])
    assert all(torch.equal(a, b) for a, b in zip((*got[1], *got[2]), (*expected[1], *expected[2]), strict=True))


def test_no_layers():
    sigmas, us, vs, iterations = ops.spectral_norm([], [], [], [])
    assert (sigmas.numel(), us, vs, iterations.numel()) == (0, [], [], 0)


def test_opcheck():
    from iresnet_fast.ops.spectral_norm import flat_geometry

    layers = make_layers(["matrix", "strides"], torch.float32)
    arguments = (*layers[:3], flat_geometry(layers.weights, layers.geometry), 2, 1e-3)
    torch.library.opcheck(torch.ops.iresnet_fast.spectral_norm.default, arguments)


def test_compiles():
    layers = make_layers(ALL)
    compiled = torch.compile(
        lambda *tensors: ops.spectral_norm(*tensors, layers.geometry, 2), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(*layers[:3]), ops.spectral_norm(*layers, 2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_deterministic(dtype):
    def run():
        sigmas, us, vs, iterations = ops.spectral_norm(*make_layers(ALL, dtype), 3)
        return [sigmas, *us, *vs, iterations]

    assert_deterministic(run)


def test_one_kernel_call_for_all_layers(monkeypatch):
    monkeypatch.setattr(reference, "spectral_norm", None)
    with RecordedOps() as recorded, torch.inference_mode():
        ops.spectral_norm(*make_layers(ALL))
    assert recorded.names == ["spectral_norm"]


GOOD = {
    "weights": [torch.ones(2, 3), torch.ones(4, 1, 3, 3)],
    "us": [torch.ones(2), torch.ones(4, 5, 6)],
    "vs": [torch.ones(3), torch.ones(2, 5, 6)],
    "geometry": [None, ConvGeometry((5, 6), padding=(1, 1), groups=2)],
}


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"us": [torch.ones(2)]}, ValueError, r"us must have one entry per weight \(2\), got 1"),
        ({"geometry": [None]}, ValueError, r"geometry must have one entry per weight \(2\), got 1"),
        ({"us": [torch.ones(3), torch.ones(4, 5, 6)]}, ValueError, r"us\[0\] must have shape \(2,\) for weights\[0\]"),
        ({"vs": [torch.ones(3), torch.ones(2, 6, 5)]}, ValueError, r"vs\[1\] must have shape \(2, 5, 6\)"),
        (
            {"us": [torch.ones(2).double(), torch.ones(4, 5, 6)]},
            TypeError,
            r"us\[0\] must have the dtype of weights\[0\]",
        ),
        ({"geometry": [None, None]}, ValueError, r"weights\[1\] must have shape \[out, in\] or \[out, in, 1, 1\]"),
        (
            {"geometry": [ConvGeometry((5, 6)), None]},
            ValueError,
            r"weights\[0\] must have shape \[out, in / groups, kh, kw\]",
        ),
        (
            {"geometry": [None, ConvGeometry((5, 6), groups=3)]},
            ValueError,
            r"weights\[1\] must have shape .* with out divisible by groups = 3",
        ),
        (
            {"geometry": [None, ConvGeometry((2, 2), groups=2)]},
            ValueError,
            r"geometry\[1\] must leave at least one output",
        ),
        (
            {"weights": [torch.ones(2, 3).int(), GOOD["weights"][1]]},
            TypeError,
            r"weights\[0\] must be a floating point",
        ),
        ({"n_iterations": -1}, ValueError, "n_iterations must be at least 0, got -1"),
        ({"n_iterations": 1.0}, TypeError, "n_iterations must be an integer, got 1.0"),
        ({"tol": -1.0}, ValueError, "tol must be positive, got -1.0"),
    ],
)
@pytest.mark.parametrize("package", [ops, reference], ids=["ops", "reference"])
def test_errors(package, changes, error, sentence):
    with pytest.raises(error, match=sentence):
        package.spectral_norm(**{**GOOD, **changes})
