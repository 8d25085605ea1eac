import pytest
import torch
import torch.nn.functional as F

from iresnet_fast import reference
from iresnet_fast.geometry import ConvGeometry

MATRIX = ((5, 7), None)
# weight shape, geometry: odd sizes, strides that leave rows unread, padding, dilation, groups, kernels of even size
CONVOLUTIONS = [
    ((3, 2, 3, 3), ConvGeometry((5, 7), padding=(1, 1))),
    ((4, 2, 3, 3), ConvGeometry((6, 7), stride=(2, 2), padding=(1, 1))),
    ((4, 2, 3, 2), ConvGeometry((8, 9), stride=(3, 2))),
    ((2, 3, 3, 5), ConvGeometry((7, 9), padding=(2, 4), dilation=(2, 2))),
    ((4, 2, 3, 3), ConvGeometry((5, 6), stride=(2, 1), padding=(1, 0), groups=2)),
    ((3, 1, 2, 2), ConvGeometry((4, 5), stride=(2, 3), padding=(1, 1), dilation=(1, 2), groups=3)),
    ((3, 2, 1, 1), ConvGeometry((3, 3), stride=(2, 2))),
]


def _layer(shape, geometry):
    weight = torch.randn(shape, dtype=torch.float64)
    if geometry is None:
        return weight, torch.randn(shape[0], dtype=torch.float64), torch.randn(shape[1], dtype=torch.float64)
    u = torch.randn(shape[0], *geometry.output_size(shape[2:]), dtype=torch.float64)
    v = torch.randn(shape[1] * geometry.groups, *geometry.image_size, dtype=torch.float64)
    return weight, u, v


def _apply(weight, geometry, v):
    if geometry is None:
        return weight.flatten(1) @ v
    return F.conv2d(v[None], weight, None, *geometry[1:])[0]


def _matrix(weight, geometry, v):
    """The explicit matrix of the operator, one column per input element."""
    columns = [
        _apply(weight, geometry, e.view(v.shape)).flatten() for e in torch.eye(v.numel(), dtype=weight.dtype).unbind()
    ]
    return torch.stack(columns, 1)


