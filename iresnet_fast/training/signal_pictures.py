"""Pictures of signals."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from .pictures import _figure, _save

_MOST = 16  # signals in a picture
_COLUMNS = 4


def signals(samples: Tensor, path: str | Path) -> Path:
    """Draw the first 16 signals as lines, each in axes of its own with the same scale; a line for each channel.

    Args:
        samples: [N, C, L].
        path: of the file to write.

    Returns:
        The path.

    Raises:
        ValueError: these are no signals.
    """
    if samples.dim() != 3 or samples.numel() == 0:
        raise ValueError(
            f"signals must have shape [N, C, L] for a picture, got {tuple(samples.shape)}; pass at least one."
        )
    shown = samples[:_MOST].double().cpu()
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = _figure(0, 3.0 * columns, 1.5 * rows + 0.4)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for place, signal in zip(axes, shown, strict=False):
        place.plot(signal.T.numpy(), linewidth=0.8)
    for place in list(axes)[len(shown) :]:
        place.set_axis_off()
    figure.suptitle(f"{len(shown)} of {len(samples)} samples", fontsize=9)
    return _save(figure, path)
