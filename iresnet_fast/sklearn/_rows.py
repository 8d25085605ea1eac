"""What an estimator makes of the rows that it is given, in float64, before float32 rounds them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Rows(NamedTuple):
    """Distinct rows and how much each counts.

    Attributes:
        x: [n, d], in lexicographic order.
        weights: [n], positive.
    """

    x: Floats
    weights: Floats


def distinct(x: Floats, weights: Floats | None) -> Rows:
    """Return the distinct rows of a table, each with the sum of its weights; those that weigh nothing are left out.

    A fit then depends on how often a row is there, not on the order of the rows, and a row of weight 2 is the same as
    one that is there twice. A copy of a row that is trained on is not held out for validation either.

    Args:
        x: [n, d], finite.
        weights: [n], not negative; None: 1 each.

    Raises:
        ValueError: there are no rows that count.
    """
    if weights is None:
        weights = np.ones(len(x))
    counting = weights > 0.0
    if not counting.any():
        raise ValueError("sample_weight must be positive for some row, got zero for all of them; correct it.")
    rows, places = np.unique(x[counting], axis=0, return_inverse=True)
    return Rows(rows, np.bincount(places.reshape(-1), weights[counting]).astype(np.float64))


class Scaling(NamedTuple):
    """z = (x - shift) / scale - center, which leaves columns of mean 0 and variance 1.

    Attributes:
        shift: [d], the lowest values: from neighbours that are as large as it is they are subtracted without rounding.
        scale: [d], positive.
        center: [d].
    """

    shift: Floats
    scale: Floats
    center: Floats

    def forward(self, x: Floats) -> Floats:
        """Return z [n, d] for rows x [n, d]."""
        z: Floats = (x - self.shift) / self.scale - self.center
        return z

    def inverse(self, z: Floats) -> Floats:
        """Return rows x [n, d] for z [n, d]."""
        x: Floats = (z + self.center) * self.scale + self.shift
        return x

    @property
    def logdet(self) -> float:
        """Logarithm of the determinant of the map from x to z."""
        return -float(np.log(self.scale).sum())


def fit_scaling(rows: Rows, names: NDArray[Any] | None) -> Scaling:
    """Return the scaling of weighted rows.

    Args:
        rows: what to scale.
        names: of the columns, for errors; None: they are numbered from 0.

    Raises:
        ValueError: a column is constant, or its values are too far apart for float64.
    """
    low, high = rows.x.min(0), rows.x.max(0)
    with np.errstate(over="ignore"):
        span = high - low
    for column in np.flatnonzero((span == 0.0) | np.isinf(span))[:1]:
        what = f"column {column}" if names is None else f"column {str(names[column])!r}"
        if span[column] == 0.0:
            raise ValueError(
                f"X must vary in every column, got only {low[column]:g} in {what} (n_samples={len(rows.x)} distinct "
                f"rows); remove it, it has no density."
            )
        raise ValueError(f"X must have columns whose span float64 holds, got more in {what}; rescale it.")
    # Relative to the lowest value and the span nothing overflows, nor is a digit lost to a large offset.
    relative = (rows.x - low) / span
    mean = np.average(relative, axis=0, weights=rows.weights)
    variance = np.average((relative - mean) ** 2, axis=0, weights=rows.weights)
    deviation = np.sqrt(variance)
    return Scaling(low, deviation * span, mean / deviation)


def offset(scores: Floats, weights: Floats, contamination: float) -> float:
    """Return a threshold below which the share `contamination` of the weights lies, at most, of distinct rows.

    Args:
        scores: [n].
        weights: [n], positive.
        contamination: between 0 and 1.

    Returns:
        The middle between the scores on both sides of it; the lowest score if even that row is more than the share.
    """
    order = np.argsort(scores, kind="stable")
    shares = np.cumsum(weights[order]) / weights.sum()
    below = int(np.searchsorted(shares, contamination * (1.0 + 1e-9), side="right"))  # the sum is rounded
    if below == 0:
        return float(scores[order[0]])
    if below == len(scores):  # a single row
        return float(scores[order[-1]])
    return float(scores[order[below - 1 : below + 1]].mean())
