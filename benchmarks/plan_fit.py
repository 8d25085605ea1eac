"""Fits the constants of the plan model to measured times, by least squares on their logarithms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Constants = dict[str, float]
Model = Callable[[Constants], NDArray[np.float64]]  # modelled times of all measurements

ROUNDS = 12
STEP = 1e-3  # of a logarithm, for differences
# The model is a maximum of several costs, so a constant may act on no measurement: this small pull towards where it
# started keeps it there. A factor of e costs as much as an error of 2 % in one measurement.
PULL = 0.02
DETERMINED = 0.3  # standard deviation of a constant's logarithm
FARTHEST = 3.0  # a constant moves by at most this factor in either direction in one round


def fit(model: Model, measured: NDArray[np.float64], start: Constants, free: Sequence[str]) -> Constants:
    """Return the constants with which the model is closest to the measured times.

    Args:
        model: modelled times, in the order of `measured`; all positive.
        measured: times, in the same unit.
        start: all constants.
        free: the names of those to be fitted; the others stay.
    """
    first = np.log([start[name] for name in free])

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        errors = np.log(model(_with(start, free, logs)) / measured)
        return np.concatenate((errors, PULL * (logs - first)))

    best, damping = first, 1e-2
    current = residuals(best)
    for _ in range(ROUNDS):
        slopes = _slopes(residuals, best, current)
        normal, gradient = slopes.T @ slopes, slopes.T @ current
        while damping < 1e6:
            move = -np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), gradient)
            trial = best + move.clip(-np.log(FARTHEST), np.log(FARTHEST))
            there = residuals(trial)
            if there @ there < current @ current:
                best, current, damping = trial, there, damping / 10
                break
            damping *= 10
        else:
            break
        if np.abs(move).max() < 1e-6:
            break
    return _with(start, free, best)


def determined(model: Model, at: Constants, free: Sequence[str]) -> list[str]:
    """Return the names of the constants that the measurements tell within about a third, if they are right to 2 %.

    Of two that act alike they tell only the sum, so neither counts.

    Args:
        model: modelled times of the measurements; all positive.
        at: all constants, as fitted.
        free: the names of those that were fitted.
    """

    def times(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(model(_with(at, free, logs)))

    logs = np.log([at[name] for name in free])
    slopes = _slopes(times, logs, times(logs)) / PULL
    # The variance of a logarithm is 1 without any measurement, as PULL is an error of 2 % for a factor of e.
    variances = np.diag(np.linalg.inv(slopes.T @ slopes + np.eye(len(free))))
    return [name for name, variance in zip(free, variances, strict=True) if variance < DETERMINED**2]


def within(
    measured: NDArray[np.float64], modelled: NDArray[np.float64], groups: Sequence[object], share: float
) -> tuple[int, int]:
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


def _with(constants: Constants, names: Sequence[str], logs: NDArray[np.float64]) -> Constants:
    return {**constants, **{name: float(value) for name, value in zip(names, np.exp(logs), strict=True)}}


def _slopes(
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]], at: NDArray[np.float64], there: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the derivatives of a function whose value at `at` is `there`, a column for each argument."""
    return np.stack([(function(at + STEP * unit) - there) / STEP for unit in np.eye(len(at))], axis=1)
