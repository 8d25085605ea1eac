"""The constants of the rule that chooses between tiles and layers (csrc/cpu/way.cpp), fitted to times of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from cases import Case
from machine import Record
from numpy.typing import NDArray
from text_table import table

from iresnet_fast import _library

TILES, LAYERS = "tiles", "layers"
_COUNTS = {TILES: "tile_counts", LAYERS: "layer_counts"}
_N_CONSTANTS = {TILES: 4, LAYERS: 5}
_KINDS = {"kDenseConstants": True, "kConvolutionConstants": False}
# As in csrc/cpu/way.cpp: branches of fewer weights, and larger images, always go in tiles.
_LEAST_WEIGHTS, _SMALL_IMAGE = 1 << 16, 25


def ways(way: str) -> Callable[[Callable[[], object]], object]:
    """Return what calls a step in one way, whatever the rule says."""
    module: Any = _library.extension()

    def call(step: Callable[[], object]) -> object:
        module.force_cpu_way(way)
        try:
            return step()
        finally:
            module.force_cpu_way("")

    return call


def work_of(shape: Case, mode: str) -> dict[str, Any]:
    """Return what the rule counts of a shape, and which way it chooses; the works are those of torch/cpu/device.h."""
    module: Any = _library.extension()
    kernels = list(shape.kernels or (1,) * (len(shape.widths) - 1))
    work = (1, 1, shape.terms, 1, False) if mode == "eval" else (2, 2, shape.terms - 1, 1, True)
    way: dict[str, Any] = module.cpu_way(
        list(shape.widths), kernels, shape.image or (0, 0), shape.batch, *work, torch.get_num_threads(), 4
    )
    counts = {key: way[key] for key in ("layers", *_COUNTS.values())}
    pixels = shape.image[0] * shape.image[1] if shape.image else 1
    pairs = zip(shape.widths, shape.widths[1:], kernels, strict=False)
    weights = sum(before * after * kernel * kernel for before, after, kernel in pairs)
    return {**counts, "dense": shape.image is None, "pixels": pixels, "weights": weights}


def fit(records: Sequence[Record]) -> str:
    """Return the constants as lines of C++, and the shapes whose rule by them is more than 3 % off the faster way."""
    lines, constants = [], {}
    for name, dense in _KINDS.items():
        chosen_from = [record for record in records if record["dense"] == dense and record["weights"] >= _LEAST_WEIGHTS]
        constants[dense] = {way: _least_squares(chosen_from, way) for way in _COUNTS}
        lines.append(f"{name}:")
        for way, values in constants[dense].items():
            lines.append(f"    .{way} = {{{', '.join(f'{value:.3g}' for value in values)}}},")
    rows, cost = [], []
    for record in records:
        modelled = {
            way: float(np.dot(record[counts], constants[record["dense"]][way])) / 1e6 for way, counts in _COUNTS.items()
        }
        asked = record["weights"] >= _LEAST_WEIGHTS and (record["dense"] or record["pixels"] <= _SMALL_IMAGE)
        times, chosen = record["ways"], min(modelled, key=modelled.__getitem__) if asked else TILES
        loss = times[chosen] / min(times.values())
        cost.append(loss)
        if loss > 1.03:
            rows.append(
                [record["shape"], record["mode"], chosen, *(f"{times[way]:.3g}" for way in _COUNTS),
                 *(f"{modelled[way]:.3g}" for way in _COUNTS), f"{loss:.2f}x"]
            )  # fmt: skip
    header = ["shape and batch", "mode", "chosen", "tiles ms", "layers ms", "modelled", "modelled", "cost"]
    wrong = table(header, rows) if rows else "The rule is within 3 % of the faster way on all shapes."
    mean = float(np.mean(cost))
    return "\n".join([*lines, "", f"Mean cost of the choice: {mean:.3f}x the faster way.", "", wrong])


def _least_squares(records: Sequence[Record], way: str) -> NDArray[np.float64]:
    """Return the constants, none of them negative, with the least squares of relative errors."""
    counts = np.array([record[_COUNTS[way]] for record in records])
    nanoseconds = np.array([record["ways"][way] * 1e6 for record in records])
    if not records:  # of shapes of the other kind alone
        return np.zeros(_N_CONSTANTS[way])
    relative = counts / nanoseconds[:, None]
    return _nonnegative(relative, np.ones(len(records)))


def _nonnegative(matrix: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return x >= 0 with the least |matrix x - target|, by trying every set of columns that may be positive."""
    columns = matrix.shape[1]
    best, least = np.zeros(columns), float(target @ target)
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0.0] = 1.0
    for subset in range(1, 1 << columns):
        used = [i for i in range(columns) if subset >> i & 1]
        part, *_ = np.linalg.lstsq(matrix[:, used] / scale[used], target, rcond=None)
        if (part < 1e-9).any():  # of columns of length one: one that adds nothing is not used
            continue
        x = np.zeros(columns)
        x[used] = part / scale[used]
        error = matrix @ x - target
        if error @ error < least:
            best, least = x, float(error @ error)
    return best
