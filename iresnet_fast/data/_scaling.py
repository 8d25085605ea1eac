"""Shift and scale of a column of numbers, without which float32 would not keep its digits."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SPACING = 2.0**-23  # of float32 numbers, relative to the next lower power of two
# Values are kept apart if the smallest distance of two of them, or the step of whole numbers, is this many spacings:
# the noise on a step then has as many values.
_LEVELS = 64
# Rounding is negligible if the spread of a column is so many spacings. With n rows of a smooth density, about
# n^2 / (7 * spread) pairs become equal: some in a thousand rows.
_FINE = 2.0**17
# Squares of numbers up to here, and of their inverses, are in the range of float32.
_COMFORTABLE = 2.0**60
_MOST_WHOLE = 1 << 53  # whole numbers up to here are exact as float64
_MOST_STEPS = 1 << 18  # of a column; noise of more would be lost in float32, and nobody sees them
_MOST_TRIED = 4096  # numbers that are tried for being on the grid


class Scaling(NamedTuple):
    """Attributes of a Column, and what has been found out for them.

    Attributes:
        step: as of a Column.
        shift: likewise.
        scale: likewise.
        n_values: number of different values.
        n_kept: number of different values in float32, after the mean was subtracted, as models do.
    """

    step: float
    shift: float
    scale: float
    n_values: int
    n_kept: int


def scaling_of(cells: NDArray[Any], whole: bool) -> Scaling:
    """Return how the values [N] of a column become entries: N >= 1, finite, float64 or int64.

    Args:
        cells: the values.
        whole: whether whole numbers are to have a step.
    """
    with np.errstate(over="ignore", under="ignore"):
        return _scaling(np.unique(cells), cells, whole)


def _scaling(values: NDArray[Any], cells: NDArray[Any], whole: bool) -> Scaling:
    step = _step(values) if whole else 0.0
    base = float(values[0]) % step if step else 0.0
    shift, scale = base, 1.0
    low, high = float(values[0]), float(values[-1])
    size = max(abs(low - base), abs(high - base))
    spread = _spread(cells)
    gap = step or _gap(values)
    is_exact = not step and bool((values.astype(np.float32) == values).all())
    if not is_exact and gap < _LEVELS * size * _SPACING and spread < _FINE * size * _SPACING:
        shift, step = _middle(values, spread, step)
    moved = _moved(values, shift)
    size, spread = float(np.abs(moved).max()), _spread(moved)
    if len(values) > 1 and not (1.0 / _COMFORTABLE < spread and size < _COMFORTABLE):
        scale = 2.0 ** math.floor(math.log2(spread or size))
    entries = (moved / scale).astype(np.float32)
    kept = np.unique(entries - entries.mean(dtype=np.float64).astype(np.float32))
    return Scaling(step, shift, scale, len(values), len(kept[np.isfinite(kept)]))


def is_whole(cells: NDArray[Any]) -> bool:
    """Return whether all values of a column are whole numbers that float64 tells apart."""
    if cells.dtype.kind in "iu":
        return True
    return bool((np.abs(cells) <= _MOST_WHOLE).all() and (cells == np.rint(cells)).all())


def _step(values: NDArray[Any]) -> float:
    """Return the largest distance of which all distances of different whole numbers are multiples; 0.0: too many."""
    if len(values) < 2:
        return 0.0
    step = int(np.gcd.reduce(np.diff(values.astype(np.int64)).astype(np.uint64)))
    steps = (int(values[-1]) - int(values[0])) // step
    return float(step) if steps <= _MOST_STEPS and step <= _MOST_WHOLE else 0.0


def _gap(values: NDArray[Any]) -> float:
    """Return the smallest distance of different values, in increasing order."""
    return float(np.diff(values).min()) if len(values) > 1 else math.inf


def _spread(values: NDArray[Any]) -> float:
    """Return the standard deviation; values may be close to the ends of float64."""
    if values.dtype.kind != "f" and int(values.max()) - int(values.min()) < 1 << 62:
        values = values - values[0]  # float64 has not all digits of int64
    moved = values.astype(np.float64)
    size = float(np.abs(moved).max())
    return float((moved / size).std()) * size if size > 0.0 else 0.0


def _middle(values: NDArray[Any], spread: float, step: float) -> tuple[float, float]:
    """Return a number in the middle of values that is easily read, on the grid of a step, and the step.

    Far from zero float64 may have no number on the grid; the step is 0.0 then.
    """
    middle = values[len(values) // 2]
    if values.dtype.kind != "f" or step:
        unit = max(1, 10 ** max(0, math.floor(math.log10(max(spread, 1.0)))))
        shift = float(int(middle) // unit * unit)
        if not step:
            return shift, 0.0
        base, whole = int(values[0]), int(step)
        shift = float(int(shift) - (int(shift) - base) % whole)
        for _ in range(_MOST_TRIED):
            if (int(shift) - base) % whole == 0:
                return shift, step
            shift = math.nextafter(shift, math.inf)
        return shift, 0.0
    digits = -math.floor(math.log10(spread)) if spread > 0.0 else 0
    shift = round(float(middle), digits)
    return (shift if math.isfinite(shift) else float(middle)), 0.0


def _moved(values: NDArray[Any], shift: float) -> NDArray[np.float64]:
    moved = values - np.int64(shift) if values.dtype.kind != "f" and shift else values - shift
    result: NDArray[np.float64] = moved.astype(np.float64)
    return result
