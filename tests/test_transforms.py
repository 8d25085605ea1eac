"""The ops in transforms of torch.func and torch.autograd, against loops and plain autograd in float64."""

import sys

import pytest
import torch
from comparison import RecordedOps
from problems import TINY, make
from torch.autograd import forward_ad, functional
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from iresnet_fast import ops, reference

pytestmark = pytest.mark.usefixtures("one_thread")
TOL = 1e-13  # of the inverse: a derivative inherits it
MEMBERS = 3


def call(module, op, problem, x, weight):
    """An op as a function of its input and its first weight, one number for each sample and output."""
    branch = ([weight, *problem.weights[1:]], problem.biases, problem.activations)
    parameters = problem.parameters
    if op == "branch":
        return module.branch(x, *branch, parameters)
    if op == "exact":
        z, logdet = module.residual_logdet_exact(x, *branch, parameters)
    elif op == "inverse":
        return module.residual_inverse(x, *branch, 0.9, TOL, 1000, parameters)[0]
    else:
        gradient, tol, lipschitz = ("neumann", 1e-3, 0.7) if op == "tol" else (op, None, None)
        z, logdet, *_ = module.residual_logdet(
            x, *branch, problem.probe, problem.coefficients, gradient, parameters, tol, lipschitz
        )
    return z.flatten(1).sin().sum(1) + logdet


class Function:
    """An op of a tiny problem, and what its derivatives and batches must be."""

    def __init__(self, module, op, case):
        self.module, self.op, self.problem = module, op, make(case)
        self.x, self.weight = self.problem.x, self.problem.weights[0]
        generator = torch.Generator().manual_seed(1)
        self.xs = torch.stack([self.x + 0.3 * i for i in range(MEMBERS)])
        self.weights = torch.stack([self.weight * (1.0 - 0.2 * i) for i in range(MEMBERS)])
        self.tangent = torch.randn(self.x.shape, generator=generator, dtype=torch.float64)
        self.weight_tangent = torch.randn(self.weight.shape, generator=generator, dtype=torch.float64)

    def __call__(self, x, weight):
        return call(self.module, self.op, self.problem, x, weight)

    def of_x(self, x):
        return self(x, self.weight)

    def of_weight(self, weight):
        return self(self.x, weight)

    def loss(self, x):
        return self.of_x(x).sin().sum()

    def loss_of_weight(self, weight, x=None):
        return self(self.x if x is None else x, weight).sin().sum()

    def jacobian(self, x=None):
        return functional.jacobian(self.of_x, self.x if x is None else x)

    def hessian(self):
        return functional.hessian(self.loss, self.x)

    def weight_gradient(self, weight, x=None):
        return functional.jacobian(lambda w: self.loss_of_weight(w, x), weight)


def dual(function, x, tangent):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent))).tangent


def by_batched_gradients(f):
    x = f.x.clone().requires_grad_()
    y = f.of_x(x)
    basis = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
    (found,) = torch.autograd.grad(y, x, basis, is_grads_batched=True)
    return found.view(*y.shape, *x.shape)


def gradient_through_vmap(f):
    weight = f.weight.clone().requires_grad_()
    loss = vmap(lambda x: f(x, weight))(f.xs).sin().sum()
    return torch.autograd.grad(loss, weight)[0]


def contract(jacobian, tangent):
    return torch.tensordot(jacobian, tangent, tangent.dim())


