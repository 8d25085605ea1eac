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
        errors = np.log(model({**start, **dict(zip(free, np.exp(logs), strict=True))}) / measured)
        return np.concatenate((errors, PULL * (logs - first)))

    best, damping = first, 1e-2
    current = residuals(best)
    for _ in range(ROUNDS):
        slopes = np.stack([(residuals(best + STEP * unit) - current) / STEP for unit in np.eye(len(free))], axis=1)
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
    return {**start, **{name: float(value) for name, value in zip(free, np.exp(best), strict=True)}}


def within(measured: NDArray[np.float64], modelled: NDArray[np.float64], groups: Sequence[object], share: float) -> int:
    """Count the groups of alternatives in which the one modelled as fastest was measured within `share` of the best."""
    hits = 0
    for group in dict.fromkeys(groups):
        members = [i for i, other in enumerate(groups) if other == group]
        chosen = min(members, key=lambda i: modelled[i])
        hits += bool(measured[chosen] <= (1.0 + share) * min(measured[i] for i in members))
    return hits
