"""The log-determinant of the reference against autograd and slogdet in float64, and its flavours against each other."""

import math

import pytest
import torch

from iresnet_fast import activations as registry
from iresnet_fast import reference
from iresnet_fast.reference import functional
from iresnet_fast.reference.branch import evaluate
from iresnet_fast.reference.series import tail_factors

ACTIVATIONS = list(registry.REGISTRY)
ELEMENTWISE = [name for name in ACTIVATIONS if name != "maxmin"]


def make_branch(kind, activation, batch=3, requires_grad=True, lipschitz=0.8):
    """Return x, weights, biases, activations, parameters of a contractive float64 branch with one bias missing."""
    if kind == "dense":
        shapes, event = ((6, 4), (6, 6), (4, 6)), (4,)
    else:
        shapes, event = ((4, 2, 3, 3), (4, 4, 1, 1), (2, 4, 3, 3)), (2, 3, 4)
    weights = [torch.randn(s, dtype=torch.float64) for s in shapes]
    # |conv| <= k |W as a matrix|, so every layer has norm at most lipschitz^(1/3).
    weights = [
        w * lipschitz ** (1 / 3) / torch.linalg.matrix_norm(w.flatten(1), 2) / (1 if w.dim() == 2 else w.shape[-1])
        for w in weights
    ]
    biases = [torch.randn(s[0], dtype=torch.float64) for s in shapes]
    parameters = None
    if registry.get(activation).has_parameter:
        parameters = [None, torch.tensor(0.7, dtype=torch.float64), torch.tensor([-0.2], dtype=torch.float64)]
    x = torch.randn(batch, *event, dtype=torch.float64)
    for tensor in (x, *weights, *biases, *(parameters or ())):
        if tensor is not None:
            tensor.requires_grad_(requires_grad)
    biases[1] = None
    return x, weights, biases, ["identity", activation, activation], parameters


def leaves(x, weights, biases, parameters):
    return [t for t in (x, *weights, *biases, *(parameters or ())) if t is not None]


def gradients(z, logdet, tensors, seed=1):
    """Gradients under a random, per-sample different upstream."""
    generator = torch.Generator().manual_seed(seed)
    gz = torch.randn(z.shape, dtype=z.dtype, generator=generator)
    gl = torch.randn(logdet.shape, dtype=z.dtype, generator=generator)
    return torch.autograd.grad((z * gz).sum() + (logdet * gl).sum(), tensors, allow_unused=True, materialize_grads=True)


def jacobians(x, weights, biases, activations, parameters):
    def one(sample):
        return evaluate(sample[None], weights, biases, activations, parameters)[0]

    d = x[0].numel()
    return torch.stack([torch.autograd.functional.jacobian(one, s, create_graph=True).reshape(d, d) for s in x])


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_exact_matches_slogdet_of_the_jacobian(kind, activation):
    x, w, b, a, p = make_branch(kind, activation)
    z, logdet = reference.residual_logdet_exact(x, w, b, a, p)
    jacobian = jacobians(x, w, b, a, p)
    expected = torch.linalg.slogdet(torch.eye(jacobian.shape[-1], dtype=x.dtype) + jacobian)[1]
    torch.testing.assert_close(logdet, expected)
    torch.testing.assert_close(z, x + reference.branch(x, w, b, a, p))
    tensors = leaves(x, w, b, p)
    expected_z = x + evaluate(x, w, b, a, p)
    for got, want in zip(gradients(z, logdet, tensors), gradients(expected_z, expected, tensors), strict=True):
        torch.testing.assert_close(got, want)
    for guard in (torch.no_grad, torch.inference_mode):
        with guard():
            torch.testing.assert_close(reference.residual_logdet_exact(x, w, b, a, p)[1], expected)


