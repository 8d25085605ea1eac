"""The activations a branch may use: value, first and second derivative, Lipschitz constant, one registry for all."""

from __future__ import annotations

from ._activation import Activation
from ._phi import (
    SELU_LEFT_SCALE,
    elu,
    elu_derivative,
    elu_second,
    fullsort,
    gelu,
    gelu_derivative,
    gelu_second,
    half_abs,
    half_abs_derivative,
    hardtanh,
    hardtanh_derivative,
    identity,
    identity_derivative,
    maxmin,
    relu,
    relu_derivative,
    selu,
    selu_derivative,
    selu_second,
    sigmoid,
    sigmoid_derivative,
    sigmoid_second,
    sin,
    sin_derivative,
    sin_second,
    softplus,
    softplus_derivative,
    softplus_second,
    tanh,
    tanh_derivative,
    tanh_second,
    zero,
)
from ._phi_families import FAMILIES, LEAKY_LSWISH_CONSTANT, celu_of, leaky_lswish_of, leaky_relu_of, member
