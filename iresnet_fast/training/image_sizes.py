"""How large a model of images or signals is, and its batches, where no preset has the shape of the data."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..data import DataSet
from ..solvers import FixedPoint

# As small as the last scale becomes: mnist ends at 7 x 7, and a kernel of 3 x 3 sees little but the border below 4.
_LEAST_SIDE = {"images": 4, "signals": 8}
_FEW, _BLOCKS_OF_FEW, _BLOCKS = 1000, 2, 4  # blocks of a scale for fewer training samples, and for more
_WIDTHS = {1: 32, 3: 48}  # channels inside the branches for so many of the data
_MOST_BATCH, _LEAST_BATCH = 32, 4
_VALUES_OF_BATCH = 1 << 18  # of the data: what 2 GB hold with all that training keeps of it
_WIDE = 3000  # values from which on float32 cannot be inverted to the tolerance of smaller images


class Sizes(NamedTuple):
    """What follows from the size of the data.

    Attributes:
        preset: of the kind of model, on which the rest builds.
        changes: of its configuration, of a hybrid of that of its flow.
        batch_size: samples of a batch.
        reason: for people, why all that.
    """

    preset: str
    changes: dict[str, Any]
    batch_size: int
    reason: str


def grid_sizes(dataset: DataSet, kind: str) -> Sizes:
    """Return what follows from the size of images [N, C, H, W] or signals [N, C, L].

    There are as many scales as the sides can be halved while they stay long enough: none for odd ones, whose blocks
    then see all pixels. Channels and blocks grow with the data, and a batch has at most as many samples as there are.

    Args:
        dataset: the data.
        kind: of the model, as for `recipe`.
    """
    channels, *sides = dataset.event_shape
    n, n_dims = len(dataset.train), math.prod(dataset.event_shape)
    what = "images" if dataset.is_image else "signals"
    squeezes = _squeezes(sides, _LEAST_SIDE[what])
    width = _WIDTHS[1 if channels == 1 else 3]
    blocks = (_BLOCKS_OF_FEW if n < _FEW else _BLOCKS,) * max(1, squeezes)
    fitting = 1 << max(0, (_VALUES_OF_BATCH // n_dims).bit_length() - 1)
    batch = min(n, max(_LEAST_BATCH, min(_MOST_BATCH, fitting)))
    shape = " x ".join(map(str, dataset.event_shape))
    scales = f"{len(blocks)} scale{'s' * (len(blocks) > 1)} of {blocks[0]} blocks with {width} channels"
    times = "once" if squeezes == 1 else f"{squeezes} times"
    halved = f"their sides can be halved {times}" if squeezes else "their sides are odd or short"
    reason = f"{scales}, batches of {batch}: {n} training {what} of {shape}, {halved}"
    changes: dict[str, Any] = {"blocks": blocks, "squeeze_first": squeezes > 0}
    if kind == "classifier":
        changes |= {"hidden": (width,) * len(blocks), "border": 0}
        return Sizes(_preset(kind, what), changes, batch, reason)
    changes |= {"factor_out": False, "fc_blocks": 0, "hidden": (width, width), "growth": width // 2}
    if dataset.n_levels is None:
        changes["preprocess"] = "standardize"
    elif dataset.is_image:
        # Grey images have much that is black, colours little.
        changes |= {"preprocess": "logit", "alpha": 1e-6 if channels == 1 else 0.05}
    if n_dims > _WIDE:
        changes["solver"] = FixedPoint(tol=1e-3)
    return Sizes(_preset(kind, what), changes, batch, reason)


def _preset(kind: str, what: str) -> str:
    if what == "signals":
        return "signal"
    return "cifar10_small" if kind == "idensenet" else "mnist"


def _squeezes(sides: list[int], least: int) -> int:
    """Return how often all sides can be halved and stay at least so long."""
    n = 0
    while all(side % 2 == 0 and side // 2 >= least for side in sides):
        sides = [side // 2 for side in sides]
        n += 1
    return n