BATCHES = {
    "x": (lambda f: vmap(f.of_x)(f.xs), lambda f: [f.of_x(x) for x in f.xs]),
    "another dimension of x": (lambda f: vmap(f.of_x, 1)(f.xs.movedim(0, 1)), lambda f: [f.of_x(x) for x in f.xs]),
    "the last of the result": (
        lambda f: vmap(f.of_x, out_dims=-1)(f.xs).movedim(-1, 0),
        lambda f: [f.of_x(x) for x in f.xs],
    ),
    "chunks": (lambda f: vmap(f.of_x, chunk_size=2)(f.xs), lambda f: [f.of_x(x) for x in f.xs]),
    "weights": (lambda f: vmap(f.of_weight)(f.weights), lambda f: [f.of_weight(w) for w in f.weights]),
    "both": (
        lambda f: vmap(f, (0, 1))(f.xs, f.weights.movedim(0, 1)),
        lambda f: [f(x, w) for x, w in zip(f.xs, f.weights, strict=True)],
    ),
    "weights of x": (
        lambda f: vmap(lambda w: vmap(lambda x: f(x, w))(f.xs[:2]))(f.weights),
        lambda f: [torch.stack([f(x, w) for x in f.xs[:2]]) for w in f.weights],
    ),
    "Jacobians": (lambda f: vmap(jacrev(f.of_x))(f.xs), lambda f: [f.jacobian(x) for x in f.xs]),
    "forward Jacobians": (lambda f: vmap(jacfwd(f.of_x))(f.xs), lambda f: [f.jacobian(x) for x in f.xs]),
    "gradients of a shared weight": (
        lambda f: vmap(grad(f.loss_of_weight), (None, 0))(f.weight, f.xs),
        lambda f: [f.weight_gradient(f.weight, x) for x in f.xs],
    ),
    "gradients of weights": (
        lambda f: vmap(grad(f.loss_of_weight))(f.weights),
        lambda f: [f.weight_gradient(w) for w in f.weights],
    ),
    "one member": (lambda f: vmap(f, (0, 0))(f.xs[:1], f.weights[:1]), lambda f: [f(f.xs[0], f.weights[0])]),
}
DERIVATIVES = {
    "grad": (lambda f: grad(f.loss)(f.x), lambda f: functional.jacobian(f.loss, f.x)),
    "jacrev": (lambda f: jacrev(f.of_x)(f.x), Function.jacobian),
    "jacfwd": (lambda f: jacfwd(f.of_x)(f.x), Function.jacobian),
    "vectorize": (lambda f: functional.jacobian(f.of_x, f.x, vectorize=True), Function.jacobian),
    "vectorize forward": (
        lambda f: functional.jacobian(f.of_x, f.x, vectorize=True, strategy="forward-mode"),
        Function.jacobian,
    ),
    "is_grads_batched": (by_batched_gradients, Function.jacobian),
    "jvp": (lambda f: jvp(f.of_x, (f.x,), (f.tangent,))[1], lambda f: contract(f.jacobian(), f.tangent)),
    "dual": (lambda f: dual(f.of_x, f.x, f.tangent), lambda f: contract(f.jacobian(), f.tangent)),
    "jvp of the weight": (
        lambda f: jvp(f.of_weight, (f.weight,), (f.weight_tangent,))[1],
        lambda f: contract(functional.jacobian(f.of_weight, f.weight), f.weight_tangent),
    ),
    "dual weight": (
        lambda f: dual(f.of_weight, f.weight, f.weight_tangent),
        lambda f: contract(functional.jacobian(f.of_weight, f.weight), f.weight_tangent),
    ),
    "gradient of a vmap": (
        lambda f: grad(lambda w: vmap(lambda x: f(x, w))(f.xs).sin().sum())(f.weight),
        lambda f: sum(f.weight_gradient(f.weight, x) for x in f.xs),
    ),
    "backward through a vmap": (gradient_through_vmap, lambda f: sum(f.weight_gradient(f.weight, x) for x in f.xs)),
    "value of a vjp": (  # the outer derivative goes through what is constant for the inner one
        lambda f: grad(lambda w: vjp(lambda x: f(x, w), f.x)[0].sin().sum())(f.weight),
        lambda f: f.weight_gradient(f.weight),
    ),
}
SECOND = {
    "hessian": lambda f: hessian(f.loss)(f.x),
    "jacrev of jacrev": lambda f: jacrev(jacrev(f.loss))(f.x),
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(f.loss))(f.x),
    "jacfwd of jacfwd": lambda f: jacfwd(jacfwd(f.loss))(f.x),
    "vectorize": lambda f: functional.hessian(f.loss, f.x, vectorize=True),
    "vectorize forward": lambda f: functional.hessian(
        f.loss, f.x, vectorize=True, outer_jacobian_strategy="forward-mode"
    ),
    "grad of vmap of grad": lambda f: jacrev(lambda x: vmap(grad(lambda x: f(x, f.weight).sin().sum()))(x[None])[0])(
        f.x
    ),
}
OPS = ["branch", "neumann", "series", "tol", "exact", "inverse"]
everywhere = pytest.mark.parametrize(
    ("module", "case"),
    [(ops, TINY[0]), (ops, TINY[1]), (reference, TINY[0])],
    ids=["dense kernels", "conv kernels", "dense reference"],
)


