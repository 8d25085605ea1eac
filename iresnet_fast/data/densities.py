"""The eight two-dimensional densities of FFJORD (arXiv 1810.01367) and Residual Flows (arXiv 1906.02735).

Points are independent draws, except that scikit-learn spaces those of `circles` and `moons` evenly along the curves
before it adds noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import _checks
from .._optional import needed
from .dataset import DataError, DataSet

N_TRAIN, N_TEST = 50_000, 10_000

Array = NDArray[Any]
Sampler: TypeAlias = "Callable[[int, np.random.Generator], Array]"  # a string: numpy.random loads when it is used


def sample_density(name: str, n: int, seed: int = 0) -> Tensor:
    """Return n points [n, 2], float32, of a two-dimensional density.

    Args:
        name: swissroll, circles, rings, moons, 8gaussians, pinwheel, 2spirals or checkerboard.
        n: how many.
        seed: the same seed gives the same points; no global generator is used.

    Raises:
        DataError: there is no density of that name.
        ValueError: n or seed is too small.
        TypeError: n or seed is not an integer.
    """
    if name not in DENSITIES:
        raise DataError(f"name must be one of {', '.join(DENSITIES)}, got {name!r}; use one of them.")
    _checks.check_count("n", n, 1)
    _checks.check_count("seed", seed, 0)
    return _points(name, n, np.random.default_rng(seed))


def load_density(name: str, seed: int) -> DataSet:
    """Return a data set of 50,000 points to train on and 10,000 others to test on."""
    # Not the points that sample_density draws for a small seed: these are for whoever wants others.
    train, test = (_points(name, n, np.random.default_rng([seed, 1, part])) for part, n in ((1, N_TRAIN), (2, N_TEST)))
    return DataSet(name, train, test)


def _points(name: str, n: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(DENSITIES[name](n, rng).astype(np.float32))


def _legacy_seed(rng: np.random.Generator) -> int:
    """Return a seed for scikit-learn, which takes no Generator."""
    return int(rng.integers(2**31))


def _swissroll(n: int, rng: np.random.Generator) -> Array:
    with needed("the density swissroll"):
        from sklearn.datasets import make_swiss_roll  # type: ignore[import-untyped]

    points: Array = make_swiss_roll(n, noise=1.0, random_state=_legacy_seed(rng))[0]
    return points[:, [0, 2]] / 5.0


def _circles(n: int, rng: np.random.Generator) -> Array:
    with needed("the density circles"):
        from sklearn.datasets import make_circles

    points: Array = make_circles(n, factor=0.5, noise=0.08, random_state=_legacy_seed(rng))[0]
    return 3.0 * points


def _moons(n: int, rng: np.random.Generator) -> Array:
    with needed("the density moons"):
        from sklearn.datasets import make_moons

    points: Array = make_moons(n, noise=0.1, random_state=_legacy_seed(rng))[0]
    return 2.0 * points + (-1.0, -0.2)


def _rings(n: int, rng: np.random.Generator) -> Array:
    radius = 0.75 * rng.integers(1, 5, n)
    return _polar(radius, rng.uniform(0.0, 2.0 * np.pi, n)) + 0.08 * rng.standard_normal((n, 2))


def _eight_gaussians(n: int, rng: np.random.Generator) -> Array:
    centres = _polar(np.full(n, 4.0), rng.integers(8, size=n) * np.pi / 4.0)
    return (centres + 0.5 * rng.standard_normal((n, 2))) / 1.414  # rounded so in both papers' code


def _pinwheel(n: int, rng: np.random.Generator) -> Array:
    along, across = 1.0 + 0.3 * rng.standard_normal(n), 0.1 * rng.standard_normal(n)
    angle = -(rng.integers(5, size=n) * 2.0 * np.pi / 5.0 + 0.25 * np.exp(along))  # clockwise: the arms lag behind
    return 2.0 * (_polar(along, angle) + _polar(across, angle + np.pi / 2.0))


def _two_spirals(n: int, rng: np.random.Generator) -> Array:
    angle = 3.0 * np.pi * np.sqrt(rng.random(n))  # one and a half turns, evenly over the disk
    arm = _polar(angle, np.pi - angle) + 0.5 * rng.random((n, 2))
    sign = 1.0 - 2.0 * rng.integers(2, size=(n, 1))
    return sign * arm / 3.0 + 0.1 * rng.standard_normal((n, 2))


def _checkerboard(n: int, rng: np.random.Generator) -> Array:
    """Points of the squares of side 2 of a 4 x 4 board on [-4, 4]^2 whose column and row are both odd or both even."""
    column, row = rng.integers(4, size=n), 2 * rng.integers(2, size=n)
    return 2.0 * (np.stack((column, row + column % 2), 1) + rng.random((n, 2))) - 4.0


def _polar(radius: Array, angle: Array) -> Array:
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), 1)


DENSITIES: dict[str, Sampler] = {
    "swissroll": _swissroll,
    "circles": _circles,
    "rings": _rings,
    "moons": _moons,
    "8gaussians": _eight_gaussians,
    "pinwheel": _pinwheel,
    "2spirals": _two_spirals,
    "checkerboard": _checkerboard,
}
