"""What an inverse is worth: its certified error for every sample, and what to say where that is not enough."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._autograd import apply
from ..reference.series import sample_norm
from ..solvers import FixedPoint


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


def report(found: CertifiedInverse, solver: FixedPoint, lipschitz: float) -> None:
    """Warn, or raise if the solver says so, where a sample is not within the solver's tol.

    Raises:
        RuntimeError: a sample is not, and solver.on_failure is "raise".
    """
    missed = ~found.converged
    if not bool(missed.any()):
        return
    tol, dtype = solver.tol, found.x.dtype
    attainable = float(found.attainable[missed].max())
    if attainable > tol:
        advice = f"{dtype} rounds these samples by about {attainable:.1e}: raise tol or use float64"
    elif int(found.iterations[missed].max()) >= solver.max_iterations:
        advice = f"raise the solver's max_iterations, {solver.max_iterations}"
    elif not solver.refine:
        advice = f"it stopped shrinking in {dtype}: let the solver refine, or check the input"
    else:
        advice = f"it stopped shrinking: check the input, and that lipschitz = {lipschitz} bounds the branch"
    message = (
        f"iresnet_fast: {int(missed.sum())} of {len(missed)} samples did not reach tol = {tol:.1e}, "
        f"their error is up to {float(found.error[missed].max()):.1e}; {advice}."
    )
    if solver.on_failure == "raise":
        raise RuntimeError(message)
    warnings.warn(message, RuntimeWarning, stacklevel=4)
