"""Families of activations, from which a number in the name chooses: "leaky_relu(0.2)"."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ._activation import Activation
from ._phi import zero
from ._phi_swish import (
    GREATEST_SLOPE,
    LEAST_SLOPE,
    lipswish,
    lipswish_derivative,
    lipswish_parameter,
    lipswish_second,
)

# Far from where a constant, its inverse, or what it multiplies would vanish or overflow in float32.
_LEAST, _MOST = 1e-12, 1e12
# The first alpha of i-DenseNet, the logistic function of -3.
LEAKY_LSWISH_CONSTANT = 1.0 / (1.0 + math.exp(3.0))


def leaky_relu_of(constant: float) -> Activation:
    """Return the activation with this slope below zero."""
    if not _LEAST <= abs(constant) <= _MOST:
        raise ValueError(
            f"the constant of leaky_relu must be between {_LEAST:g} and {_MOST:g}, or minus that, got {constant}; "
            f"change it, or use relu for 0."
        )

    def value(a: Tensor, parameter: Tensor | None = None) -> Tensor:
        return torch.where(a <= 0, constant * a, a)

    def derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
        return torch.where(a > 0, torch.ones_like(a), constant)

    return Activation(
        "leaky_relu",
        value,
        derivative,
        zero,
        7,
        lipschitz=max(1.0, abs(constant)),
        least_slope=min(1.0, constant),
        piecewise_linear=True,
        constant=constant,
    )


def scaled_sin_of(constant: float) -> Activation:
    """Return sin(w a) / w with this w."""
    _check("sin", constant, _MOST)
    return Activation(
        "sin",
        lambda a, parameter=None: torch.sin(constant * a) / constant,
        lambda a, parameter=None, h=None: torch.cos(constant * a),
        lambda a, parameter=None, h=None, d=None: -constant * torch.sin(constant * a),
        8,
        least_slope=-1.0,
        constant=constant,
    )


def celu_of(constant: float) -> Activation:
    """Return the ELU that goes to minus this number."""
    _check("celu", constant, _MOST)

    def derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
        return torch.exp(a.clamp(max=0.0) / constant) if h is None else h.clamp(max=0.0) / constant + 1.0

    def second(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None) -> Tensor:
        return (derivative(a, None, h) if d is None else d) / constant * (a < 0)

    def value(a: Tensor, parameter: Tensor | None = None) -> Tensor:
        return torch.where(a > 0, a, constant * torch.expm1(a.clamp(max=0.0) / constant))

    return Activation("celu", value, derivative, second, 14, constant=constant)


def leaky_lswish_of(constant: float) -> Activation:
    """Return alpha a + (1 - alpha) LipSwish(a) with this alpha (i-DenseNet, arXiv 2102.02694)."""
    _check("leaky_lswish", constant, math.nextafter(1.0, 0.0))
    rest = 1.0 - constant

    def parameter_derivatives(a: Tensor, parameter: Tensor | None = None) -> tuple[Tensor, Tensor]:
        of_value, of_derivative = lipswish_parameter(a, parameter)
        return rest * of_value, rest * of_derivative

    return Activation(
        "leaky_lswish",
        lambda a, parameter=None: constant * a + rest * lipswish(a, parameter),
        lambda a, parameter=None, h=None: constant + rest * lipswish_derivative(a, parameter),
        lambda a, parameter=None, h=None, d=None: rest * lipswish_second(a, parameter),
        16,
        parameter_derivatives,
        lipschitz=math.nextafter(constant + rest * GREATEST_SLOPE, math.inf),
        least_slope=math.nextafter(constant + rest * LEAST_SLOPE, -math.inf),
        has_parameter=True,
        constant=constant,
    )


FAMILIES: dict[str, Callable[[float], Activation]] = {
    "leaky_relu": leaky_relu_of,
    "sin": scaled_sin_of,
    "celu": celu_of,
    "leaky_lswish": leaky_lswish_of,
}


def member(name: str) -> Activation | None:
    """Return the member "family(constant)" of a family, None if the name is none.

    Raises:
        ValueError: the constant makes no sense.
    """
    match = re.fullmatch(r"(\w+)\((.+)\)", name)
    if match is None or match[1] not in FAMILIES:
        return None
    try:
        constant = float(match[2])
    except ValueError:
        return None
    return replace(FAMILIES[match[1]](constant), name=name)


def _check(family: str, constant: float, most: float) -> None:
    if not _LEAST <= constant <= most:
        limit = "below 1" if most < 1.0 else f"at most {most:g}"
        raise ValueError(
            f"the constant of {family} must be at least {_LEAST:g} and {limit}, got {constant}; change it."
        )
