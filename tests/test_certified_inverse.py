"""The certified error of an inverse: never below the true one, and no more than float64 makes of it."""

import math
import warnings

import pytest
import torch
from nn_models import KINDS, make_block, make_input

from iresnet_fast import nn, ops, reference
from iresnet_fast.reference.rounding import branch_rounding
from iresnet_fast.solvers import FixedPoint


def wide(tensors):
    return [t.double() for t in tensors]


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_residual_of_zero_is_no_error_of_zero(size):
    """In float32 the residual of some sample of any size is zero, and x is not the solution."""
    z = size * torch.randn(500, 1)
    weight = torch.tensor([[-0.97]])
    x, _, residual = ops.residual_inverse(z, [weight], [None], ["identity"], 0.98, size * 1e-5)
    true = (x.double() - z.double() / (1.0 + weight.double())).norm(dim=1)
    error = ops.inverse_error(x, z, [weight], [None], ["identity"], 0.98)
    assert error.dtype == torch.float64
    assert ((residual == 0.0) & (true > 0.0)).any()
    assert (true <= error).all()


def test_the_rounding_of_an_evaluation_is_bounded():
    """In float32 the bound is far above float64's rounding, so that float64 shows the error of every entry."""
    for size in (1e-3, 1.0, 1e4):
        for activation in ("elu", "relu", "tanh", "sin", "softplus", "lipswish"):
            weights = [torch.randn(40, 7) / 9, torch.randn(33, 40) / 12, torch.randn(7, 33) / 9]
            biases = [size * torch.randn(40), None, torch.randn(7)]
            x, names = size * torch.randn(50, 7), ["identity", activation, activation]
            exact = reference.branch(x.double(), wide(weights), [b if b is None else b.double() for b in biases], names)
            bound = branch_rounding(x, weights, biases, names)
            for package in (ops, reference):
                error = (package.branch(x, weights, biases, names).double() - exact).norm(dim=1)
                assert (error <= bound).all()
            assert (bound <= 1e-3 * (exact.norm(dim=1) + x.norm(dim=1) + size)).all()


def test_closer_norms_give_a_closer_bound():
    weights = [torch.randn(64, 16).double() / 12, torch.randn(16, 64).double() / 12]
    norms = [float(torch.linalg.matrix_norm(w, 2)) for w in weights]
    x, rest = torch.randn(3, 16).double(), ([None, None], ["identity", "elu"])
    assert (branch_rounding(x, weights, *rest, norms) < branch_rounding(x, weights, *rest)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certified_inverse_of_a_block(kind, dtype):
    block = make_block(kind).to(dtype).eval()
    z = make_input(kind).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = block.certified_inverse(z)
    assert found.converged.all()
    assert (found.error <= block.solver.tol).all()
    assert (found.attainable < found.error).all()
    exact = truth(block, z)
    assert ((found.x.double() - exact).flatten(1).norm(dim=1) <= found.error + 1e-10).all()
    assert (found.iterations <= 1000).all()


@torch.no_grad()
def truth(block, z):
    """The inverse of the very map of a block, whose effective weights are numbers of its dtype, in float64."""
    weights, biases, activations, parameters = block.branch.stages(z.shape[2:])
    wide = [[t if t is None else t.double() for t in tensors] for tensors in (weights, biases, parameters)]
    x, _, residual = ops.residual_inverse(
        z.double(), *wide[:2], activations, block.lipschitz, 1e-11, parameters=wide[2]
    )
    assert (residual <= 1e-11).all()
    return x


def far_block(**options):
    """A block whose inverse float32 cannot certify to 1e-4 by its own iteration alone."""
    branch = nn.ResidualBranch.dense([40, 64, 40], activation="elu", coeff=0.97)
    return nn.InvertibleResidualBlock(branch, None, FixedPoint(1e-4, **options)).eval()


def test_refinement_reaches_what_float32_can_hold():
    torch.manual_seed(3)
    block = far_block(refine=False)
    z = 30.0 * torch.randn(20, 40)
    rough = block.certified_inverse(z)
    assert not rough.converged.all()
    block.solver = FixedPoint(1e-4)
    fine = block.certified_inverse(z)
    assert fine.converged.all()
    assert torch.equal(fine.x[rough.converged], rough.x[rough.converged])
    assert ((fine.x.double() - truth(block, z)).norm(dim=1) <= fine.error + 1e-10).all()


def test_a_refined_inverse_has_the_gradient_of_the_implicit_function():
    torch.manual_seed(3)
    block = far_block()
    z = (30.0 * torch.randn(20, 40)).requires_grad_()
    parameters = list(block.parameters())
    upstream = torch.randn(20, 40)
    got = torch.autograd.grad(block.inverse(z)[0], [z, *parameters], upstream)
    block.double()
    wanted = torch.autograd.grad(block.inverse(z.double())[0], [z, *block.parameters()], upstream.double())
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def test_failure_warns_or_raises_with_the_numbers():
    block = make_block("dense", solver=FixedPoint(1e-6, 1, refine=False)).eval()
    z = 3.0 * make_input("dense")
    sentence = r"of 4 samples did not reach tol = 1.0e-06, their error is up to \d.*: raise the solver's max_iterations"
    sentence = sentence.replace(": raise", "; raise")
    with pytest.warns(RuntimeWarning, match=sentence):
        block.inverse(z)
    block.solver = FixedPoint(1e-6, 1, on_failure="raise")
    with pytest.raises(RuntimeError, match=sentence):
        block.inverse(z)
    with pytest.raises(ValueError, match="on_failure must be one of 'warn', 'raise', got 'stop'"):
        FixedPoint(on_failure="stop")


def test_what_float32_cannot_attain_is_said():
    block = make_block("dense").eval()
    z = 1e6 * make_input("dense")
    found = block.certified_inverse(z)
    assert not found.converged.any()
    assert (found.attainable > block.solver.tol).all()
    # Refined: the result is the solution but for its rounding.
    assert (found.error <= found.attainable + block.solver.tol).all()
    with pytest.warns(RuntimeWarning, match="float32 rounds these samples by about .*: use float64 or raise tol"):
        block.inverse(z)


def test_a_nan_is_not_converged_and_leaves_the_others_alone():
    block = make_block("dense").eval()
    z = make_input("dense")
    clean = block.certified_inverse(z)
    z[1, 0] = math.nan
    found = block.certified_inverse(z)
    assert found.converged.tolist() == [True, False, True, True]
    assert found.error[1].isnan()
    assert torch.equal(found.x[[0, 2, 3]], clean.x[[0, 2, 3]])


def test_any_module_gets_an_estimate():
    g = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    with torch.no_grad():
        for weight in (g[0].weight, g[2].weight):
            weight.mul_(0.9 / torch.linalg.matrix_norm(weight, 2))
    block = nn.InvertibleResidualBlock(g, None, lipschitz=0.81)
    z = torch.randn(50, 3)
    found = block.certified_inverse(z)
    assert found.converged.all()
    truth = block.double().certified_inverse(z.double())
    assert ((found.x.double() - truth.x).norm(dim=1) <= found.error + truth.error).all()


def test_errors_of_inverse_error():
    weight = [torch.eye(2)]
    with pytest.raises(ValueError, match=r"z must have the shape of x, \(3, 2\), got \(2, 2\)"):
        ops.inverse_error(torch.ones(3, 2), torch.ones(2, 2), weight, [None], ["identity"], 0.5)
    with pytest.raises(ValueError, match=r"lipschitz must be in \[0, 1\), got 1.0"):
        ops.inverse_error(torch.ones(3, 2), torch.ones(3, 2), weight, [None], ["identity"], 1.0)