@everywhere
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("batch", BATCHES)
def test_a_vmap_is_a_loop(op, batch, module, case):
    f = Function(module, op, case)
    batched, loop = BATCHES[batch]
    torch.testing.assert_close(batched(f), torch.stack(loop(f)), rtol=1e-10, atol=1e-10)


@everywhere
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_a_derivative_is_that_of_autograd(op, derivative, module, case):
    f = Function(module, op, case)
    found, expected = DERIVATIVES[derivative]
    torch.testing.assert_close(found(f), expected(f), rtol=1e-9, atol=1e-9)


@everywhere
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("nesting", SECOND)
def test_a_second_derivative_is_that_of_autograd(op, nesting, module, case):
    f = Function(module, op, case)
    if op == "inverse" and nesting == "jacfwd of jacfwd":
        with pytest.raises(RuntimeError, match="must be differentiated at most once in forward mode"):
            SECOND[nesting](f)
        return
    torch.testing.assert_close(SECOND[nesting](f), f.hessian(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("op", ["branch", "neumann", "exact", "inverse"])
def test_linearize(op, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "TOL", 1e-5)  # as many terms of the linear solve are recorded
    f = Function(ops, op, TINY[0])
    value, tangent_of = linearize(f.of_x, f.x)
    torch.testing.assert_close(value, f.of_x(f.x))
    torch.testing.assert_close(tangent_of(f.tangent), contract(f.jacobian(), f.tangent), rtol=1e-9, atol=1e-4)


def test_an_inverse_in_plain_torch_is_not_linearized():
    f = Function(reference, "inverse", TINY[0])
    with pytest.raises(RuntimeError, match="must read which samples have converged, got a trace"):
        linearize(f.of_x, f.x)


@pytest.mark.parametrize(
    ("op", "kernels"), [("branch", 1), ("neumann", 1), ("series", 1), ("exact", 1), ("inverse", 1)]
)
def test_the_samples_of_a_vmap_are_one_kernel_call(op, kernels):
    f = Function(ops, op, TINY[0])
    with RecordedOps() as recorded:
        vmap(f.of_x)(f.xs)
    assert len(recorded.names) == kernels
    with RecordedOps() as recorded:
        vmap(vmap(f.of_x))(f.xs[None])
    assert len(recorded.names) == kernels


def test_the_tangent_of_a_branch_is_one_kernel_call():
    f = Function(ops, "branch", TINY[0])
    with RecordedOps() as recorded:
        jvp(f.of_x, (f.x,), (f.tangent,))
    assert recorded.names == ["branch", "jacobian_powers"]
    with RecordedOps() as recorded:
        jacfwd(f.of_x)(f.x)
    assert recorded.names == ["branch", "jacobian_powers"]


@pytest.mark.parametrize("op", ["branch", "exact", "inverse"])
def test_gradcheck_in_every_mode(op):
    f = Function(ops, op, TINY[0])
    inputs = tuple(t.clone().requires_grad_() for t in (f.x, f.weight))
    checks = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(f, inputs, **checks)


@pytest.mark.parametrize("op", OPS)
def test_an_empty_batch(op):
    f = Function(ops, op, TINY[0])
    f.problem = f.problem._replace(probe=f.problem.probe[:, :0])
    assert vmap(f.of_x)(f.xs[:, :0]).shape[:2] == (MEMBERS, 0)


@pytest.mark.parametrize("op", OPS)
def test_a_vmap_without_members(op):
    f = Function(ops, op, TINY[0])
    assert vmap(f.of_x)(f.xs[:0]).shape == (0, *f.of_x(f.x).shape)


@pytest.mark.parametrize("gradient", ["neumann", "series"])
def test_probes_and_coefficients_of_their_own(gradient):
    problem = make(TINY[0])
    probes = torch.stack([problem.probe * (1.0 + i) for i in range(MEMBERS)])
    coefficients = torch.stack([problem.coefficients * (1.0 + i) for i in range(MEMBERS)])

    def logdet(v, q):
        return ops.residual_logdet(
            problem.x, *problem.branch, v, q, gradient, problem.parameters, factors=problem.factors
        )[1]

    expected = torch.stack([logdet(v, q) for v, q in zip(probes, coefficients, strict=True)])
    torch.testing.assert_close(vmap(logdet)(probes, coefficients), expected, rtol=1e-12, atol=1e-12)
    expected = torch.stack([logdet(problem.probe, q) for q in coefficients])
    torch.testing.assert_close(vmap(lambda q: logdet(problem.probe, q))(coefficients), expected)
