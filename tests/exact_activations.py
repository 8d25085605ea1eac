"""The elementwise activations in 50 digits: phi by its formula, phi' and phi'' by differences of it in 150 digits."""

import functools

import mpmath
import torch
import torch.nn.functional as F
from mpmath import mp, mpf

DIGITS = 50
BETA = 0.5  # of those that learn a slope
_SCALE = mpf("1.1")


def _logistic(a):
    return 1 / (1 + mp.exp(-a))


def _slope(beta):
    return mp.log1p(mp.exp(mpf(beta)))


def _lipswish(a, beta):
    return a * _logistic(_slope(beta) * a) / _SCALE


def _leaky(a, beta, constant):
    return constant * a + (1 - constant) * _lipswish(a, beta)


def _selu(a):
    scale, alpha = mpf("1.0507009873554804934193349852946"), mpf("1.6732632423543772848170429916717")
    return scale * (a if a > 0 else alpha * mp.expm1(a))


def _celu(a, constant):
    return a if a > 0 else constant * mp.expm1(a / constant)


FUNCTIONS = {
    "identity": lambda a, beta: a,
    "relu": lambda a, beta: max(a, mpf(0)),
    "elu": lambda a, beta: _celu(a, 1),
    "softplus": lambda a, beta: mp.log1p(mp.exp(a)),
    "tanh": lambda a, beta: mp.tanh(a),
    "sin": lambda a, beta: mp.sin(a),
    "lipswish": _lipswish,
    "leaky_relu": lambda a, beta: max(a, mpf(0.01) * a),
    "selu": lambda a, beta: _selu(a),
    "sigmoid": lambda a, beta: _logistic(a),
    "gelu": lambda a, beta: a * mp.ncdf(a),
    "swish": lambda a, beta: a * _logistic(a) / _SCALE,
    "celu": lambda a, beta: _celu(a, 1),
    "hardtanh": lambda a, beta: min(max(a, mpf(-1)), mpf(1)),
    "leaky_lswish": lambda a, beta: _leaky(a, beta, _logistic(mpf(-3))),
    "leaky_relu(0.2)": lambda a, beta: max(a, mpf(0.2) * a),
    "leaky_relu(-1.5)": lambda a, beta: a if a > 0 else mpf(-1.5) * a,
    "sin(10)": lambda a, beta: mp.sin(10 * a) / 10,
    "celu(0.5)": lambda a, beta: _celu(a, mpf(0.5)),
    "leaky_lswish(0.25)": lambda a, beta: _leaky(a, beta, mpf(0.25)),
}
NAMES = list(FUNCTIONS)

_SIZES = [2.0**-100, 1e-30, 1e-8, 1e-3, 0.04, 0.1, 0.3, 0.5, 0.77, 0.999, 1.002, 1.3, 1.41, 1.8, 2.2, 2.4, 3.1, 3.7]
_SIZES += [4.6, 5.3, 6.0, 7.2, 8.8, 10.1, 12.0, 13.9, 17.0, 21.0, 26.0, 33.0, 41.0, 60.0, 80.0]
# Numbers of float32, so that they are the same in float64; none is a kink.
POINTS = torch.tensor([sign * size for size in _SIZES for sign in (1.0, -1.0)])


@functools.cache
def jets(name, beta=BETA):
    """Return phi, phi' and phi'' at the points, three lists of numbers of 50 digits."""
    with mpmath.workdps(DIGITS):
        function = functools.partial(FUNCTIONS[name], beta=beta)
        return [[mp.diff(function, mpf(a), order) for a in POINTS.tolist()] for order in range(3)]


def steepness(name, beta):
    """Return s if phi is f(s a) / s: how rounding of the argument counts."""
    family = name.split("(")[0]
    if family in ("lipswish", "leaky_lswish"):
        return F.softplus(torch.tensor(beta, dtype=torch.float64)).item()
    return {"sin(10)": 10.0, "celu(0.5)": 2.0}.get(name, 1.0)


def worst(got, name, dtype, beta=BETA):
    """Return the largest error of phi, phi' and phi'' at the points, in what a handful of roundings may do.

    That is 8 eps of 1, or of the result if it is larger; s of 1 for phi'', since phi = f(s a) / s. Rounding s a, or the
    logistic function of it to eps of 1, counts s a times as much in phi', and so on: 2 eps of s^k |a|, of those that
    take a function of s a and multiply by it.
    """
    eps, s = torch.finfo(dtype).eps, steepness(name, beta)
    multiplied = 2.0 if "swish" in name or name == "sin(10)" else 0.0
    found = []
    for order, (numbers, exact) in enumerate(zip(got, jets(name, beta), strict=True)):
        for a, number, want in zip(POINTS.tolist(), numbers.tolist(), exact, strict=True):
            limit = eps * (8.0 * max(1.0, s ** (order - 1), abs(float(want))) + multiplied * s**order * abs(a))
            found.append((float(abs(mpf(number) - want)) / limit, order, a))
    return max(found)


def extreme_slopes(name, beta=BETA):
    """Return the infimum and the supremum of phi', to 1e-40: at kinks, far out, and where phi'' is zero."""
    with mpmath.workdps(DIGITS):
        function = functools.partial(FUNCTIONS[name], beta=beta)
        second = functools.partial(mp.diff, function, n=2)
        near = mpf(10) ** -40
        places = [mpf(0), *(sign * size for size in (near, 1 - near, 1 + near, mpf(200)) for sign in (-1, 1))]
        grid = [mpf(i) / 4 + mpf(1) / 64 for i in range(-41, 41)]
        bends = [second(a) for a in grid]
        signs = [mp.sign(bend) if abs(bend) > near else 0 for bend in bends]  # the differences of a line are not 0
        for left, right, before, after in zip(grid[:-1], grid[1:], signs[:-1], signs[1:], strict=True):
            if before * after < 0:
                places.append(mp.findroot(second, (left, right), solver="anderson", tol=mpf(10) ** -60))
        if name.split("(")[0] in ("relu", "leaky_relu", "elu", "celu", "selu"):
            places.remove(0)  # a difference across the kink
        slopes = [mp.diff(function, a) for a in places]
        return min(slopes), max(slopes)
