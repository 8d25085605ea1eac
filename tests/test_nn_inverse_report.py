"""What an inverse says where it missed tol: divergence is told from rounding, each with what to do."""

import math
import warnings

import pytest
import torch

from iresnet_fast import nn
from iresnet_fast.nn._inverse import CertifiedInverse, _apart, report
from iresnet_fast.solvers import FixedPoint

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*autograd fallback")]


class Scaled(torch.nn.Module):
    """g(x) = function(factor x), for blocks that are told any Lipschitz constant."""

    def __init__(self, factor, function=lambda a: a):
        super().__init__()
        self.factor, self.function = torch.nn.Parameter(torch.tensor(float(factor))), function

    def forward(self, x):
        return self.function(self.factor * x)


def of_module(branch, lipschitz, **solver):
    return nn.InvertibleResidualBlock(branch, solver=FixedPoint(**solver), lipschitz=lipschitz).eval()


def of_stages(coeff, lipschitz, **solver):
    """A branch on the kernels whose norms are larger than the block was told."""
    branch = nn.ResidualBranch.dense([4, 16, 4], coeff=coeff, activation="identity")
    with torch.no_grad():
        for layer in branch.layers:
            layer.weight.mul_(100.0)
    return nn.InvertibleResidualBlock(branch, solver=FixedPoint(**solver), lipschitz=lipschitz).eval()


