"""Fits the constants of the plan model to measured times, by least squares on their logarithms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Constants = dict[str, float]
Model = Callable[[Constants], Array]  # modelled times of all measurements

ROUNDS = 12
STEP = 1e-3  # of a logarithm, for differences
# The model is a maximum of several costs, so a constant may act on no measurement. A pull keeps it where it started: a
# constant wrong by a factor of e costs as much as a measurement that is off by the error of a measurement, which is
# what the model leaves of all of them, but at least LEAST_ERROR, relative.
LEAST_ERROR = 0.02
DETERMINED = 0.3  # standard deviation of a constant's logarithm
FARTHEST = 3.0  # a constant moves by at most this factor in either direction in one round
GAIN = 0.1  # of the sum of squared errors, each in units of the error: a round that gains less is the last


class Fit(NamedTuple):
    """What measured times tell of the constants of a model.

    Attributes:
        constants: all of them; where they started are those that the times do not tell.
        moved: the names of those that the times tell if the ones that did not move are right.
        determined: of these, the names of those that the times tell whatever the others are.
        finished: whether there was time for all this; else the constants are the best so far, and no name is given.
    """

    constants: Constants
    moved: list[str]
    determined: list[str]
    finished: bool


def fit(
    model: Model, measured: Array, start: Constants, free: Sequence[str], left: Callable[[], float] = lambda: math.inf
) -> Fit:
    """Return the constants with which the model is closest to the measured times, and which of them the times tell.

    Those that the times do not tell within about a third are put back, the least certain first, and the others fitted
    again. Of two that act alike one is put back, and the other moves for both.

    Args:
        model: modelled times, in the order of `measured`; all positive.
        measured: times, in the same unit.
        start: all constants.
        free: the names of those to be fitted; the others stay.
        left: returns the seconds that remain; no round of the search begins without any.
    """
    moved, at = list(free), start
    while True:
        at, error = _closest(model, measured, start, at, moved, left)
        if left() <= 0.0:
            return Fit(at, [], [], finished=False)
        kept = _told(_slopes(model, at, moved) / error, moved)
        if kept == moved:
            break
        at = {**at, **{name: start[name] for name in moved if name not in kept}}
        moved = kept
    alone = determined(model, at, free, error)
    return Fit(at, moved, [name for name in moved if name in alone], finished=True)


def determined(model: Model, at: Constants, free: Sequence[str], error: float) -> list[str]:
    """Return the names of the constants that the measurements tell within about a third, whatever the others are.

    Of two that act alike they tell only the sum, so neither counts.

    Args:
        model: modelled times of the measurements; all positive.
        at: all constants, as fitted.
        free: the names of those that are not known.
        error: of a measurement, relative.
    """
    variances = _variances(_slopes(model, at, free) / error)
    return [name for name, variance in zip(free, variances, strict=True) if variance < DETERMINED**2]


def within(measured: Array, modelled: Array, groups: Sequence[object], share: float) -> tuple[int, int]:
    """Return in how many groups the fastest by the model was measured within `share` of the best, and of how many.

    A group of one leaves nothing to choose and is not counted.
    """
    hits = choices = 0
    for group in dict.fromkeys(groups):
        members = [i for i, other in enumerate(groups) if other == group]
        if len(members) == 1:
            continue
        chosen = min(members, key=lambda i: modelled[i])
        hits += bool(measured[chosen] <= (1.0 + share) * min(measured[i] for i in members))
        choices += 1
    return hits, choices


def _closest(
    model: Model, measured: Array, start: Constants, at: Constants, names: Sequence[str], left: Callable[[], float]
) -> tuple[Constants, float]:
    """Return the best constants found from `at` on by moving those named, and the error of a measurement there."""

    def residuals(constants: Constants) -> Array:
        return np.log(model(constants) / measured)

    def from_start(constants: Constants) -> Array:
        return np.log([constants[name] / start[name] for name in names])

    there, damping = residuals(at), 1e-2
    error = _error(there, len(names))
    for _ in range(ROUNDS if names else 0):
        if left() <= 0.0:
            break
        slopes, pulled = _slopes(model, at, names), from_start(at)
        normal = slopes.T @ slopes + error**2 * np.eye(len(names))
        gradient = slopes.T @ there + error**2 * pulled
        gain = 0.0
        while gain <= 0.0 and damping < 1e6:
            move = -np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
            trial = _moved(at, names, move.clip(-np.log(FARTHEST), np.log(FARTHEST)))
            new, new_pulled = residuals(trial), from_start(trial)
            gain = there @ there - new @ new + error**2 * (pulled @ pulled - new_pulled @ new_pulled)
            damping *= 0.1 if gain > 0.0 else 10.0
        if gain > 0.0:
            at, there = trial, new
        if gain < GAIN * error**2:
            break
        error = _error(there, len(names))
    return at, error


def _error(residuals: Array, fitted: int) -> float:
    """Return the error of a measurement, of residuals after a fit of so many constants."""
    return max(LEAST_ERROR, math.sqrt(residuals @ residuals / max(1, len(residuals) - fitted)))


def _told(slopes: Array, names: Sequence[str]) -> list[str]:
    """Return the names but for those that the times do not tell; the least certain goes first, as if it were known."""
    kept = list(range(len(names)))
    while kept:
        variances = _variances(slopes[:, kept])
        worst = int(np.argmax(variances))
        if variances[worst] < DETERMINED**2:
            break
        del kept[worst]
    return [names[i] for i in kept]


def _variances(slopes: Array) -> Array:
    """Return the variance of each constant's logarithm, 1 without any measurement.

    Args:
        slopes: of the logarithms of the times, in units of their error, a column for each constant.
    """
    return np.diag(np.linalg.inv(slopes.T @ slopes + np.eye(slopes.shape[1])))


def _moved(constants: Constants, names: Sequence[str], move: Array) -> Constants:
    """Return the constants with those moved whose logarithms a move changes."""
    return {**constants, **{name: constants[name] * math.exp(by) for name, by in zip(names, move, strict=True)}}


def _slopes(model: Model, at: Constants, names: Sequence[str]) -> Array:
    """Return the derivatives of the logarithms of the times, a column for each constant."""
    there = np.log(model(at))
    slopes = np.empty((len(there), len(names)))
    for i, name in enumerate(names):
        slopes[:, i] = (np.log(model(_moved(at, [name], np.array([STEP])))) - there) / STEP
    return slopes
