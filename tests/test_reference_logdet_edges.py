"""The log-determinant of the reference at its edges: no gradient, empty batches, NaN, dtypes, any module, errors."""

import math

import pytest
import torch
from small_branches import gradients, leaves, make_branch

from iresnet_fast import reference
from iresnet_fast.reference import functional
from iresnet_fast.reference.branch import evaluate


@pytest.mark.parametrize("gradient", ["neumann", "series"])
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_nothing_is_recorded_without_gradients(guard, gradient):
    x, w, b, a, _ = make_branch("conv", "elu")
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


def test_torch_func_works_outside_inference_mode(monkeypatch):
    """torch 2.11 returns zeros as the products of a vjp taken, or called, in inference mode."""
    x, w, b, a, _ = make_branch("conv", "elu")
    vjp, modes = torch.func.vjp, []

    def watched(*arguments):
        modes.append(torch.is_inference_mode_enabled())
        value, pullback = vjp(*arguments)
        return value, lambda w: modes.append(torch.is_inference_mode_enabled()) or pullback(w)

    monkeypatch.setattr(torch.func, "vjp", watched)
    with torch.inference_mode():
        z, logdet = reference.residual_logdet(x, w, b, a, torch.ones_like(x), [1.0] * 4)
        assert torch.is_inference_mode_enabled()
    assert modes == [False] * 5
    assert not z.requires_grad
    assert not logdet.requires_grad


def _saved_bytes(function):
    """Bytes of the distinct tensors a graph keeps for backward."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # the tensor itself: a freed address could come again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = function()
    assert output[1].requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_memory_of_the_neumann_gradient_does_not_grow_with_the_terms(kind):
    x, w, b, a, _ = make_branch(kind, "elu")
    v = torch.randn_like(x).detach()
    for function in (reference.residual_logdet, reference.residual_logdet_explicit):
        few, many = (_saved_bytes(lambda n=n, f=function: f(x, w, b, a, v, torch.ones(n))) for n in (5, 40))
        assert few == many
    few, many = (
        _saved_bytes(lambda n=n: reference.residual_logdet(x, w, b, a, v, torch.ones(n), "series")) for n in (5, 40)
    )
    assert many > 4 * few  # and the measurement does see a graph that grows


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
    x, w, b, a, _ = make_branch("dense", "elu")
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
        ({"activations": ["no_such"]}, ValueError, "activation must be one of"),
        ({"x": torch.ones(2, 4, dtype=torch.int64)}, TypeError, "x must be a floating point tensor"),
        ({"x": torch.ones(2, 4, 1)}, ValueError, r"x must have shape \[B, d\] or \[B, C, H, W\]"),
        ({"weights": [EYE.double()]}, TypeError, r"x must have the dtype of the weights"),
        ({"weights": [EYE.to("meta")]}, ValueError, r"x must be on the device of the weights, meta, got cpu"),
        ({"weights": [EYE[..., None, None]]}, ValueError, r"x must have shape \[B, 4, H, W\] for weights\[0\]"),
        ({"weights": [torch.ones(4, 3)]}, ValueError, r"x must have shape \[B, 3\] for weights\[0\]"),
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


def test_errors_of_convolutions_and_of_what_mixes_channels():
    image = torch.ones(1, 3, 2, 2)
    with pytest.raises(ValueError, match=r"weights\[0\] must have a square kernel of odd size, got \(2, 2\)"):
        reference.branch(image, [torch.ones(3, 3, 2, 2)], [None], ["elu"])
    with pytest.raises(ValueError, match=r"weights\[1\] must have 5 inputs, the outputs of weights\[0\], got 4"):
        reference.branch(image, [torch.ones(5, 3, 1, 1), torch.ones(3, 4, 1, 1)], [None] * 2, ["elu"] * 2)
    with pytest.raises(ValueError, match="activations must be elementwise for the explicit formula, got 'maxmin'"):
        reference.residual_logdet_explicit(ONES, [EYE], [None], ["maxmin"], ONES, [1.0])