def said(block, z):
    """The one warning of an inverse."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        block.inverse(z)
    (message,) = [str(warning.message) for warning in told if "did not reach" in str(warning.message)]
    assert message.startswith("iresnet_fast: ")
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("accelerate", [True, False])
@pytest.mark.parametrize(
    ("make", "slope"),
    [
        (lambda **solver: of_module(Scaled(-3.0), 0.9, **solver), 3.0),
        (lambda **solver: of_module(Scaled(2.0, torch.tanh), 0.5, **solver), 2.0),
        (lambda **solver: of_stages(1.5, 0.9, **solver), 1.5**2),
    ],
)
def test_a_branch_that_is_no_contraction_is_not_told_to_raise_tol(make, slope, accelerate):
    torch.manual_seed(0)
    # Three updates: acceleration solves some of these in spite of all.
    message = said(make(accelerate=accelerate, max_iterations=3), 0.3 * torch.randn(6, 4))
    assert "does not converge: the branch is not a contraction there, |g(x) - g(y)| / |x - y| was at least " in message
    assert "check lipschitz" in message
    assert "raise" not in message
    found = float(message.split("at least ")[1].split()[0])
    assert 1.0 < found <= slope * 1.005  # as printed, three digits


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_divergence_that_ran_its_course(scale):
    message = said(of_module(Scaled(-3.0), 0.9, accelerate=False), scale * torch.ones(2, 4))
    assert "the branch is not a contraction there, |g(x) - g(y)| / |x - y| was at least 3 " in message
    assert "raise tol" not in message


def test_divergence_that_overflows():
    message = said(of_module(Scaled(2.0, lambda a: -(a**3)), 0.9, accelerate=False), torch.ones(2, 4))
    assert "the branch is not a contraction there" in message
    assert "NaN" not in message


def test_rounding_by_autocast_is_no_divergence():
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64)
    with torch.no_grad():
        layer.weight.copy_(0.9 * torch.linalg.qr(torch.randn(64, 64))[0])
    block, z = of_module(layer, 0.9, tol=1e-6), torch.randn(8, 64)
    with torch.autocast("cpu", torch.bfloat16):
        message = said(block, z)
    assert "contraction" not in message
    assert "does not bound" not in message


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "branch", [lambda: nn.DenseBranch.dense(4, 8), lambda: nn.DenseBranch.dense(4, 6, activation="elu")]
)
def test_an_error_under_autocast_counts_its_rounding(branch, dtype):
    torch.manual_seed(0)
    block, x = nn.InvertibleResidualBlock(branch()).eval(), torch.randn(16, 4)
    with torch.autocast("cpu", dtype), torch.no_grad():
        z = block(x)[0]
        found, message = block.certified_inverse(z), said(block, z)
    error = (found.x - x).double().norm(dim=1)
    assert float(error.max()) > 1e-5
    assert (error <= found.error).all()
    name = str(dtype).removeprefix("torch.")
    assert f"autocast to {name} rounds these samples by about " in message
    assert "invert outside autocast or raise tol" in message
    exact = block.certified_inverse(x)  # without autocast as before
    assert exact.converged.all()


def test_a_constant_that_is_too_small_but_of_a_contraction():
    message = said(of_module(Scaled(0.9), 0.3, accelerate=False, max_iterations=3), torch.ones(2, 4))
    assert (
        "lipschitz does not bound the branch, |g(x) - g(y)| / |x - y| was at least 0.9 and lipschitz is 0.3" in message
    )
    assert "not a contraction" not in message


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("make", [lambda: of_stages(0.9, None), lambda: of_module(Scaled(0.5), 0.5)])
def test_an_input_that_is_not_finite(make, value):
    z = torch.randn(4, 4)
    z[1:3, 0] = value
    message = said(make(), z)
    assert "2 of 4 samples" in message
    assert message.endswith("; z holds NaN or infinity in 2 of them: check the input.")


def test_a_branch_that_returns_nan():
    message = said(of_module(Scaled(0.5, torch.log), 0.5), -torch.ones(2, 4))
    assert message.endswith("; the branch returned NaN or infinity: check its weights.")


def test_too_few_iterations():
    message = said(of_stages(0.9, None, max_iterations=2), torch.randn(4, 4))
    assert message.endswith("; raise the solver's max_iterations, 2.")
    message = said(of_module(Scaled(0.8, torch.sin), 0.8, max_iterations=2), torch.randn(4, 4))
    assert message.endswith("; raise the solver's max_iterations, 2.")


@pytest.mark.parametrize("make", [lambda: of_stages(0.9, None), lambda: of_module(Scaled(0.9, torch.sin), 0.9)])
def test_float32_rounds_large_numbers(make):
    torch.manual_seed(0)
    block, z = make(), 1e4 * torch.randn(6, 4)
    message = said(block, z)
    assert "float32 rounds these samples by about " in message
    assert message.endswith(": use float64 or raise tol.")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        block.double().inverse(z.double())  # the advice is right


def test_float64_is_not_advised_to_float64():
    message = said(of_module(Scaled(0.9, torch.sin), 0.9, tol=1e-17).double(), torch.full((2, 4), 1e3).double())
    assert message.endswith(": raise tol.")


def test_a_rounding_miss_is_printed_with_the_digits_that_tell():
    assert _apart(1.00004e-5, 1e-5) == ("1.00004e-05", "1.00000e-05")
    assert _apart(2e-3, 1e-5) == ("2.0e-03", "1.0e-05")
    assert _apart(math.nan, 1e-5) == ("nan", "1.0e-05")
    block, x = of_module(Scaled(0.5), 0.5), torch.ones(2, 4)
    error = torch.tensor([1.00004e-5, 1e-6], dtype=torch.float64)
    found = CertifiedInverse(x, error, torch.tensor([9, 9]), error <= 1e-5, 0.0 * error)
    for solver, advice in (
        (FixedPoint(refine=False), "let the solver refine, use float64"),
        (FixedPoint(), "use float64"),
    ):
        with pytest.warns(RuntimeWarning) as told:
            report(found, solver, 0.5, 1.5 * x, block.branch)
        message = str(told[0].message)
        assert "1 of 2 samples did not reach tol = 1.00000e-05, their error is up to 1.00004e-05; " in message
        assert f"float32 rounds the branch by as much: {advice} or raise tol" in message


def test_the_reason_is_raised_too():
    block = of_module(Scaled(-3.0), 0.9, on_failure="raise")
    with pytest.raises(RuntimeError, match="the branch is not a contraction there"):
        block.inverse(torch.ones(2, 4))


def test_a_context_goes_with_its_samples():
    torch.manual_seed(0)
    branch = nn.ConditionalBranch.dense([4, 8, 4], 2, coeff=0.9)
    block = nn.InvertibleResidualBlock(branch, solver=FixedPoint(max_iterations=2)).eval()
    z = torch.randn(4, 4)
    z[0] = 0.0
    with pytest.warns(RuntimeWarning, match="raise the solver's max_iterations, 2"):
        block.inverse(z, torch.randn(4, 2))
