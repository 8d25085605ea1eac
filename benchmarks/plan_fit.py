"""Fits the constants of the plan model to measured times, by least squares on their logarithms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Array = NDArray[np.float64]
Constants = dict[str, float]
Model = Callable[[Constants], Array]  # modelled times of all measurements

ROUNDS, EVALUATIONS = 12, 4  # of the search; of the model, in a round
STEP = 1e-3  # of a logarithm, for differences
# The model is a maximum of several costs, so a constant may act on no measurement. A pull keeps it where it started: a
# constant wrong by a factor of e costs as much as a measurement that is off by the error of a measurement, which is
# what the model leaves of all of them, but at least LEAST_ERROR, relative.
LEAST_ERROR = 0.02
DETERMINED = 0.3  # standard deviation of a constant's logarithm
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

    def residuals(logs: Array) -> Array:
        """Return how far the times are off, and the pull on the logarithms, relative to where they started."""
        return np.concatenate((np.log(model(_moved(start, names, logs)) / measured), error * logs))

    def slopes(logs: Array) -> Array:
        return np.concatenate((_slopes(model, _moved(start, names, logs), names), error * np.eye(len(names))))

    logs, gain = np.log([at[name] / start[name] for name in names]), math.inf
    error = _error(np.log(model(at) / measured), len(names))
    for _ in range(ROUNDS if names else 0):
        if left() <= 0.0 or gain < GAIN * error**2:
            break
        before = residuals(logs)
        found = least_squares(residuals, logs, slopes, max_nfev=EVALUATIONS)
        gain = before @ before - 2.0 * found.cost
        logs = found.x
        error = _error(found.fun[: len(measured)], len(names))
    return _moved(start, names, logs), error


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
