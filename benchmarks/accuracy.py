"""How far the log-determinants and gradients that were timed are from float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from baselines import OURS, make_step
from cases import Problem
from torch import Tensor

from iresnet_fast import reference

_EXACT_UP_TO = 1024  # dimensions: above, a Jacobian per sample is too large
_LONG_SERIES = 60  # terms: with a Lipschitz constant of 0.73 the rest is below 1e-9
_FEW, _MANY = 4, 64  # samples compared, in large and in small dimensions


class Errors(TypedDict):
    """Mean absolute errors of the log-determinant in nats per dimension; relative errors of the gradients."""

    exact: str  # what `error` is measured against
    error: float
    baseline_error: float
    rounding_error: float  # against the float64 series with the same probe and terms
    baseline_rounding_error: float
    gradient_error: float
    baseline_gradient_error: float


def errors(problem: Problem) -> Errors:
    """Compare ours and baseline (i) on the first samples; the gradient with the Neumann reference (ii), as ours is."""
    d = problem.x[0].numel()
    count = min(len(problem.x), _MANY if d <= _MANY else _FEW)
    double = problem.head(count).to(torch.float64)
    branch = (double.x, double.weights, double.biases, double.activations)
    with torch.no_grad():
        same = reference.residual_logdet(*branch, double.probe, double.coefficients)[1]
        if d <= _EXACT_UP_TO:
            exact, how = reference.residual_logdet_exact(*branch)[1], "slogdet of the Jacobian"
        else:
            ones = double.coefficients.new_ones(_LONG_SERIES)
            exact = reference.residual_logdet(*branch, double.probe, ones)[1]
            how = f"series of {_LONG_SERIES} terms, same probe"
    ours, baseline = (make_step(name, problem, "eval")()[1][:count].double() for name in (OURS, "series"))
    gradients = [make_step(name, problem.head(count), "train")() for name in (OURS, "neumann")]
    truth = make_step("neumann", double, "train")()
    return Errors(
        exact=how,
        error=mean_error(ours - exact, d),
        baseline_error=mean_error(baseline - exact, d),
        rounding_error=mean_error(ours - same, d),
        baseline_rounding_error=mean_error(baseline - same, d),
        gradient_error=worst_relative(gradients[0], truth),
        baseline_gradient_error=worst_relative(gradients[1], truth),
    )


def mean_error(difference: Tensor, d: int) -> float:
    """Return the mean absolute difference per dimension."""
    return difference.abs().mean().item() / d


def worst_relative(gradients: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """Return the largest relative error over the tensors, in the Euclidean norm."""
    return max(((g.double() - t).norm() / t.norm()).item() for g, t in zip(gradients, truth, strict=True))