def test_exact_of_any_callable_matches_the_branch():
    x, w, b, a, p = make_branch("conv", "elu")
    z, logdet = functional.logdet_exact_of(lambda h: evaluate(h, w, b, a, p), x, w)
    expected = reference.residual_logdet_exact(x, w, b, a, p)
    tensors = leaves(x, w, b, p)
    torch.testing.assert_close((z, logdet), expected)
    torch.testing.assert_close(gradients(z, logdet, tensors), gradients(*expected, tensors))


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_many_terms_and_every_unit_probe_give_the_exact_value(kind):
    x, w, b, a, p = make_branch(kind, "elu", requires_grad=False, lipschitz=0.6)
    d = x[0].numel()
    # The mean of d times the probes e_i e_i^T is the trace: no randomness is left.
    probes = math.sqrt(d) * torch.eye(d, dtype=x.dtype).view(d, 1, *x.shape[1:]).expand(d, *x.shape)
    exact = reference.residual_logdet_exact(x, w, b, a, p)[1]
    for function in (reference.residual_logdet, reference.residual_logdet_explicit):
        torch.testing.assert_close(function(x, w, b, a, probes, [1.0] * 60)[1], exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("activation", ELEMENTWISE)
@pytest.mark.parametrize(("n_probes", "per_sample"), [(None, False), (None, True), (3, True)])
def test_flavours_agree(kind, activation, n_probes, per_sample):
    x, w, b, a, p = make_branch(kind, activation)
    probe = torch.randn(*([] if n_probes is None else [n_probes]), *x.shape, dtype=x.dtype)
    q = torch.rand(*([3] if per_sample else []), 6, dtype=x.dtype)
    tensors = leaves(x, w, b, p)
    neumann = reference.residual_logdet(x, w, b, a, probe, q, parameters=p)
    series = reference.residual_logdet(x, w, b, a, probe, q, "series", parameters=p)
    explicit = reference.residual_logdet_explicit(x, w, b, a, probe, q, parameters=p)
    watched = reference.residual_logdet(x, w, b, a, probe, q, parameters=p, return_info=True)[:2]
    torch.testing.assert_close(series, neumann)
    torch.testing.assert_close(explicit, neumann)
    expected = gradients(*neumann, tensors)
    torch.testing.assert_close(gradients(*explicit, tensors), expected)
    torch.testing.assert_close(gradients(*watched, tensors), expected)


@pytest.mark.parametrize("activation", ["elu", "lipswish", "maxmin"])
@pytest.mark.parametrize("gradient", ["neumann", "series"])
def test_gradient_is_the_one_defined(activation, gradient):
    x, w, b, a, p = make_branch("dense", activation)
    v, q = torch.randn_like(x).detach(), torch.rand(5, dtype=x.dtype)
    z, logdet = reference.residual_logdet(x, w, b, a, v, q, gradient, p)
    jacobian = jacobians(x, w, b, a, p)
    chain = [v]
    for _ in range(5):
        chain.append(torch.einsum("bij,bi->bj", jacobian, chain[-1]))
    value = sum(q[k - 1] * (-1) ** (k + 1) / k * (chain[k] * v).sum(-1) for k in range(1, 6))
    torch.testing.assert_close(logdet, value)
    if gradient == "neumann":
        y = sum((-1) ** k * q[k] * chain[k].detach() for k in range(5))
        value = torch.einsum("bi,bij,bj->b", y, jacobian, v)
    tensors = leaves(x, w, b, p)
    torch.testing.assert_close(
        gradients(z, logdet, tensors), gradients(x + evaluate(x, w, b, a, p), value, tensors), check_stride=False
    )


def test_gradcheck_of_the_series():
    x, w, b, a, p = make_branch("dense", "lipswish", batch=2)
    v = torch.randn_like(x).detach()

    def function(x, w0, w1, w2, b0, b2, p1, p2):
        return reference.residual_logdet(
            x, [w0, w1, w2], [b0, None, b2], a, v, [1.0, 1.0, 1.0], "series", [None, p1, p2]
        )

    assert torch.autograd.gradcheck(function, (x, *w, b[0], b[2], *p[1:]))


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_gradcheck_of_the_explicit_formula_for_one_term(kind):
    # With one term y = v is constant, so the Neumann gradient is the gradient of the value.
    x, w, b, a, p = make_branch(kind, "lipswish", batch=2)
    v = torch.randn(2, *x.shape, dtype=x.dtype)

    def function(x, w0, w1, w2, b0, b2, p1, p2):
        return reference.residual_logdet_explicit(x, [w0, w1, w2], [b0, None, b2], a, v, [1.0], [None, p1, p2])

    assert torch.autograd.gradcheck(function, (x, *w, b[0], b[2], *p[1:]))


@pytest.mark.parametrize("function", [reference.residual_logdet, reference.residual_logdet_explicit])
def test_neumann_gradient_is_that_of_the_exact_value_in_expectation(function):
    # Averaged over all unit probes and with many terms, y and v give tr((I + J)^-1 dJ): no randomness is left.
    x, w, b, a, p = make_branch("dense", "elu", lipschitz=0.6)
    d = x.shape[1]
    probes = math.sqrt(d) * torch.eye(d, dtype=x.dtype).view(d, 1, d).expand(d, *x.shape)
    tensors = leaves(x, w, b, p)
    exact = gradients(*reference.residual_logdet_exact(x, w, b, a, p), tensors)
    torch.testing.assert_close(gradients(*function(x, w, b, a, probes, [1.0] * 60), tensors), exact)


def test_one_sample_does_not_weigh_for_the_others():
    # An upstream gradient of zero for sample 0 must not switch off the others.
    x, w, b, a, p = make_branch("dense", "tanh")
    v, upstream = torch.randn_like(x).detach(), torch.tensor([0.0, 1.0, 2.0], dtype=x.dtype)
    for function in (reference.residual_logdet, reference.residual_logdet_explicit):
        (got,) = torch.autograd.grad(function(x, w, b, a, v, [1.0] * 5)[1], x, upstream)
        alone = [function(x[i : i + 1], w, b, a, v[i : i + 1], [1.0] * 5)[1].squeeze(0) for i in range(3)]
        (expected,) = torch.autograd.grad(sum(l * u for l, u in zip(alone, upstream, strict=True)), x)
        torch.testing.assert_close(got, expected)
        assert got[1:].abs().min() > 0


@pytest.mark.parametrize("gradient", ["neumann", "series"])
def test_tolerance_stops_each_sample_and_probe(gradient):
    x, w, b, a, p = make_branch("dense", "elu", requires_grad=False)
    w[0].requires_grad_()
    probe = torch.randn(2, *x.shape, dtype=x.dtype) * torch.tensor([1e-3, 1.0, 30.0], dtype=x.dtype).view(3, 1)
    tol, q = 1e-4, [1.0] * 40
    z, logdet, info = reference.residual_logdet(
        x, w, b, a, probe, q, gradient, tol=tol, lipschitz=0.8, return_info=True
    )
    assert info.terms.shape == (2, 3)
    assert info.terms.dtype == torch.int64
    assert info.terms.min() == 1
    assert (info.terms[:, 0] < info.terms[:, 2]).all()
    assert (info.tail_bound <= tol).all()
    full = reference.residual_logdet(x, w, b, a, probe, [1.0] * 300)[1]
    assert ((logdet - full).abs() <= info.tail_bound.mean(0)).all()
    # The same as coefficients that end where the sample ended, in value and in gradient.
    expected, grads = [], []
    for i in range(2):
        mask = (torch.arange(40) < info.terms[i, :, None]).to(x.dtype)
        expected.append(reference.residual_logdet(x, w, b, a, probe[i], mask, gradient))
        grads.append(gradients(*expected[-1], [w[0]])[0])
    torch.testing.assert_close(logdet, (expected[0][1] + expected[1][1]) / 2)
    torch.testing.assert_close(gradients(z, logdet, [w[0]])[0], (grads[0] + grads[1]) / 2)


def test_info_without_a_lipschitz_constant():
    x, w, b, a, p = make_branch("dense", "elu", requires_grad=False)
    info = reference.residual_logdet(x, w, b, a, torch.randn_like(x), [1.0] * 4, return_info=True)[2]
    assert info.tail_bound is None
    assert info.terms.tolist() == [[4, 4, 4]]


@pytest.mark.parametrize("lipschitz", [0.0, 0.3, 0.9, 0.99])
def test_tail_factors(lipschitz):
    got = tail_factors(lipschitz, 12)
    for k in (1, 5, 12):
        direct = math.fsum(lipschitz**j / (k + j) for j in range(1, 6000))
        assert got[k - 1] == pytest.approx(direct, rel=1e-12, abs=0.0)


@pytest.mark.parametrize("gradient", ["neumann", "series"])
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_nothing_is_recorded_without_gradients(guard, gradient):
    x, w, b, a, p = make_branch("conv", "elu")
    v = torch.randn_like(x).detach()
    expected = reference.residual_logdet(x, w, b, a, v, [1.0] * 4, gradient)
    with guard():
        inside = [t.clone() for t in w]  # inference tensors under inference_mode
        for function in (
            lambda: reference.residual_logdet(x, inside, b, a, v, [1.0] * 4, gradient),
            lambda: reference.residual_logdet_explicit(x.clone(), inside, b, a, v.clone(), [1.0] * 4),
        ):
            got = function()
            assert not any(t.requires_grad for t in got)
            torch.testing.assert_close(got, tuple(t.detach() for t in expected))
    frozen = [t.detach() for t in w], [None] * 3
    z, logdet = reference.residual_logdet(x.detach(), *frozen, a, v, [1.0] * 4, gradient)
    assert z.grad_fn is None
    assert logdet.grad_fn is None


def test_only_the_parameters_need_a_gradient():
    x, w, b, a, p = make_branch("dense", "elu")
    x = x.detach()
    v = torch.randn_like(x)
    tensors = leaves(*make_branch("dense", "elu")[:1], w, b, p)[1:]
    expected = gradients(*reference.residual_logdet_explicit(x, w, b, a, v, [1.0] * 4), tensors)
    torch.testing.assert_close(gradients(*reference.residual_logdet(x, w, b, a, v, [1.0] * 4), tensors), expected)
    assert not x.requires_grad
    assert x.grad is None


def test_any_module_is_a_branch():
    torch.manual_seed(3)
    g = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 3)).double()
    with torch.no_grad():
        for parameter in g.parameters():
            parameter.mul_(0.5)
    x, probes = torch.randn(2, 3, dtype=torch.float64), math.sqrt(3) * torch.eye(3, dtype=torch.float64)[:, None]
    parameters = tuple(g.parameters())
    z, logdet = functional.logdet_of(g, x, probes.expand(3, 2, 3), [1.0] * 80, parameters=parameters)
    exact = functional.logdet_exact_of(g, x, parameters)
    torch.testing.assert_close((z, logdet), exact)
    torch.testing.assert_close(gradients(z, logdet, parameters), gradients(*exact, parameters))


