"""The activations a branch may use: value, first and second derivative, Lipschitz constant, one registry for all.

A derivative takes the value `h` (and the second derivative the first, `d`) when the caller already has it: ELU, ReLU,
tanh and sine then cost no second transcendental.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

LIPSWISH_INITIAL_BETA = 0.5
# With s = swish', [s(a), 1 - s(a)] are the derivatives of swish(a) and -swish(-a). The norm of the pair is at most
# 1.104363 whatever the slope, 1.003966 once divided by LipSwish's 1.1 (i-DenseNet, arXiv 2102.02694).
CLIPSWISH_SCALE = 1.004
# max swish' is 1.0998 at any slope: divided by 1.1 it stays below 1 (Residual Flows, arXiv 1906.02735, section 3.3).
_LIPSWISH_SCALE = 1.0 / 1.1
# min swish' = 1 - max swish', since swish'(u) + swish'(-u) = 1: -0.09984 / 1.1 = -0.09077 at any slope.
_LIPSWISH_LEAST_SLOPE = -0.0908
# The logistic function of it is 0 or 1 in any precision.
_LOGISTIC_ENDS = 1024.0
# torch switches softplus to the identity above this; at its default of 20 the step is visible in float64.
_SOFTPLUS_THRESHOLD = 40.0


@dataclass(frozen=True)
class Activation:
    """One activation and its derivatives.

    Attributes:
        name: the name used in `activations=[...]`.
        value: phi(a, parameter=None).
        derivative: phi'(a, parameter=None, h=None), `h` = phi(a) if known; None if phi is not elementwise.
        second_derivative: phi''(a, parameter=None, h=None, d=None), `d` = phi'(a) if known; None likewise.
        parameter_derivatives: (d phi/d beta, d phi'/d beta) at (a, parameter=None); None without a parameter.
        lipschitz: an upper bound of |phi'|.
        least_slope: a lower bound of phi'; without meaning if phi is not elementwise.
        has_parameter: phi takes a learnable scalar beta.
        pairwise: phi mixes pairs of channels, so the number of channels must be even.
        piecewise_linear: phi'' is zero wherever it exists, so its terms can be left out.
        kernel_id: the number the compiled kernels know it by; None: no kernel.
        expansion: outputs for each input channel.
        constant: the fixed number of a family, such as 0.2 of "leaky_relu(0.2)"; zero without one.
    """

    name: str
    value: Callable[..., Tensor]
    derivative: Callable[..., Tensor] | None
    second_derivative: Callable[..., Tensor] | None
    kernel_id: int | None
    parameter_derivatives: Callable[..., tuple[Tensor, Tensor]] | None = None
    lipschitz: float = 1.0
    least_slope: float = 0.0
    has_parameter: bool = False
    pairwise: bool = False
    piecewise_linear: bool = False
    constant: float = 0.0
    expansion: int = 1


def get(name: str) -> Activation:
    """Return the activation called `name`, or the member "family(constant)" of a family.

    Raises:
        ValueError: no activation has that name.
    """
    if isinstance(name, str):
        if name in REGISTRY:
            return REGISTRY[name]
        found = _member(name)
        if found is not None:
            return found
    raise ValueError(f"activation must be one of {', '.join(REGISTRY)}, got {name!r}; use one of these names.")


@lru_cache(maxsize=256)
def _member(name: str) -> Activation | None:
    """Return the member of a family, None if the name is none."""
    match = re.fullmatch(r"(\w+)\((.+)\)", name)
    if match is None or match[1] not in FAMILIES:
        return None
    try:
        constant = float(match[2])
    except ValueError:
        return None
    return replace(FAMILIES[match[1]](constant), name=name)


def _identity(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return a


def _identity_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return torch.ones_like(a)


def _zero(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None) -> Tensor:
    return torch.zeros_like(a)


def _relu(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return torch.relu(a)


def _relu_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return torch.sign(torch.relu(a) if h is None else h)  # one pass; a comparison would need a second for the dtype


def _elu(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return F.elu(a)


def _elu_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return (F.elu(a) if h is None else h).clamp(max=0.0) + 1.0


def _elu_second(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None) -> Tensor:
    return (_elu_derivative(a, None, h) if d is None else d) * (a < 0)


def _softplus(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return F.softplus(a, threshold=_SOFTPLUS_THRESHOLD)


def _softplus_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return torch.sigmoid(a)


def _softplus_second(
    a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None
) -> Tensor:
    d = torch.sigmoid(a) if d is None else d
    return d * (1.0 - d)


def _tanh(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return torch.tanh(a)


def _tanh_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    h = torch.tanh(a) if h is None else h
    return 1.0 - h * h


def _tanh_second(
    a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None
) -> Tensor:
    h = torch.tanh(a) if h is None else h
    return -2.0 * h * (1.0 - h * h if d is None else d)


def _sin(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return torch.sin(a)


def _sin_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return torch.cos(a)


def _sin_second(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None) -> Tensor:
    return -(torch.sin(a) if h is None else h)


def _slope(a: Tensor, parameter: Tensor | None) -> Tensor:
    """The slope s = softplus(beta) of LipSwish, positive whatever beta is."""
    beta = a.new_full((), LIPSWISH_INITIAL_BETA) if parameter is None else parameter
    # Zero times infinity is no number; a positive slope this small does as little.
    return F.softplus(beta, threshold=_SOFTPLUS_THRESHOLD).clamp(min=torch.finfo(a.dtype).tiny)


def _kept(a: Tensor, least: float, most: float) -> Tensor:
    """Return a within bounds; the derivative of torch's clamp at NaN is 0, which would lose it."""
    return torch.where(a < least, least, torch.where(a > most, most, a))


def _scaled(a: Tensor, slope: Tensor) -> Tensor:
    """Return s a, but no further out than where the logistic function is 0 or 1: it may be multiplied by a zero."""
    return _kept(a * slope, -_LOGISTIC_ENDS, _LOGISTIC_ENDS)


def _lipswish(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    # The smallest number in place of -infinity, for which phi is 0 too.
    return (
        _kept(a, torch.finfo(a.dtype).min, math.inf) * torch.sigmoid(_scaled(a, _slope(a, parameter))) * _LIPSWISH_SCALE
    )


def _lipswish_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    u = _scaled(a, _slope(a, parameter))
    p = torch.sigmoid(u)
    return p * (1.0 + u * (1.0 - p)) * _LIPSWISH_SCALE


def _lipswish_second(
    a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None
) -> Tensor:
    s = _slope(a, parameter)
    u = _scaled(a, s)
    p = torch.sigmoid(u)
    return p * (1.0 - p) * (2.0 + u * (1.0 - 2.0 * p)) * (s * _LIPSWISH_SCALE)


def _lipswish_parameter(a: Tensor, parameter: Tensor | None = None) -> tuple[Tensor, Tensor]:
    beta = a.new_full((), LIPSWISH_INITIAL_BETA) if parameter is None else parameter
    u = _scaled(a, _slope(a, parameter))
    p = torch.sigmoid(u)
    # ds/dbeta = sigmoid(beta); phi = a p(s a) and phi' = f(s a) with f the derivative of swish.
    a = _kept(a, torch.finfo(a.dtype).min, torch.finfo(a.dtype).max)  # zero times infinity is no number
    common = a * (p * (1.0 - p)) * (torch.sigmoid(beta) * _LIPSWISH_SCALE)
    return a * common, (2.0 + u * (1.0 - 2.0 * p)) * common


def _maxmin(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    n = a.shape[1] // 2  # an odd channel is left as it is
    even, odd = a[:, 0 : 2 * n : 2], a[:, 1 : 2 * n : 2]
    pairs = torch.stack((torch.maximum(even, odd), torch.minimum(even, odd)), 2).flatten(1, 2)
    return pairs if a.shape[1] % 2 == 0 else torch.cat((pairs, a[:, 2 * n :]), 1)


def _clipswish(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return torch.cat((_lipswish(a, parameter), _lipswish(-a, parameter)), 1) / CLIPSWISH_SCALE


def _leaky_relu_of(constant: float) -> Activation:
    def value(a: Tensor, parameter: Tensor | None = None) -> Tensor:
        return torch.where(a <= 0, constant * a, a)

    def derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
        return torch.where(a > 0, 1.0, constant).to(a.dtype)

    return Activation(
        "leaky_relu",
        value,
        derivative,
        _zero,
        7,
        lipschitz=max(1.0, abs(constant)),
        least_slope=min(1.0, constant),
        piecewise_linear=True,
        constant=constant,
    )


def _scaled_sin_of(constant: float) -> Activation:
    return Activation(
        "sin",
        lambda a, parameter=None: torch.sin(constant * a) / constant,
        lambda a, parameter=None, h=None: torch.cos(constant * a),
        lambda a, parameter=None, h=None, d=None: -constant * torch.sin(constant * a),
        8,
        least_slope=-1.0,
        constant=constant,
    )


def _half_abs_slope(a: Tensor) -> Tensor:
    """The slope below zero of each channel of [B, C, ...]: -1 in the first half, 1 in the others."""
    slope = a.new_ones(a.shape[1])
    slope[: a.shape[1] // 2] = -1.0
    return slope.view(-1, *[1] * (a.dim() - 2))


def _half_abs(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return torch.where(a <= 0, _half_abs_slope(a) * a, a)


def _half_abs_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return torch.where(a > 0, 1.0, _half_abs_slope(a))


# Families of activations that a number chooses from.
FAMILIES: dict[str, Callable[[float], Activation]] = {"leaky_relu": _leaky_relu_of, "sin": _scaled_sin_of}

REGISTRY: dict[str, Activation] = {
    entry.name: entry
    for entry in (
        Activation("identity", _identity, _identity_derivative, _zero, 0, least_slope=1.0, piecewise_linear=True),
        Activation("relu", _relu, _relu_derivative, _zero, 1, piecewise_linear=True),
        Activation("elu", _elu, _elu_derivative, _elu_second, 2),
        Activation("softplus", _softplus, _softplus_derivative, _softplus_second, 3),
        Activation("tanh", _tanh, _tanh_derivative, _tanh_second, 4),
        Activation("sin", _sin, _sin_derivative, _sin_second, 5, least_slope=-1.0),
        Activation(
            "lipswish",
            _lipswish,
            _lipswish_derivative,
            _lipswish_second,
            6,
            _lipswish_parameter,
            least_slope=_LIPSWISH_LEAST_SLOPE,
            has_parameter=True,
        ),
        _leaky_relu_of(0.01),
        Activation("half_abs", _half_abs, _half_abs_derivative, _zero, 9, least_slope=-1.0, piecewise_linear=True),
        Activation("maxmin", _maxmin, None, None, None, pairwise=True, piecewise_linear=True),
        Activation("clipswish", _clipswish, None, None, None, has_parameter=True, expansion=2),
    )
}
