"""The activations as functions of torch: value, first and second derivative.

A derivative takes the value `h` (and the second derivative the first, `d`) when the caller already has it: ELU, ReLU,
tanh and sine then cost no second transcendental.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._tracing import under_transforms

# torch switches softplus to the identity above this; at its default of 20 the step is visible in float64.
SOFTPLUS_THRESHOLD = 40.0
# Those of torch (self-normalizing networks, arXiv 1706.02515): the slopes right and left of zero.
_SELU_SCALE = 1.0507009873554805
_SELU_LEFT_SCALE = 1.6732632423543772 * _SELU_SCALE
# The density of a normal number is 0 from here on in any precision.
_NORMAL_END = 40.0


def kept(a: Tensor, least: float, most: float) -> Tensor:
    """Return a within bounds; the derivative of torch's clamp at NaN is 0, which would lose it."""
    if not torch.is_grad_enabled() and not under_transforms():
        return a.clamp(least, most)
    return torch.where(a < least, least, torch.where(a > most, most, a))


def identity(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return a


def identity_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return torch.ones_like(a)


def zero(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None) -> Tensor:
    return torch.zeros_like(a)


def relu(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return torch.relu(a)


def relu_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return torch.sign(torch.relu(a) if h is None else h)  # one pass; a comparison would need a second for the dtype


def elu(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return F.elu(a)


def elu_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return (F.elu(a) if h is None else h).clamp(max=0.0) + 1.0


def elu_second(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None) -> Tensor:
    return (elu_derivative(a, None, h) if d is None else d) * (a < 0)


def selu(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return F.selu(a)


def selu_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    h = F.selu(a) if h is None else h
    return torch.where(h > 0, _SELU_SCALE, h.clamp(max=0.0) + _SELU_LEFT_SCALE)


def selu_second(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None) -> Tensor:
    return (selu_derivative(a, None, h) if d is None else d) * (a < 0)


def hardtanh(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return F.hardtanh(a)


def hardtanh_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return torch.where(a.abs() >= 1.0, torch.zeros_like(a), 1.0)


def softplus(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return F.softplus(a, threshold=SOFTPLUS_THRESHOLD)


def softplus_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return torch.sigmoid(a)


def softplus_second(
    a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None
) -> Tensor:
    d = torch.sigmoid(a) if d is None else d
    return d * (1.0 - d)


def sigmoid(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return torch.sigmoid(a)


def sigmoid_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    h = torch.sigmoid(a) if h is None else h
    return h * (1.0 - h)


def sigmoid_second(
    a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None
) -> Tensor:
    h = torch.sigmoid(a) if h is None else h
    return (h * (1.0 - h) if d is None else d) * (1.0 - 2.0 * h)


def tanh(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return torch.tanh(a)


def tanh_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    h = torch.tanh(a) if h is None else h
    return 1.0 - h * h


def tanh_second(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None) -> Tensor:
    h = torch.tanh(a) if h is None else h
    return -2.0 * h * (1.0 - h * h if d is None else d)


def sin(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return torch.sin(a)


def sin_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return torch.cos(a)


def sin_second(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None) -> Tensor:
    return -(torch.sin(a) if h is None else h)


def _normal_below(a: Tensor) -> Tensor:
    """The probability that a normal number is below a, with all digits on the left too."""
    return 0.5 * torch.erfc(a * -math.sqrt(0.5))


def _normal_density(a: Tensor) -> Tensor:
    return torch.exp(-0.5 * a * a) * math.sqrt(0.5 / math.pi)


def gelu(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    # The smallest number in place of -infinity, for which phi is 0 too; torch's own loses the digits on the left.
    return kept(a, torch.finfo(a.dtype).min, math.inf) * _normal_below(a)


def gelu_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    a = kept(a, -_NORMAL_END, _NORMAL_END)
    return _normal_below(a) + a * _normal_density(a)


def gelu_second(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None) -> Tensor:
    a = kept(a, -_NORMAL_END, _NORMAL_END)
    return (2.0 - a * a) * _normal_density(a)


def _half_abs_slope(a: Tensor) -> Tensor:
    """The slope below zero of each channel of [B, C, ...]: -1 in the first half, 1 in the others."""
    slope = a.new_ones(a.shape[1])
    slope[: a.shape[1] // 2] = -1.0
    return slope.view(-1, *[1] * (a.dim() - 2))


def half_abs(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return torch.where(a <= 0, _half_abs_slope(a) * a, a)


def half_abs_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return torch.where(a > 0, 1.0, _half_abs_slope(a))


def maxmin(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    paired = a.shape[1] // 2 * 2
    even, odd = a[:, 0:paired:2], a[:, 1:paired:2]
    sorted_pairs = torch.stack((torch.maximum(even, odd), torch.minimum(even, odd)), 2).flatten(1, 2)
    return sorted_pairs if paired == a.shape[1] else torch.cat((sorted_pairs, a[:, paired:]), 1)


def fullsort(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return a.sort(1, descending=True).values  # the largest first, as maxmin