@pytest.mark.parametrize(("shape", "geometry"), [MATRIX, *CONVOLUTIONS])
def test_sigma_is_the_largest_singular_value_of_the_operator(shape, geometry):
    weight, u, v = _layer(shape, geometry)
    expected = torch.linalg.matrix_norm(_matrix(weight, geometry, v), 2)
    sigmas, (u,), (v,), iterations = reference.spectral_norm([weight], [u], [v], [geometry], 3000)
    torch.testing.assert_close(sigmas[0], expected, rtol=1e-8, atol=0.0)
    assert iterations.tolist() == [3000]
    for vector in (u, v):
        torch.testing.assert_close(vector.norm(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(sigmas[0], (u * _apply(weight, geometry, v)).sum())


@pytest.mark.parametrize(("shape", "geometry"), [MATRIX, *CONVOLUTIONS])
def test_one_iteration_is_the_definition(shape, geometry):
    weight, u, v = _layer(shape, geometry)
    before = u.clone(), v.clone()
    sigmas, new_us, new_vs, _ = reference.spectral_norm([weight], [u], [v], [geometry])
    matrix = _matrix(weight, geometry, v)
    expected_v = F.normalize(matrix.t() @ u.flatten(), dim=0)
    expected_u = F.normalize(matrix @ expected_v, dim=0)
    torch.testing.assert_close(new_vs[0].flatten(), expected_v)
    torch.testing.assert_close(new_us[0].flatten(), expected_u)
    torch.testing.assert_close(sigmas[0], expected_u @ matrix @ expected_v)
    assert torch.equal(u, before[0])
    assert torch.equal(v, before[1])


def test_layers_of_a_list_are_independent_and_1x1_is_its_matrix():
    layers = [_layer(*MATRIX), *(_layer(*c) for c in CONVOLUTIONS)]
    geometry = [None, *(g for _, g in CONVOLUTIONS)]
    layers.append((layers[0][0][:, :, None, None], layers[0][1], layers[0][2]))
    geometry.append(None)
    weights, us, vs = map(list, zip(*layers, strict=True))
    sigmas = reference.spectral_norm(weights, us, vs, geometry, 4)[0]
    alone = [
        reference.spectral_norm([w], [u], [v], [g], 4)[0][0]
        for w, u, v, g in zip(weights, us, vs, geometry, strict=True)
    ]
    assert torch.equal(sigmas, torch.stack(alone))
    assert sigmas[0] == sigmas[-1]


def test_no_iteration_returns_the_given_vectors():
    weight, u, v = _layer(*CONVOLUTIONS[0])
    sigmas, us, vs, iterations = reference.spectral_norm([weight], [u], [v], [CONVOLUTIONS[0][1]], 0)
    assert torch.equal(us[0], u)
    assert torch.equal(vs[0], v)
    torch.testing.assert_close(sigmas[0], (u * _apply(weight, CONVOLUTIONS[0][1], v)).sum())
    assert iterations.tolist() == [0]


def test_tolerance_is_on_sigma_and_stops_each_layer_by_itself():
    # Singular values 1 and r: the first sigma is far off, and convergence takes longer the closer r is to 1.
    weights = [torch.diag(torch.tensor([1.0, r], dtype=torch.float64)) for r in (0.0, 0.5, 0.97)]
    start = [torch.tensor([0.1, 1.0], dtype=torch.float64)] * 3
    sigmas, _, _, iterations = reference.spectral_norm(weights, start, start, [None] * 3, 10_000, tol=1e-9)
    assert iterations[0] == 2
    assert 2 < iterations[1] < iterations[2] < 10_000
    torch.testing.assert_close(sigmas, torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0.0)
    assert reference.spectral_norm(weights, start, start, [None] * 3, 3, tol=1e-12)[3].tolist() == [2, 3, 3]


@pytest.mark.parametrize(("shape", "geometry"), [MATRIX, CONVOLUTIONS[0]])
def test_zero_weight_keeps_its_vectors(shape, geometry):
    weight, u, v = _layer(shape, geometry)
    sigmas, us, vs, _ = reference.spectral_norm([0 * weight], [u], [v], [geometry], 3, tol=1e-3)
    assert sigmas.tolist() == [0.0]
    assert torch.equal(us[0], u)
    assert torch.equal(vs[0], v)
    (normalised,) = reference.spectral_normalize([0 * weight], sigmas, us, vs, [geometry], 0.9)
    assert torch.equal(normalised, 0 * weight)


@pytest.mark.parametrize(("shape", "geometry"), [MATRIX, CONVOLUTIONS[1], CONVOLUTIONS[4]])
@pytest.mark.parametrize("coeff", [0.7, 1e3])
def test_normalize_value_and_gradient(shape, geometry, coeff):
    weight, u, v = _layer(shape, geometry)
    sigmas, us, vs, _ = reference.spectral_norm([weight], [u], [v], [geometry], 2)
    weight.requires_grad_()
    (normalised,) = reference.spectral_normalize([weight], sigmas, us, vs, [geometry], coeff)
    torch.testing.assert_close(normalised, weight / max(1.0, float(sigmas[0]) / coeff))
    upstream = torch.randn_like(weight)
    (grad,) = torch.autograd.grad(normalised, weight, upstream)
    sigma = (us[0] * _apply(weight, geometry, vs[0])).sum()
    (expected,) = torch.autograd.grad(weight / (sigma / coeff).clamp(min=1.0), weight, upstream)
    torch.testing.assert_close(grad, expected)


def test_sigma_gradient_can_be_switched_off():
    weight, u, v = _layer(*MATRIX)
    sigmas, us, vs, _ = reference.spectral_norm([weight], [u], [v], [None], 2)
    weight.requires_grad_()
    (normalised,) = reference.spectral_normalize([weight], sigmas, us, vs, [None], [0.5], sigma_gradient=False)
    (grad,) = torch.autograd.grad(normalised.sum(), weight)
    torch.testing.assert_close(grad, torch.ones_like(weight) * 0.5 / sigmas[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"us": []}, ValueError, r"us must have one entry per weight \(1\), got 0"),
        ({"us": [torch.ones(3)]}, ValueError, r"us\[0\] must have shape \(5,\).*got \(3,\)"),
        ({"vs": [torch.ones(7, dtype=torch.float64)]}, TypeError, r"vs\[0\] must have the dtype of weights\[0\]"),
        (
            {"geometry": [ConvGeometry((3, 3))]},
            ValueError,
            r"weights\[0\] must have shape \[out, in / groups, kh, kw\]",
        ),
        ({"weights": [torch.ones(5, 7, 3, 3)]}, ValueError, r"weights\[0\] must have shape \[out, in\]"),
        ({"weights": [torch.ones(5, 7, dtype=torch.int64)]}, TypeError, r"weights\[0\] must be a floating point"),
        ({"n_iterations": -1}, ValueError, "n_iterations must be at least 0, got -1"),
        ({"n_iterations": 1.5}, TypeError, "n_iterations must be an integer, got 1.5"),
        ({"tol": 0.0}, ValueError, "tol must be positive, got 0.0"),
    ],
)
def test_errors(change, error, message):
    arguments = {"weights": [torch.ones(5, 7)], "us": [torch.ones(5)], "vs": [torch.ones(7)], "geometry": [None]}
    with pytest.raises(error, match=message):
        reference.spectral_norm(**(arguments | change))


def test_geometry_errors():
    weight, u, v = torch.ones(2, 1, 5, 5), torch.ones(2, 0, 0), torch.ones(1, 3, 3)
    with pytest.raises(ValueError, match=r"geometry\[0\] must leave at least one output pixel"):
        reference.spectral_norm([weight], [u], [v], [ConvGeometry((3, 3))])


@pytest.mark.parametrize("coeff", [0.0, [0.9, 0.9]])
def test_normalize_errors(coeff):
    weight, u, v = torch.ones(2, 2), torch.ones(2), torch.ones(2)
    with pytest.raises(ValueError, match="coeff must be"):
        reference.spectral_normalize([weight], torch.ones(1), [u], [v], [None], coeff)
    with pytest.raises(ValueError, match=r"sigmas must have shape \(1,\)"):
        reference.spectral_normalize([weight], torch.ones(2), [u], [v], [None], 0.9)
