"""A lower bound of the Lipschitz constant of a branch: the steepest secant found at a few points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import activations as registry
from ._operators import Operator
from ._rounding import UNIT, gamma

_POINTS = 3
_ITERATIONS = 3
_LENGTH = 1e-4  # of a secant: its slope is off the derivative by so much, its rounding by 1e-16 over so much


class Layer(NamedTuple):
    """An activation and the linear map behind it.

    Attributes:
        activation: of the registry.
        parameter: of the activation, or None.
        operator: of one group, with weights in float64.
        bias: [out] in float64, or None.
        norm: an upper bound of that of the map.
    """

    activation: registry.Activation
    parameter: Tensor | None
    operator: Operator
    bias: Tensor | None
    norm: float


def steepest_secant(layers: Sequence[Layer]) -> float:
    """Return the largest |g(y) - g(x)| / |y - x| found, with all that rounding may have added taken off; 0 if nothing.

    x is normal, y - x about the direction in which the derivative at x is largest.
    """
    # Pixels of which every one is treated by itself are as good as one.
    pixels = next((layer.operator.geometry.image_size for layer in layers if not layer.operator.is_pointwise), (1, 1))
    weight = layers[0].operator.weight
    shape = (1, weight.shape[2] // layers[0].activation.expansion, *pixels)
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for _ in range(_POINTS):
        x, v = (torch.randn(shape, generator=generator, dtype=torch.float64).to(weight.device) for _ in range(2))
        with torch.enable_grad():
            value = _value(layers, x.requires_grad_())
        for _ in range(_ITERATIONS):
            y = x.detach() + _LENGTH * v / torch.linalg.vector_norm(v)
            (v,) = torch.autograd.grad(value, x, _value(layers, y.detach()) - value.detach(), retain_graph=True)
        x = x.detach()
        y = x + _LENGTH * v / torch.linalg.vector_norm(v)
        (first, first_error), (second, second_error) = _with_error(layers, x), _with_error(layers, y)
        rise = torch.linalg.vector_norm(second - first) * (1.0 - gamma(value.numel() + 8)) - first_error - second_error
        slope = float(rise / (torch.linalg.vector_norm(y - x) * (1.0 + gamma(x.numel() + 8))))
        largest = max(largest, slope * (1.0 - 4.0 * UNIT))  # max keeps the old one if the new one is NaN
    return largest


def _value(layers: Sequence[Layer], x: Tensor) -> Tensor:
    for layer in layers:
        x = _add(layer.operator.apply(_activate(layer, x)), layer.bias)
    return x


def _with_error(layers: Sequence[Layer], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return g(x) and a bound [] of the Euclidean norm of its error.

    An activation is off by at most 16 u (|a| + |phi(a)| + 1) itself; a layer by 2 gamma_k |W| |h| for sums of k
    products, and by u of what the bias makes of it.
    """
    error = x.new_zeros(())
    for layer in layers:
        h = _activate(layer, x)
        inputs = x.abs().repeat(1, layer.activation.expansion, 1, 1)
        own = 16.0 * UNIT * torch.linalg.vector_norm(inputs + h.abs() + 1.0)
        error = layer.activation.lipschitz * error + own
        k = layer.operator.weight[0, 0].numel()
        absolute = layer.operator.apply(h.abs(), layer.operator.weight.abs())
        x = _add(layer.operator.apply(h), layer.bias)
        error = layer.norm * error + 2.0 * gamma(k + 4) * torch.linalg.vector_norm(absolute)
        error = (error + UNIT * torch.linalg.vector_norm(x)) * (1.0 + gamma(x.numel() + 16))
    return x, error


def _activate(layer: Layer, a: Tensor) -> Tensor:
    value: Tensor = layer.activation.value(a, layer.parameter)  # channels in dimension 1, behind the one group
    return value


def _add(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias.view(1, -1, 1, 1)
