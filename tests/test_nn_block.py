"""InvertibleResidualBlock: values, gradients, inverse and diagnostics, on the kernels and on the fallback."""

import copy
import math
import warnings

import pytest
import torch
from nn_models import (
    KINDS,
    SHAPES,
    Conditional,
    make_block,
    make_branch,
    make_input,
)

from iresnet_fast import _library, nn, ops
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette
from iresnet_fast.nn import _paths
from iresnet_fast.solvers import FixedPoint

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. (activation|there are no kernels)"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["elu", "lipswish", "maxmin"])
def test_exact_logdet_and_its_inverse(kind, activation):
    block = make_block(kind, Exact(), FixedPoint(1e-10), activation=activation).double()
    x = make_input(kind, dtype=torch.float64)
    z, logdet = block(x)
    d = math.prod(SHAPES[kind])
    jacobian = torch.stack(
        [torch.func.jacrev(lambda a: block.branch(a[None])[0])(row).reshape(d, d) for row in x]
        if activation == "maxmin"
        else [torch.autograd.functional.jacobian(lambda a: block.branch(a[None])[0], row).reshape(d, d) for row in x]
    )
    torch.testing.assert_close(logdet, torch.linalg.slogdet(torch.eye(d, dtype=torch.float64) + jacobian)[1])
    torch.testing.assert_close(z, x + block.branch(x))
    back, inverse_logdet = block.inverse(z)
    assert float((back - x).detach().flatten(1).norm(dim=1).max()) <= 1e-10
    torch.testing.assert_close(inverse_logdet, -logdet, atol=1e-8, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", [PowerSeries(), PowerSeries(30, tol=1e-3), RussianRoulette(), PowerSeries(5, 3)])
def test_eval_logdet_is_deterministic_and_cancels_at_the_same_x(kind, estimator):
    block = make_block(kind, estimator, FixedPoint(1e-10)).double().eval()
    x = make_input(kind, dtype=torch.float64)
    z, logdet = block(x)
    assert torch.equal(block(x)[1], logdet)
    back, inverse_logdet = block.inverse(z)
    torch.testing.assert_close(back, x, atol=1e-10, rtol=0.0)
    # The same x to the bit, and so the same probes: those of x itself are others, by its last bits.
    torch.testing.assert_close(inverse_logdet, -block(back)[1], atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_logdet_is_near_the_exact_one(kind):
    block = make_block(kind, PowerSeries(40, 64)).eval()
    x = make_input(kind)
    exact = nn.InvertibleResidualBlock(block.branch, Exact())
    # 64 Rademacher probes: the standard error is at most sqrt(2 |J|_F^2 / 64) for each, here below 0.4.
    torch.testing.assert_close(block(x)[1], exact(x)[1], atol=1.5, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["elu", "lipswish", "maxmin"])
@pytest.mark.parametrize(
    "estimator", [PowerSeries(6), PowerSeries(6, gradient="series"), RussianRoulette(), Exact(), None]
)
def test_backends_agree(kind, activation, estimator):
    if not _library.HAS_EXTENSION:
        pytest.skip("the kernels are not built")
    block = make_block(kind, estimator, FixedPoint(1e-8), activation=activation).double()
    x = make_input(kind, dtype=torch.float64)
    results = []
    for backend in ("kernels", "reference"):
        block.zero_grad()
        copied = copy.deepcopy(block)
        with _library.use_backend(backend):
            torch.manual_seed(5)
            inner = x.clone().requires_grad_()
            z, logdet = copied(inner)
            back, inverse_logdet = copied.inverse(z.detach())
            weight = torch.arange(1.0, 5.0, dtype=torch.float64)
            (z.square().sum() + (weight * logdet).sum() + (weight * inverse_logdet).sum() + back.sum()).backward()
        gradients = [p.grad for p in copied.parameters()]
        results.append([z, logdet, back, inverse_logdet, inner.grad, *gradients])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_no_estimator_is_zero_and_does_no_work(monkeypatch):
    monkeypatch.delattr(ops, "residual_logdet")
    block = make_block("dense", None)
    x = make_input("dense", dtype=torch.float64)
    z, logdet = block.double()(x)
    torch.testing.assert_close(z, x + block.branch(x))
    assert torch.equal(logdet, torch.zeros(4, dtype=torch.float64))
    assert torch.equal(block.inverse(z)[1], torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_inverse_is_differentiable(kind):
    block = make_block(kind, Exact(), FixedPoint(1e-12), activation="tanh").double()
    z = make_input(kind, 2, torch.float64).requires_grad_()
    torch.autograd.gradcheck(lambda a: block.inverse(a), (z,), atol=1e-5, rtol=1e-4)
    block.inverse(z)[1].sum().backward()
    assert all(p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.filterwarnings("ignore:iresnet_fast. InvertibleResidualBlock runs")
@pytest.mark.parametrize("estimator", [PowerSeries(40, 200), Exact(), RussianRoulette(20), None])
def test_any_module_as_branch(estimator):
    block = nn.InvertibleResidualBlock(Conditional(0.64), estimator, FixedPoint(1e-9)).double().eval()
    x = make_input("dense", dtype=torch.float64)
    context = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    z, logdet = block(x, context)
    torch.testing.assert_close(z, x + block.branch(x, context))
    exact = nn.InvertibleResidualBlock(block.branch, Exact())(x, context)[1]
    if estimator is not None:
        torch.testing.assert_close(logdet, exact, atol=0.5, rtol=0.0)
    back, inverse_logdet = block.inverse(z, context)
    torch.testing.assert_close(back, x, atol=1e-8, rtol=0.0)
    torch.testing.assert_close(inverse_logdet, -block(back, context)[1], atol=1e-12, rtol=0.0)
    (back.sum() + inverse_logdet.sum()).backward()
    assert context.grad.abs().sum() > 0
    assert all(p.grad is not None for p in block.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(block(x, context)[1], logdet.detach())


def test_fallback_agrees_with_the_stages():
    branch = make_branch("dense", activation="tanh").double()
    module = torch.nn.Sequential(branch)
    x = make_input("dense", dtype=torch.float64)
    results = []
    for g in (branch, module):
        block = nn.InvertibleResidualBlock(g, PowerSeries(5), FixedPoint(1e-9), lipschitz=0.729)
        torch.manual_seed(2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            z, logdet = block(x)
            back, _ = block.inverse(x)
        (gradient,) = torch.autograd.grad(logdet.sum() + z.sum(), branch.layers[0].weight)
        results.append((z, logdet, back, gradient))
    torch.testing.assert_close(*results)


def test_fallback_is_said_once_and_in_the_repr():
    _paths._told.clear()
    block = nn.InvertibleResidualBlock(Conditional(0.64))
    with pytest.warns(UserWarning, match="runs a Conditional as its branch on the autograd fallback"):
        block(make_input("dense"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        block(make_input("dense"))
        make_block("dense")(make_input("dense"))
    assert "path=autograd fallback (Conditional is no branch of stages)" in repr(block)
    with _library.use_backend("reference"):
        assert "path=autograd fallback (the kernels are missing or switched off)" in repr(make_block("dense"))
    if _library.HAS_EXTENSION and _library.backend() == "kernels":
        assert "path=kernels" in repr(make_block("conv"))
        assert "path=autograd fallback (activation 'fullsort' has no kernel)" in repr(
            make_block("dense", activation="fullsort")
        )
        assert "path=autograd fallback (there are no kernels for torch.bfloat16)" in repr(
            make_block("dense").bfloat16()
        )


@pytest.mark.filterwarnings("ignore:iresnet_fast. InvertibleResidualBlock runs")
def test_no_inverse_without_a_lipschitz_constant():
    block = nn.InvertibleResidualBlock(Conditional())
    z, _ = block(make_input("dense"))
    with pytest.raises(ValueError, match="lipschitz must be known for the inverse, got None and a Conditional"):
        block.inverse(z)
    block = nn.InvertibleResidualBlock(Conditional(), lipschitz=0.64)
    block.inverse(z)


@pytest.mark.parametrize("kind", KINDS)
def test_solve_gives_diagnostics_and_inverse_warns(kind):
    block = make_block(kind, solver=FixedPoint(1e-4, max_iterations=2)).eval()
    z = make_input(kind)
    x, iterations, residual = block.solve(z)
    assert iterations.tolist() == [2] * 4
    torch.testing.assert_close(residual, (z - x - block.branch(x)).flatten(1).norm(dim=1))
    with pytest.warns(RuntimeWarning, match=r"4 of 4 samples did not reach tol = 1.0e-04, .*max_iterations, 2"):
        block.inverse(z)
    block.solver = FixedPoint(1e-12)
    with pytest.warns(RuntimeWarning, match=r"float32 rounds these samples by about .*: use float64 or raise tol"):
        block.inverse(make_input(kind, 50))
    block.solver = FixedPoint()
    with pytest.warns(RuntimeWarning, match="1 of 4 samples .* z holds NaN or infinity in 1 of them: check the input"):
        block.inverse(z.index_fill(0, torch.tensor([1]), math.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        block.inverse(z)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: nn.InvertibleResidualBlock(make_branch("dense", coeff=1.1)),
            ValueError,
            r"lipschitz must be in \[0, 1\), got 1.331, and the coeff of the layers is \[1.1, 1.1, 1.1\]; lower coeff",
        ),
        (lambda: nn.InvertibleResidualBlock(Conditional(), lipschitz=-0.1), ValueError, "got -0.1"),
        (lambda: nn.InvertibleResidualBlock(Conditional(), lipschitz=math.nan), ValueError, "got nan"),
        (lambda: nn.InvertibleResidualBlock(Conditional(), 5), TypeError, "estimator must be one of"),
        (
            lambda: nn.InvertibleResidualBlock(Conditional(), solver=5),
            TypeError,
            "solver must be a solvers.FixedPoint, got int",
        ),
        (lambda: make_block("dense")(torch.ones(2, 6), 1.0), ValueError, "context must be None"),
        (lambda: make_block("dense").inverse(torch.ones(2, 6), 1.0), ValueError, "context must be None"),
        (
            lambda: make_block("dense")(torch.ones(2, 6).double()),
            TypeError,
            "x must have the dtype of the branch, torch.float32, got",
        ),
    ],
)
def test_block_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