def test_a_constant_branch_has_log_determinant_zero():
    x = torch.randn(2, 3, requires_grad=True)
    z, logdet = functional.logdet_of(lambda h: torch.ones_like(h), x, torch.randn(2, 3), [1.0] * 3)
    assert logdet.tolist() == [0.0, 0.0]
    torch.testing.assert_close(torch.autograd.grad(z.sum() + logdet.sum(), x)[0], torch.ones(2, 3))


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("n_probes", [None, 2])
def test_small_batches(kind, batch, n_probes):
    x, w, b, a, p = make_branch(kind, "elu", batch)
    v = torch.randn(*([] if n_probes is None else [n_probes]), *x.shape, dtype=x.dtype)
    tensors = leaves(x, w, b, p)
    for z, logdet in (
        reference.residual_logdet(x, w, b, a, v, [1.0] * 3),
        reference.residual_logdet(x, w, b, a, v, [1.0] * 3, "series"),
        reference.residual_logdet(x, w, b, a, v, [1.0] * 3, tol=1e-3, lipschitz=0.8),
        reference.residual_logdet_explicit(x, w, b, a, v, torch.ones(batch, 3)),
        reference.residual_logdet_exact(x, w, b, a),
        functional.logdet_exact_of(lambda h: evaluate(h, w, b, a), x, w),
    ):
        assert z.shape == x.shape
        assert logdet.shape == (batch,)
        assert all(g.shape == t.shape for g, t in zip(gradients(z, logdet, tensors), tensors, strict=True))


