import pytest
import torch
from small_branches import LIPSCHITZ, leaves, make_branch

from iresnet_fast import reference, solvers
from iresnet_fast.reference import functional
from iresnet_fast.reference.branch import evaluate


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("activation", ["elu", "maxmin", "lipswish"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_error_is_below_the_requested_tolerance(kind, activation, dtype):
    z, w, b, a, p = make_branch(kind, activation, 5, requires_grad=False)
    exact, _, residual = reference.residual_inverse(z, w, b, a, LIPSCHITZ, 1e-13, 1000, p)
    assert residual.max() <= 1e-13
    arguments = [[None if t is None else t.to(dtype) for t in group] for group in (w, b, p or [None] * 3)]
    tol = 1e-5
    x, iterations, residual = reference.residual_inverse(
        z.to(dtype), arguments[0], arguments[1], a, LIPSCHITZ, tol, parameters=arguments[2]
    )
    assert x.dtype == residual.dtype == dtype
    assert iterations.dtype == torch.int64
    assert (residual / (1 - LIPSCHITZ) <= tol).all()
    rounding = 10 * torch.finfo(dtype).eps * exact.flatten(1).norm(dim=1)
    assert ((x.double() - exact).flatten(1).norm(dim=1) <= tol + rounding).all()


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("compact", [False, True])
def test_each_sample_stops_by_itself_and_is_then_frozen(compact, accelerate):
    z, w, _, a, _ = make_branch("dense", "identity", 4, requires_grad=False)
    z[0] = 0.0  # g(0) = 0: solved at the start
    z[1] *= 1e3
    sizes = []

    def g(x):
        sizes.append(x.shape[0])
        return evaluate(x, w, [None] * 3, a)

    options = {"compact": compact, "accelerate": accelerate}
    x, iterations, residual = functional.inverse_of(g, z, LIPSCHITZ, 1e-6, 1000, **options)
    assert iterations[0] == 0
    assert residual[0] == 0
    # Accelerated, an affine branch of d dimensions takes d + 1 updates from anywhere.
    assert iterations[1] > iterations[2:].max() or accelerate
    assert accelerate or sizes[-1] == (1 if compact else 4)
    assert (iterations[1:] <= 5).all() or not accelerate
    for i in range(4):  # exactly the iterations the sample takes alone
        alone = functional.inverse_of(g, z[i : i + 1], LIPSCHITZ, 1e-6, 1000, accelerate=accelerate)
        assert alone[1] == iterations[i]
        torch.testing.assert_close(alone[0][0], x[i], rtol=1e-13, atol=1e-13)
    expected = (z - x - g(x)).norm(dim=1)
    torch.testing.assert_close(residual, expected, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("max_iterations", [0, 1, 5])
def test_stops_at_the_maximum_and_reports_the_residual(max_iterations):
    z, w, b, a, _ = make_branch("dense", "tanh", requires_grad=False)
    x, iterations, residual = reference.residual_inverse(z, w, b, a, LIPSCHITZ, 1e-14, max_iterations, accelerate=False)
    expected = z
    for _ in range(max_iterations):
        expected = z - evaluate(expected, w, b, a)
    torch.testing.assert_close(x, expected)
    assert iterations.tolist() == [max_iterations] * 3
    torch.testing.assert_close(residual, (z - x - evaluate(x, w, b, a)).norm(dim=1))


def test_a_nan_sample_stops_at_once_and_leaves_the_others_alone():
    z, w, b, a, _ = make_branch("conv", "elu", requires_grad=False)
    expected = reference.residual_inverse(z, w, b, a, LIPSCHITZ, 1e-8)
    z[1, 0, 1, 1] = float("nan")
    x, iterations, residual = reference.residual_inverse(z, w, b, a, LIPSCHITZ, 1e-8)
    assert iterations[1] == 0
    assert residual.isnan().tolist() == [False, True, False]
    for got, want in zip((x, iterations, residual), expected, strict=True):
        torch.testing.assert_close(got[::2], want[::2])


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("activation", ["elu", "lipswish", "maxmin"])
def test_implicit_gradient_matches_the_unrolled_iteration(kind, activation):
    z, w, b, a, p = make_branch(kind, activation)
    tensors = leaves(z, w, b, p)
    x, iterations, residual = reference.residual_inverse(z, w, b, a, LIPSCHITZ, 1e-12, parameters=p)
    assert not iterations.requires_grad
    assert not residual.requires_grad
    unrolled = z
    for _ in range(200):
        unrolled = z - evaluate(unrolled, w, b, a, p)
    upstream = torch.randn_like(x) * torch.tensor([0.0, 1.0, 100.0], dtype=x.dtype).view(3, *[1] * (x.dim() - 1))
    got = torch.autograd.grad(x, tensors, upstream)
    torch.testing.assert_close(got, torch.autograd.grad(unrolled, tensors, upstream), rtol=1e-8, atol=1e-10)


def test_gradcheck():
    z, w, b, a, p = make_branch("dense", "lipswish", 2)
    tensors = [z, *w, b[0]]

    def function(z, w0, w1, w2, b0):
        return reference.residual_inverse(z, [w0, w1, w2], [b0, None, b[2]], a, LIPSCHITZ, 1e-13, parameters=p)[0]

    assert torch.autograd.gradcheck(function, tensors)


def test_gradient_reaches_what_the_weights_were_computed_from():
    z, w, b, a, _ = make_branch("dense", "elu", requires_grad=False)
    raw = torch.randn_like(w[0]).requires_grad_()
    first = w[0] * torch.sigmoid(raw)
    x = reference.residual_inverse(z, [first, *w[1:]], b, a, LIPSCHITZ, 1e-12)[0]
    (of_first,) = torch.autograd.grad(x.sum(), first, retain_graph=True)
    (of_raw,) = torch.autograd.grad(x.sum(), raw)
    torch.testing.assert_close(of_raw, of_first * w[0] * torch.sigmoid(raw) * torch.sigmoid(-raw))


def test_gradient_accuracy_follows_the_tolerance():
    z, w, b, a, _ = make_branch("dense", "tanh", requires_grad=False)
    z.requires_grad_()
    upstream = torch.randn_like(z)
    exact, rough = (
        torch.autograd.grad(reference.residual_inverse(z, w, b, a, LIPSCHITZ, tol)[0], z, upstream)[0]
        for tol in (1e-13, 1e-3)
    )
    # The error of x adds to that of the solve; both are of the order of the tolerance.
    assert ((rough - exact).norm(dim=1) <= 1e-2 * upstream.norm(dim=1)).all()


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_without_gradients(guard):
    z, w, b, a, _ = make_branch("conv", "elu")
    expected = reference.residual_inverse(z, w, b, a, LIPSCHITZ)
    with guard():
        got = reference.residual_inverse(z.clone(), w, b, a, LIPSCHITZ)
    assert not got[0].requires_grad
    torch.testing.assert_close(got[0], expected[0].detach())


def test_any_module_is_a_branch():
    g = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 3)).double()
    with torch.no_grad():
        for weight in (g[0].weight, g[2].weight):
            weight.mul_(0.8 / torch.linalg.matrix_norm(weight, 2))
    z = torch.randn(4, 3, dtype=torch.float64)
    lipschitz = 0.64 * 1.13  # of GELU
    x = functional.inverse_of(g, z, lipschitz, 1e-10, parameters=tuple(g.parameters()))[0]
    torch.testing.assert_close(x + g(x), z)
    x.sum().backward()
    assert all(p.grad is not None for p in g.parameters())


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(kind, batch):
    z, w, b, a, _ = make_branch(kind, "elu", batch)
    tensors = leaves(z, w, b, None)
    x, iterations, residual = reference.residual_inverse(z, w, b, a, LIPSCHITZ)
    assert x.shape == z.shape
    assert iterations.shape == residual.shape == (batch,)
    assert all(g.shape == t.shape for g, t in zip(torch.autograd.grad(x.sum(), tensors), tensors, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lipschitz": 1.0}, ValueError, r"lipschitz must be in \[0, 1\), got 1.0"),
        ({"lipschitz": -0.1}, ValueError, r"lipschitz must be in \[0, 1\)"),
        ({"lipschitz": float("nan")}, ValueError, r"lipschitz must be in \[0, 1\), got nan"),
        ({"tol": 0.0}, ValueError, "tol must be positive, got 0.0"),
        ({"max_iterations": -1}, ValueError, "max_iterations must be at least 0, got -1"),
        ({"max_iterations": 2.0}, TypeError, "max_iterations must be an integer, got 2.0"),
        ({"z": torch.ones(2, 3)}, ValueError, r"z must have shape \[B, 2\] for weights\[0\] of shape"),
    ],
)
def test_errors(change, error, message):
    arguments = {
        "z": torch.ones(2, 2),
        "weights": [torch.eye(2)],
        "biases": [None],
        "activations": ["elu"],
        "lipschitz": 0.5,
    }
    with pytest.raises(error, match=message):
        reference.residual_inverse(**(arguments | change))


def test_solver_carries_checked_numbers():
    assert solvers.FixedPoint() == solvers.FixedPoint(tol=1e-5, max_iterations=1000)
    with pytest.raises(ValueError, match="tol must be positive"):
        solvers.FixedPoint(tol=0.0)
    with pytest.raises(ValueError, match="max_iterations must be at least 0"):
        solvers.FixedPoint(max_iterations=-1)
