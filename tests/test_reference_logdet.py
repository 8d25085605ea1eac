"""The log-determinant of the reference against autograd and slogdet in float64, and its flavours against each other."""

import math

import pytest
import torch
from small_branches import gradients, leaves, make_branch

from iresnet_fast import activations as registry
from iresnet_fast import reference
from iresnet_fast.reference import functional
from iresnet_fast.reference.branch import evaluate
from iresnet_fast.reference.series import tail_factors

ACTIVATIONS = [name for name, entry in registry.REGISTRY.items() if entry.expansion == 1]
ELEMENTWISE = [name for name in ACTIVATIONS if registry.get(name).elementwise]


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
    x, w, b, a, _ = make_branch("dense", "tanh")
    v, upstream = torch.randn_like(x).detach(), torch.tensor([0.0, 1.0, 2.0], dtype=x.dtype)
    for function in (reference.residual_logdet, reference.residual_logdet_explicit):
        (got,) = torch.autograd.grad(function(x, w, b, a, v, [1.0] * 5)[1], x, upstream)
        alone = [function(x[i : i + 1], w, b, a, v[i : i + 1], [1.0] * 5)[1].squeeze(0) for i in range(3)]
        (expected,) = torch.autograd.grad(sum(value * weight for value, weight in zip(alone, upstream, strict=True)), x)
        torch.testing.assert_close(got, expected)
        assert got[1:].abs().min() > 0


@pytest.mark.parametrize("gradient", ["neumann", "series"])
def test_tolerance_stops_each_sample_and_probe(gradient):
    x, w, b, a, _ = make_branch("dense", "elu", requires_grad=False)
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
    x, w, b, a, _ = make_branch("dense", "elu", requires_grad=False)
    info = reference.residual_logdet(x, w, b, a, torch.randn_like(x), [1.0] * 4, return_info=True)[2]
    assert info.tail_bound is None
    assert info.terms.tolist() == [[4, 4, 4]]


@pytest.mark.parametrize("lipschitz", [0.0, 0.3, 0.9, 0.99])
def test_tail_factors(lipschitz):
    got = tail_factors(lipschitz, 12)
    for k in (1, 5, 12):
        direct = math.fsum(lipschitz**j / (k + j) for j in range(1, 6000))
        assert got[k - 1] == pytest.approx(direct, rel=1e-12, abs=0.0)
