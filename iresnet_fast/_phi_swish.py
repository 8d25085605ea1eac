"""Swish and its kin as functions of torch: Swish, LipSwish, CLipSwish, and the parts of LeakyLSwish."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._phi import SOFTPLUS_THRESHOLD, kept

LIPSWISH_INITIAL_BETA = 0.5
# max swish' is 1.0998 at any slope: divided by 1.1 it stays below 1 (Residual Flows, arXiv 1906.02735, section 3.3).
_SCALE = 1.0 / 1.1
# The maximum of swish' over 1.1, rounded up, and its minimum, rounded down: 1 - max swish', since swish'(u) +
# swish'(-u) = 1.
GREATEST_SLOPE = 0.9998539273898791
LEAST_SLOPE = -0.09076301829896993
# With s = swish', [s(a), 1 - s(a)] are the derivatives of swish(a) and -swish(-a). The norm of the pair is at most
# 1.104363 whatever the slope, 1.003966 once divided by LipSwish's 1.1 (i-DenseNet, arXiv 2102.02694).
CLIPSWISH_SCALE = 1.004
# The logistic function of it is 0 or 1 in any precision.
_LOGISTIC_ENDS = 1024.0


def _slope(a: Tensor, parameter: Tensor | None) -> Tensor:
    """The slope s = softplus(beta) of LipSwish, positive whatever beta is."""
    beta = a.new_full((), LIPSWISH_INITIAL_BETA) if parameter is None else parameter
    # Zero times infinity is no number; a positive slope this small does as little.
    return F.softplus(beta, threshold=SOFTPLUS_THRESHOLD).clamp(min=torch.finfo(a.dtype).tiny)


def _scaled(a: Tensor, slope: Tensor | float) -> Tensor:
    """Return s a, but no further out than where the logistic function is 0 or 1: it may be multiplied by a zero."""
    return kept(a * slope, -_LOGISTIC_ENDS, _LOGISTIC_ENDS)


def _value(a: Tensor, slope: Tensor | float) -> Tensor:
    # The smallest number in place of -infinity, for which phi is 0 too.
    return kept(a, torch.finfo(a.dtype).min, math.inf) * torch.sigmoid(_scaled(a, slope)) * _SCALE


def _derivative(a: Tensor, slope: Tensor | float) -> Tensor:
    u = _scaled(a, slope)
    p = torch.sigmoid(u)
    return p * (1.0 + u * (1.0 - p)) * _SCALE


def _second(a: Tensor, slope: Tensor | float) -> Tensor:
    u = _scaled(a, slope)
    p = torch.sigmoid(u)
    return p * (1.0 - p) * (2.0 + u * (1.0 - 2.0 * p)) * (slope * _SCALE)


def swish(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return _value(a, 1.0)


def swish_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return _derivative(a, 1.0)


def swish_second(
    a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None
) -> Tensor:
    return _second(a, 1.0)


def lipswish(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return _value(a, _slope(a, parameter))


def lipswish_derivative(a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    return _derivative(a, _slope(a, parameter))


def lipswish_second(
    a: Tensor, parameter: Tensor | None = None, h: Tensor | None = None, d: Tensor | None = None
) -> Tensor:
    return _second(a, _slope(a, parameter))


def lipswish_parameter(a: Tensor, parameter: Tensor | None = None) -> tuple[Tensor, Tensor]:
    beta = a.new_full((), LIPSWISH_INITIAL_BETA) if parameter is None else parameter
    u = _scaled(a, _slope(a, parameter))
    p = torch.sigmoid(u)
    # ds/dbeta = sigmoid(beta); phi = a p(s a) and phi' = f(s a) with f the derivative of swish.
    a = kept(a, torch.finfo(a.dtype).min, torch.finfo(a.dtype).max)  # zero times infinity is no number
    common = a * (p * (1.0 - p)) * (torch.sigmoid(beta) * _SCALE)
    return a * common, (2.0 + u * (1.0 - 2.0 * p)) * common


def clipswish(a: Tensor, parameter: Tensor | None = None) -> Tensor:
    return torch.cat((lipswish(a, parameter), lipswish(-a, parameter)), 1) / CLIPSWISH_SCALE
