"""What an inverse is worth: its certified error for every sample, and what to say where that is not enough."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._autocast import autocast_dtype
from .._autograd import apply
from ..reference.series import over_events, sample_norm
from ..solvers import FixedPoint

# A slope so much above the Lipschitz constant is none that rounding the weights makes.
_LYING = 1.001
# An error so many times what rounding alone leaves is that of an iteration which was ended too early.
_ENDED = 10.0
# Pairs of points between which the slope of a branch is looked at.
_PAIRS = 6


class CertifiedInverse(NamedTuple):
    """The inverse of a residual block, and how far it can be from the true one.

    Attributes:
        x: [B, *event]; differentiable by the implicit function theorem.
        error: [B] float64, a bound of |x - f^-1(z)| that counts rounding, in the units of x. It assumes that the
            block's `lipschitz` bounds its branch.
        iterations: [B] int64, updates of x.
        converged: [B] bool, error <= tol of the solver.
        attainable: [B] float64, the error that rounding x to its dtype alone may leave, and that of the evaluation.
    """

    x: Tensor
    error: Tensor
    iterations: Tensor
    converged: Tensor
    attainable: Tensor


def rounding_of(x: Tensor) -> Tensor:
    """Return a bound of what rounding numbers like x to its dtype changes, [B] float64."""
    return 0.5 * torch.finfo(x.dtype).eps * sample_norm(x.detach().double(), x.dim() - 1)


class AtValue(torch.autograd.Function):
    """x moved to a value nearby, with the gradient of x: that of an implicit function differs by as little."""

    @staticmethod
    def forward(x: Tensor, value: Tensor) -> Tensor:
        """Return the value."""
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Hand the gradient on."""
        return grad, None


def moved(x: Tensor, rows: Tensor, value: Tensor) -> Tensor:
    """Return x with other values in some rows and the gradient it has."""
    values = x.detach().clone()
    values[rows] = value
    return apply(AtValue, x, values) if x.requires_grad else values


def report(
    found: CertifiedInverse, solver: FixedPoint, lipschitz: float, z: Tensor, g: Callable[[Tensor], Tensor]
) -> None:
    """Warn, or raise if the solver says so, where a sample is not within the solver's tol, and say why.

    Args:
        found: the inverse.
        solver: what found it.
        lipschitz: the constant it relied on.
        z: what was inverted.
        g: the branch, which is evaluated a few more times if a sample was missed.

    Raises:
        RuntimeError: a sample was, and solver.on_failure is "raise".
    """
    missed = ~found.converged
    if not bool(missed.any()):
        return
    error, tol = _apart(float(found.error[missed].max()), solver.tol)
    message = (
        f"iresnet_fast: {int(missed.sum())} of {len(missed)} samples did not reach tol = {tol}, their error is up to "
        f"{error}; {_reason(found, missed, solver, lipschitz, z, g)}."
    )
    if solver.on_failure == "raise":
        raise RuntimeError(message)
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _apart(a: float, b: float) -> tuple[str, str]:
    """Return two numbers with as many digits as it takes to tell them apart."""
    digits = next((n for n in range(1, 17) if f"{a:.{n}e}" != f"{b:.{n}e}"), 1)
    return f"{a:.{digits}e}", f"{b:.{digits}e}"


def _reason(
    found: CertifiedInverse,
    missed: Tensor,
    solver: FixedPoint,
    lipschitz: float,
    z: Tensor,
    g: Callable[[Tensor], Tensor],
) -> str:
    """Return why samples were missed and what to do: the causes that can be proved come first."""
    dtype, name = found.x.dtype, str(found.x.dtype).removeprefix("torch.")
    n_bad = int((~z.detach()[missed].flatten(1).isfinite().all(1)).sum())
    if n_bad:
        return f"z holds NaN or infinity in {n_bad} of them: check the input"
    slope = _steepest(found.x.detach(), z.detach(), missed, g)
    if not slope < math.inf:
        return "the branch returned NaN or infinity: check its weights"
    if slope > _LYING * lipschitz:
        what = "the branch is not a contraction there" if slope >= 1.0 else "lipschitz does not bound the branch"
        return (
            f"the inverse does not converge: {what}, |g(x) - g(y)| / |x - y| was at least {slope:.3g} and lipschitz is "
            f"{lipschitz:.3g}: check lipschitz, or normalise the weights"
        )
    wider = "raise tol" if dtype == torch.float64 else "use float64 or raise tol"
    narrow = autocast_dtype(g(found.x.detach()))
    if narrow is not None:
        name, wider = f"autocast to {str(narrow).removeprefix('torch.')}", "invert outside autocast or raise tol"
    attainable = float(found.attainable[missed].max())
    ended = int(found.iterations[missed].max()) >= solver.max_iterations
    if ended and float(found.error[missed].max()) > _ENDED * attainable:
        return f"raise the solver's max_iterations, {solver.max_iterations}"
    if attainable > solver.tol:
        return f"{name} rounds these samples by about {attainable:.1e}: {wider}"
    if ended:
        return f"raise the solver's max_iterations, {solver.max_iterations}"
    if not solver.refine:
        return f"{name} rounds the branch by as much: let the solver refine, {wider}"
    return f"{name} rounds the branch by as much: {wider}, and check that lipschitz = {lipschitz:.6g} bounds it"


def _steepest(x: Tensor, z: Tensor, missed: Tensor, g: Callable[[Tensor], Tensor]) -> float:
    """Return a lower bound of |g(x) - g(y)| / |x - y| over some pairs of points, infinity if g is not finite there.

    Between x and z, where the iteration began, and from x along the differences of g, which turn to its steepest
    direction; from z where x overflowed. What rounding can make of g is taken off.
    """
    with torch.no_grad():
        last = x.dim() - 1
        x = torch.where(over_events(x.flatten(1).isfinite().all(1), x), x, z)
        gx = g(x)
        if gx.dtype == torch.float64:
            x, z = x.double(), z.double()
        eps = _precision(gx)
        length = 1e-2 * (1.0 + sample_norm(x, last))
        y, most = torch.where(over_events((x == z).flatten(1).all(1), x), z - gx, z), 0.0
        for _ in range(_PAIRS):
            gy = g(y)
            change, distance = sample_norm(gx - gy, last), sample_norm(x - y, last)
            if not bool((change + sample_norm(gx, last))[missed].isfinite().all()):
                return math.inf
            rounding = 8.0 * eps * sum(sample_norm(numbers, last) for numbers in (x, y, gx, gy))
            slope = torch.where(distance > 0.0, (change - rounding) / distance, 0.0)
            most = max(most, float(slope[missed].max()))
            y = x + over_events(torch.where(change > 0.0, length / change, 0.0), x) * (gx - gy)
        return most


def _precision(gx: Tensor) -> float:
    """Return the relative rounding of the operands of a branch: coarser than its dtype where torch may narrow them."""
    eps = max(torch.finfo(dtype).eps for dtype in (gx.dtype, autocast_dtype(gx) or gx.dtype))
    return max(eps, 2.0**-11) if gx.is_cuda and gx.dtype != torch.float64 else eps  # TF32
