import pytest
import torch
from comparison import RecordedOps, assert_compiles, assert_deterministic, assert_second_derivatives_agree
from layers import LAYERS, make_layers
from problems import DTYPES, ISAS, gradients, run_on

from iresnet_fast import ops, reference

ALL = list(LAYERS)
FEW = ["matrix", "same", "strides"]


def normalize(package, layers, sigmas, coeff=0.9, sigma_gradient=True):
    return package.spectral_normalize(layers.weights, sigmas, *layers[1:], coeff, sigma_gradient)


def prepare(names, dtype=torch.float64):
    """Layers after some power iterations, with gradients, and their sigmas."""
    layers = make_layers(names)
    sigmas, us, vs, _ = reference.spectral_norm(*layers, 3)
    layers = layers._replace(us=us, vs=vs)
    layers = layers._replace(**{name: [t.to(dtype) for t in getattr(layers, name)] for name in ("weights", "us", "vs")})
    for weight in layers.weights:
        weight.requires_grad_()
    return layers, sigmas.to(dtype)


def evaluate(package, names, dtype, *options):
    layers, sigmas = prepare(names, dtype)
    outputs = normalize(package, layers, sigmas, *options)
    return [*outputs, *gradients(outputs, layers.weights)]


@pytest.mark.parametrize("sigma_gradient", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_matches_reference(isa, dtype, sigma_gradient):
    """Some layers above their coefficient and some below, in one call."""
    run_on(isa)
    coeffs = [0.5 + 7.0 * (i % 3 == 0) for i in range(len(ALL))]
    for got, same, exact in zip(
        evaluate(ops, ALL, dtype, coeffs, sigma_gradient),
        evaluate(reference, ALL, dtype, coeffs, sigma_gradient),
        evaluate(reference, ALL, torch.float64, coeffs, sigma_gradient),
        strict=True,
    ):
        error, yardstick = ((t.double() - exact).abs().max().item() for t in (got, same))
        # <W, grad> sums up to 210 products, d sigma / dW up to 63: 4 sqrt(210 + 63) / 2 eps.
        assert error <= 2.0 * yardstick + 33 * torch.finfo(dtype).eps * max(1.0, exact.abs().max().item())


@pytest.mark.parametrize("package", [ops, reference])
def test_a_norm_that_is_not_a_number_is_not_hidden(package):
    layers, sigmas = prepare(["matrix"])
    assert normalize(package, layers, sigmas.fill_(torch.nan))[0].isnan().all()


@pytest.mark.parametrize("name", ALL)
def test_gradient_is_that_of_sigma_at_constant_vectors(name):
    """sigma(W) = <u, A(W) v>, by autograd through the operator."""
    layers, sigmas = prepare([name])
    outputs = normalize(ops, layers, sigmas, 0.01)
    live = reference_sigma(layers)
    torch.testing.assert_close(live.detach(), sigmas[0])
    expected = layers.weights[0] / (live / 0.01)
    torch.testing.assert_close(outputs[0], expected)
    torch.testing.assert_close(gradients(outputs, layers.weights), gradients([expected], layers.weights))


def reference_sigma(layers):
    (weight,), (u,), (v,), (place,) = layers
    if place is None:
        return u @ weight.flatten(1) @ v
    image = torch.nn.functional.conv2d(v[None], weight, None, *place[1:])
    return (u * image[0]).sum()


def test_below_the_coefficient_nothing_changes():
    layers, sigmas = prepare(FEW)
    outputs = normalize(ops, layers, sigmas, 1000.0)
    for output, weight in zip(outputs, layers.weights, strict=True):
        assert torch.equal(output, weight)
    seeds = [torch.randn_like(t) for t in outputs]
    assert all(
        torch.equal(a, b) for a, b in zip(torch.autograd.grad(outputs, layers.weights, seeds), seeds, strict=True)
    )


def test_zero_weights():
    layers, sigmas = prepare(FEW)
    for weight in layers.weights:
        weight.detach().zero_()
    outputs = normalize(ops, layers, torch.zeros_like(sigmas))
    grads = gradients(outputs, layers.weights)
    assert not any(t.any() for t in outputs)
    assert all(t.isfinite().all() for t in grads)


@pytest.mark.parametrize("names", [["matrix", "wide matrix"], ["strides"]])
def test_gradcheck(names):
    """With sigma a constant the function is linear; through sigma it is tested against autograd above."""
    layers, sigmas = prepare(names)
    assert torch.autograd.gradcheck(lambda *_: normalize(ops, layers, sigmas, 0.5, False), layers.weights)


def test_frozen_and_unused_layers():
    layers, sigmas = prepare(FEW)
    expected = gradients(normalize(ops, layers, sigmas)[1:2], layers.weights)[1]
    for weight in (layers.weights[0], layers.weights[2]):
        weight.requires_grad_(False)
    outputs = normalize(ops, layers, sigmas)
    assert torch.equal(gradients(outputs[1:2], layers.weights[1:2])[0], expected)


def test_opcheck():
    from iresnet_fast.ops.spectral_norm import flat_geometry

    layers, sigmas = prepare(FEW, torch.float32)
    weights, coeffs = [w.detach() for w in layers.weights], torch.full_like(sigmas, 0.5)
    torch.library.opcheck(torch.ops.iresnet_fast.spectral_normalize.default, (weights, sigmas, coeffs))
    arguments = (weights, weights, layers.us, layers.vs, sigmas, coeffs, flat_geometry(weights, layers.geometry), True)
    torch.library.opcheck(torch.ops.iresnet_fast.spectral_normalize_backward.default, arguments)


def test_compiles():
    layers, sigmas = prepare(FEW)
    assert_compiles(lambda: normalize(ops, layers, sigmas), layers.weights)


@pytest.mark.parametrize("dtype", DTYPES)
def test_deterministic(dtype):
    assert_deterministic(lambda: evaluate(ops, ALL, dtype))


def test_one_kernel_call_for_all_layers(monkeypatch):
    monkeypatch.setattr(reference, "spectral_normalize", None)
    with RecordedOps() as recorded:
        evaluate(ops, ALL, torch.float32)
    assert recorded.names == ["spectral_normalize", "spectral_normalize_backward"]


def test_inference_mode_and_no_grad():
    layers, sigmas = prepare(FEW)
    plain = normalize(ops, layers, sigmas)
    for guard in (torch.no_grad, torch.inference_mode):
        with guard():
            for got, want in zip(normalize(ops, layers, sigmas), plain, strict=True):
                assert torch.equal(got, want)
                assert not got.requires_grad


def test_non_contiguous_arguments():
    layers, sigmas = prepare(FEW)
    strided = [[torch.stack((t, torch.full_like(t, torch.nan)), -1)[..., 0] for t in part] for part in layers[:3]]
    outputs = ops.spectral_normalize(strided[0], sigmas, *strided[1:], layers.geometry, 0.9)
    assert all(torch.equal(a, b) for a, b in zip(outputs, normalize(ops, layers, sigmas), strict=True))
    totals = [sum(t.sum() for t in out) for out in (outputs, normalize(ops, layers, sigmas))]
    grads = [torch.autograd.grad(total, layers.weights) for total in totals]
    torch.testing.assert_close(*grads)


def test_function_transforms():
    layers, sigmas = prepare(["same"])

    def loss(weight):
        return (normalize(ops, layers._replace(weights=[weight]), sigmas)[0] ** 3).sum()

    got = torch.func.grad(loss)(layers.weights[0].detach())
    torch.testing.assert_close(got, torch.autograd.grad(loss(layers.weights[0]), layers.weights[0])[0])


def test_second_derivatives_match_reference():
    layers, sigmas = prepare(FEW)
    assert_second_derivatives_agree(
        *(lambda p=p: normalize(p, layers, sigmas, [0.5, 0.5, 100.0]) for p in (ops, reference)), layers.weights
    )


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"sigmas": torch.ones(2)}, ValueError, r"sigmas must have shape \(1,\), one per weight, got \(2,\)"),
        ({"coeff": [0.9, 0.9]}, ValueError, "coeff must be one float or 1, one per layer, got 2"),
        ({"coeff": 0.0}, ValueError, "coeff must be positive, got 0.0"),
        ({"coeff": float("nan")}, ValueError, "coeff must be positive, got nan"),
        ({"us": []}, ValueError, r"us must have one entry per weight \(1\), got 0"),
        ({"vs": [torch.ones(3).double()]}, TypeError, r"vs\[0\] must have the dtype of weights\[0\]"),
    ],
)
@pytest.mark.parametrize("package", [ops, reference], ids=["ops", "reference"])
def test_errors(package, changes, error, sentence):
    good = {
        "weights": [torch.ones(2, 3)],
        "sigmas": torch.ones(1),
        "us": [torch.ones(2)],
        "vs": [torch.ones(3)],
        "geometry": [None],
        "coeff": 0.9,
    }
    with pytest.raises(error, match=sentence):
        package.spectral_normalize(**{**good, **changes})
