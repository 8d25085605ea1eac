"""The activations a branch may use: value, first and second derivative, Lipschitz constant, one registry for all.

`get` finds one by its name, `names` are those there are, `register` adds one of your own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from . import _phi as phi
from . import _phi_swish as swish
from ._activation import Activation
from ._phi_check import check_activation, check_bound, is_same
from ._phi_families import FAMILIES, LEAKY_LSWISH_CONSTANT, celu_of, leaky_lswish_of, leaky_relu_of, member
from ._phi_swish import CLIPSWISH_SCALE, LIPSWISH_INITIAL_BETA

__all__ = [
    "CLIPSWISH_SCALE",
    "FAMILIES",
    "LIPSWISH_INITIAL_BETA",
    "REGISTRY",
    "Activation",
    "UnknownActivationError",
    "get",
    "names",
    "register",
]


class UnknownActivationError(ValueError):
    """There is no activation of that name, or not yet."""

    def __init__(self, name: object) -> None:
        """Write the sentence; `name` is what was asked for."""
        super().__init__(
            f"activation must be one of {', '.join(names())}, got {name!r}; use one of these names, or register your "
            f"own activation before it is used."
        )
        self.name = name


# The slope just below zero, scale times alpha, rounded up.
_SELU_SLOPE = 1.758099340847377
# max gelu' = gelu'(sqrt(2)), rounded up; the minimum is 1 minus it, since gelu'(a) + gelu'(-a) = 1.
_GELU_SLOPE = 1.128904145185155

_identity = Activation(
    "identity", phi.identity, phi.identity_derivative, phi.zero, 0, least_slope=1.0, piecewise_linear=True
)
_lipswish = Activation(
    "lipswish",
    swish.lipswish,
    swish.lipswish_derivative,
    swish.lipswish_second,
    6,
    swish.lipswish_parameter,
    least_slope=swish.LEAST_SLOPE,
    has_parameter=True,
)
_half_abs = Activation(
    "half_abs",
    phi.half_abs,
    phi.half_abs_derivative,
    phi.zero,
    9,
    least_slope=-1.0,
    piecewise_linear=True,
    internal=True,
)
_selu = Activation("selu", phi.selu, phi.selu_derivative, phi.selu_second, 10, lipschitz=_SELU_SLOPE)
_gelu = Activation(
    "gelu",
    phi.gelu,
    phi.gelu_derivative,
    phi.gelu_second,
    12,
    lipschitz=_GELU_SLOPE,
    least_slope=1.0 - _GELU_SLOPE,
)
_swish = Activation(
    "swish",
    swish.swish,
    swish.swish_derivative,
    swish.swish_second,
    13,
    lipschitz=swish.GREATEST_SLOPE,
    least_slope=swish.LEAST_SLOPE,
)

REGISTRY: dict[str, Activation] = {
    entry.name: entry
    for entry in (
        _identity,
        Activation("relu", phi.relu, phi.relu_derivative, phi.zero, 1, piecewise_linear=True),
        Activation("elu", phi.elu, phi.elu_derivative, phi.elu_second, 2),
        Activation("softplus", phi.softplus, phi.softplus_derivative, phi.softplus_second, 3),
        Activation("tanh", phi.tanh, phi.tanh_derivative, phi.tanh_second, 4),
        Activation("sin", phi.sin, phi.sin_derivative, phi.sin_second, 5, least_slope=-1.0),
        _lipswish,
        leaky_relu_of(0.01),
        _half_abs,
        _selu,
        Activation("sigmoid", phi.sigmoid, phi.sigmoid_derivative, phi.sigmoid_second, 11, lipschitz=0.25),
        _gelu,
        _swish,
        celu_of(1.0),
        Activation("hardtanh", phi.hardtanh, phi.hardtanh_derivative, phi.zero, 15, piecewise_linear=True),
        leaky_lswish_of(LEAKY_LSWISH_CONSTANT),
        Activation("maxmin", phi.maxmin, None, None, None, pairwise=True, piecewise_linear=True),
        Activation("fullsort", phi.fullsort, None, None, None, piecewise_linear=True),
        Activation("clipswish", swish.clipswish, None, None, None, has_parameter=True, expansion=2),
    )
}
# Those of families that were asked for, by name, so that a compiled function only looks them up.
_members: dict[str, Activation] = {}


def names() -> list[str]:
    """Return all names but those of families with another constant, such as "leaky_relu(0.2)"."""
    return [name for name, entry in REGISTRY.items() if not entry.internal]


def get(name: str) -> Activation:
    """Return the activation called `name`, or the member "family(constant)" of a family.

    Raises:
        UnknownActivationError: no activation has that name.
        ValueError: the constant makes no sense.
    """
    if isinstance(name, str):
        if name in REGISTRY:
            return REGISTRY[name]
        if name in _members:
            return _members[name]
        found = member(name)
        if found is not None:
            _members[name] = found
            return found
    raise UnknownActivationError(name)


def register(
    name: str,
    value: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor], Tensor],
    second_derivative: Callable[[Tensor], Tensor] | None,
    lipschitz: float,
    least_slope: float | None = None,
) -> None:
    """Add an activation of your own, which ops, branches and configurations then know by its name.

    It works elementwise and has no kernel: the plain-torch reference serves it, on any device. Models and checkpoints
    hold its name only, so register it before they are read, also where the command line would. The same functions may
    be registered again, as when a cell of a notebook is run again; what is there is kept.

    Example:
        >>> register(
        ...     "arctan",
        ...     torch.atan,
        ...     lambda a: 1.0 / (1.0 + a * a),
        ...     lambda a: -2.0 * a / (1.0 + a * a) ** 2,
        ...     lipschitz=1.0,
        ...     least_slope=0.0,
        ... )
        >>> branch = iresnet_fast.nn.ResidualBranch.dense([2, 64, 2], activation="arctan")

    Args:
        name: a letter, then letters, digits and underscores.
        value: phi(a) for a tensor of any shape, dtype and device, of the same; differentiable by autograd. Lower bounds
            of certificates take it to be right to 16 eps of 1, of a and of phi(a).
        derivative: phi'(a), likewise.
        second_derivative: phi''(a); None: zero, since phi is piecewise linear.
        lipschitz: an upper bound of |phi'|, the smaller the better.
        least_slope: a lower bound of phi', by default -lipschitz.

    Raises:
        ValueError: the name is no such name or taken by another activation, or on a grid of points from -20 to 20 in
            float64 the derivatives are not those of the value or not within the bounds.
    """
    if not isinstance(name, str) or re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) is None:
        raise ValueError(f"name must be a letter, then letters, digits and underscores, got {name!r}; choose another.")
    check_bound("lipschitz", lipschitz)
    least_slope = -lipschitz if least_slope is None else least_slope
    check_bound("least_slope", least_slope)

    def first(a: Tensor, parameter: Any = None, h: Any = None) -> Tensor:
        return derivative(a)

    def second(a: Tensor, parameter: Any = None, h: Any = None, d: Any = None) -> Tensor:
        return phi.zero(a) if second_derivative is None else second_derivative(a)

    entry = Activation(
        name,
        lambda a, parameter=None: value(a),
        first,
        second,
        None,
        lipschitz=lipschitz,
        least_slope=least_slope,
        piecewise_linear=second_derivative is None,
    )
    check_activation(entry, first, second)
    if name in REGISTRY and not is_same(entry, REGISTRY[name]):
        raise ValueError(f"name must be a new one, got {name!r}, which there is already; choose another.")
    REGISTRY.setdefault(name, entry)
