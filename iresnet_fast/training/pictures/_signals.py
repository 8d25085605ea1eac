"""Signals as lines over their samples in time."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from ._figures import BLUE, GREEN, GREY, ORANGE, new_figure, save, tidy

_MOST = 16  # signals of a picture
_COLOURS = (BLUE, ORANGE, GREEN, GREY)  # of channels, in turn


def signals(samples: Tensor, path: str | Path) -> Path:
    """Draw signals in rows and columns to the same scale, a line for each channel; the first 16 if there are more.

    Args:
        samples: [N, C, L].
        path: of the file to write.

    Returns:
        The path.

    Raises:
        ValueError: these are no signals, or the suffix of the path is that of no format.
    """
    if samples.dim() != 3 or samples.shape[0] == 0:
        raise ValueError(f"signals must have shape [N, C, L], got {tuple(samples.shape)}; pass at least one.")
    shown = samples[:_MOST].detach().double().cpu().numpy()
    n_columns = math.ceil(math.sqrt(len(shown)))
    n_rows = math.ceil(len(shown) / n_columns)
    figure = new_figure(0, 2.2 * n_columns + 0.5, 1.4 * n_rows + 0.8)
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    for axes, channels in zip(grid.flat, shown, strict=False):
        for channel, values in enumerate(channels):
            colour = _COLOURS[channel % len(_COLOURS)]
            axes.plot(values, color=colour, linewidth=1.0, label=f"channel {channel + 1}")
        tidy(axes)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    figure.suptitle(f"{len(shown)} signals" + f" of {len(samples)}" * (len(samples) > len(shown)))
    figure.supxlabel("sample in time")
    n_channels = shown.shape[1]
    if 1 < n_channels <= len(_COLOURS):
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=n_channels, frameon=False, fontsize=8)
    return save(figure, path)