@pytest.mark.parametrize("activation", ["elu", "lipswish", "tanh"])
def test_a_nan_stays_in_its_sample(activation):
    x, w, b, a, p = make_branch("conv", activation)
    v, bad = torch.randn_like(x).detach(), x.detach().clone()
    bad[1, 0, 0, 0] = float("nan")
    for function in (
        lambda x: reference.residual_logdet(x, w, b, a, v, [1.0] * 4, parameters=p, tol=1e-9, lipschitz=0.8),
        lambda x: reference.residual_logdet_explicit(x, w, b, a, v, [1.0] * 4, p),
    ):
        (z, logdet), (bad_z, bad_logdet) = function(x), function(bad)
        assert bad_z[1].isnan().any()
        assert bad_logdet.isnan().tolist() == [False, True, False]
        torch.testing.assert_close(bad_z[::2], z[::2])
        torch.testing.assert_close(bad_logdet[::2], logdet[::2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_and_strides(dtype):
    x, w, b, a, _ = make_branch("dense", "elu", requires_grad=False)
    v = torch.randn_like(x)
    expected = reference.residual_logdet(x, w, b, a, v, [1.0] * 4)
    strided = x.to(dtype).t().contiguous().t()
    arguments = [t.to(dtype) for t in w], [None if t is None else t.to(dtype) for t in b], a, v.to(dtype), [1.0] * 4
    tolerance = 20 * torch.finfo(dtype).eps
    for function in (reference.residual_logdet, reference.residual_logdet_explicit):
        z, logdet = function(strided, *arguments)
        assert z.dtype == logdet.dtype == dtype
        torch.testing.assert_close(logdet.double(), expected[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n_probes", [None, 2])
def test_explicit_compiles_as_one_graph(n_probes):
    x, w, b, a, p = make_branch("conv", "lipswish")
    v = torch.randn(*([] if n_probes is None else [n_probes]), *x.shape, dtype=x.dtype)
    q, tensors = torch.rand(3, 4, dtype=x.dtype), leaves(x, w, b, p)
    compiled = torch.compile(reference.residual_logdet_explicit, fullgraph=True, backend="aot_eager")
    expected = reference.residual_logdet_explicit(x, w, b, a, v, q, p)
    got = compiled(x, w, b, a, v, q, p)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradients(*got, tensors), gradients(*expected, tensors))


def test_explicit_refuses_a_second_derivative():
    x, w, b, a, p = make_branch("dense", "elu")
    logdet = reference.residual_logdet_explicit(x, w, b, a, torch.randn_like(x), [1.0] * 3)[1]
    upstream = torch.ones_like(logdet).requires_grad_()
    (grad,) = torch.autograd.grad(logdet, x, upstream, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


ONES = torch.ones(2, 4)
EYE = torch.eye(4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weights": []}, ValueError, "weights must hold at least one tensor"),
        ({"biases": []}, ValueError, r"biases must have one entry per weight \(1\), got 0"),
        ({"activations": ["elu", "elu"]}, ValueError, "activations must have one entry per weight"),
        ({"activations": ["gelu"]}, ValueError, "activation must be one of"),
        ({"x": torch.ones(2, 4, dtype=torch.int64)}, TypeError, "x must be a floating point tensor"),
        ({"x": torch.ones(2, 4, 1)}, ValueError, r"x must have shape \[B, d\] or \[B, C, H, W\]"),
        ({"weights": [EYE.double()]}, TypeError, r"weights\[0\] must have the dtype of x"),
        ({"weights": [EYE.to("meta")]}, ValueError, r"weights\[0\] must be on the device of x"),
        ({"weights": [EYE[..., None, None]]}, ValueError, r"weights\[0\] must have shape \[out, in\]"),
        ({"weights": [torch.ones(4, 3)]}, ValueError, r"weights\[0\] must have 4 inputs, the channels of x, got 3"),
        ({"weights": [torch.ones(3, 4)]}, ValueError, r"weights\[0\] must have 4 outputs"),
        ({"biases": [torch.ones(3)]}, ValueError, r"biases\[0\] must have shape \(4,\)"),
        ({"parameters": [torch.ones(())]}, ValueError, r"parameters\[0\] must be None since elu has no parameter"),
        (
            {"activations": ["lipswish"], "parameters": [torch.ones(4)]},
            ValueError,
            r"parameters\[0\] must have shape \(\)",
        ),
        ({"probe": torch.ones(2, 3)}, ValueError, "probe must have the shape of x"),
        ({"probe": torch.ones(0, 2, 4)}, ValueError, "probe must have the shape of x"),
        ({"probe": ONES.double()}, TypeError, "probe must have the dtype of x"),
        ({"coefficients": []}, ValueError, r"coefficients must have shape \[n\] or \[B, n\]"),
        ({"coefficients": torch.ones(3, 5)}, ValueError, r"coefficients must have shape .* B = 2, got \(3, 5\)"),
        ({"coefficients": torch.ones(3, dtype=torch.int64)}, TypeError, "coefficients must be floating point"),
        ({"gradient": "exact"}, ValueError, "gradient must be 'neumann' or 'series', got 'exact'"),
        ({"tol": 1e-3}, ValueError, "lipschitz must be given when tol is"),
        ({"tol": -1.0, "lipschitz": 0.5}, ValueError, "tol must be positive, got -1.0"),
        ({"lipschitz": 1.0}, ValueError, r"lipschitz must be in \[0, 1\), got 1.0"),
    ],
)
def test_errors(change, error, message):
    arguments = {
        "x": ONES,
        "weights": [EYE],
        "biases": [None],
        "activations": ["elu"],
        "probe": ONES,
        "coefficients": [1.0],
    }
    with pytest.raises(error, match=message):
        reference.residual_logdet(**(arguments | change))


def test_convolution_and_pairwise_errors():
    image = torch.ones(1, 3, 2, 2)
    with pytest.raises(ValueError, match=r"weights\[0\] must have a square kernel of odd size, got \(2, 2\)"):
        reference.branch(image, [torch.ones(3, 3, 2, 2)], [None], ["elu"])
    with pytest.raises(ValueError, match=r"weights\[1\] must have 5 inputs, the outputs of weights\[0\], got 4"):
        reference.branch(image, [torch.ones(5, 3, 1, 1), torch.ones(3, 4, 1, 1)], [None] * 2, ["elu"] * 2)
    with pytest.raises(ValueError, match=r"weights\[0\] must have an even number of inputs after maxmin"):
        reference.branch(image, [torch.ones(3, 3, 1, 1)], [None], ["maxmin"])
    with pytest.raises(ValueError, match="activations must be elementwise for the explicit formula, got 'maxmin'"):
        reference.residual_logdet_explicit(ONES, [EYE], [None], ["maxmin"], ONES, [1.0])
