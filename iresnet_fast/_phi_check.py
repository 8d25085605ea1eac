"""Whether an activation that a user registers is what it says it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ._activation import Activation

_POINTS, _END = 4001, 20.0
# An odd shift, so that no point is where a kink may be.
_SHIFT = 0.00173205
# Of formulas in float64 that cancel; a wrong one is off by more.
_TOLERANCE = 1e-6


Function = Callable[..., Tensor]


def check_bound(argument: str, bound: object) -> None:
    """Raise ValueError unless a bound of the derivative is a number."""
    if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not math.isfinite(bound):
        raise ValueError(f"{argument} must be a finite number, got {bound!r}; pass a bound of the derivative.")


def check_activation(entry: Activation, derivative: Function, second_derivative: Function) -> None:
    """Raise ValueError unless, on a grid, the derivatives belong to the value and keep to the bounds."""
    if entry.lipschitz <= 0.0:
        raise ValueError(f"lipschitz must be positive, got {entry.lipschitz}; pass an upper bound of |derivative|.")
    with torch.inference_mode(False), torch.enable_grad():
        a = _grid()
        slope = _check_derivative("derivative", derivative, "value", entry.value, a)
        _check_derivative("second_derivative", second_derivative, "derivative", derivative, a)
    slack = _TOLERANCE * max(1.0, entry.lipschitz)
    too_steep, too_low = slope.abs() > entry.lipschitz + slack, slope < entry.least_slope - slack
    _check_slopes("lipschitz", entry.lipschitz, a, slope, too_steep, "an upper bound of the absolute value of")
    _check_slopes("least_slope", entry.least_slope, a, slope, too_low, "a lower bound of")


def is_same(entry: Activation, other: Activation) -> bool:
    """Return whether both are of a user, with one value on the grid and one pair of bounds."""
    if other.kernel_id is not None or not other.elementwise:
        return False
    a = _grid()
    bounds = entry.lipschitz, entry.least_slope, entry.piecewise_linear
    return bounds == (other.lipschitz, other.least_slope, other.piecewise_linear) and torch.equal(
        entry.value(a, None), other.value(a, None)
    )


def _grid() -> Tensor:
    return torch.linspace(-_END, _END, _POINTS, dtype=torch.float64) + _SHIFT


def _check_derivative(name: str, derivative: Function, of: str, function: Function, a: Tensor) -> Tensor:
    """Return the derivative at a after a comparison with what autograd finds."""
    point = a.clone().requires_grad_()
    given = _called(name, derivative, a)
    value = _called(of, function, point)
    found = torch.autograd.grad(value.sum(), point, allow_unused=True)[0] if value.requires_grad else None
    found = torch.zeros_like(a) if found is None else found
    wrong = (given - found).abs() > _TOLERANCE * (1.0 + found.abs())
    if wrong.any():
        i = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} must be that of {of}, got {given[i].item():g} at {a[i].item():g}, where autograd finds "
            f"{found[i].item():g}; correct one of them."
        )
    return given


def _called(name: str, function: Function, a: Tensor) -> Tensor:
    try:
        result = function(a)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{name} must be made of torch functions of a tensor, got {type(error).__name__} from it: "
            f"{str(error).splitlines()[0]}; use e.g. torch.atan for numpy.arctan."
        ) from error
    if not isinstance(result, Tensor) or result.shape != a.shape or result.dtype != a.dtype:
        kind = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(f"{name} must return a tensor of the shape and dtype of its argument, got {kind}; correct it.")
    if not result.isfinite().all():
        raise ValueError(f"{name} must be finite from {-_END:g} to {_END:g}, got NaN or infinity; correct it.")
    return result


def _check_slopes(argument: str, bound: float, a: Tensor, slope: Tensor, beyond: Tensor, what: str) -> None:
    if beyond.any():
        i = int(beyond.nonzero()[0])
        raise ValueError(
            f"{argument} must be {what} the derivative, got {bound:g}, and the derivative at {a[i].item():g} is "
            f"{slope[i].item():g}; correct one of them."
        )
