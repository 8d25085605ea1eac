"""Images in rows and columns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ._figures import new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def image_grid(images: Tensor, path: str | Path, n_levels: int | None = None) -> Path:
    """Draw images in rows and columns.

    Args:
        images: [N, C, H, W], with C = 1 or 3.
        path: of the file to write.
        n_levels: the values are 0 (black) to n_levels - 1 (white); None: 0 to 1.

    Returns:
        The path.

    Raises:
        ValueError: these are no images, or the suffix of the path is that of no format.
    """
    picture = _tiled(images, 0.0, 1.0 if n_levels is None else n_levels - 1.0, _columns(images))
    figure = new_figure(1, 6.0, 6.0 * picture.shape[0] / picture.shape[1])
    _show(figure, picture)
    return save(figure, path)


def reconstructions(x: Tensor, again: Tensor, error: Tensor, path: str | Path) -> Path:
    """Draw images in odd columns, to the right of each what the inverse makes of it, and the largest error above all.

    Args:
        x: [N, C, H, W]; their least value is black, their largest white.
        again: the shape of x.
        error: [N], to be stated.
        path: of the file to write.

    Returns:
        The path.

    Raises:
        ValueError: these are no images, or the suffix of the path is that of no format.
    """
    pairs = torch.stack((x, again.to(x)), 1).flatten(0, 1)
    picture = _tiled(pairs, float(x.min()), float(x.max()), 2 * _columns(x, 0.5))
    figure = new_figure(1, 6.0, 6.0 * picture.shape[0] / picture.shape[1] + 0.4)
    _show(
        figure, picture, f"{x.shape[0]} images, each beside its reconstruction: error at most {float(error.max()):.1e}"
    )
    return save(figure, path)


def _show(figure: Figure, picture: np.ndarray, title: str = "") -> None:
    (axes,) = figure.axes
    axes.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def _columns(images: Tensor, factor: float = 1.0) -> int:
    return max(1, math.ceil(math.sqrt(factor * images.shape[0])))


def _tiled(images: Tensor, black: float, white: float, columns: int) -> np.ndarray:
    """Return the images [N, C, H, W] in one, [height, width] or [height, width, 3] in [0, 1], with white lines."""
    if images.dim() != 4 or images.shape[0] == 0 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images must have shape [N, C, H, W] with C = 1 or 3, got {tuple(images.shape)}; pass at least one image."
        )
    scaled = ((images.double().cpu() - black) / max(white - black, 1e-12)).nan_to_num(0.0).clamp(0.0, 1.0)
    n, channels, height, width = images.shape
    rows = math.ceil(n / columns)
    tiles = np.ones((rows * columns, height + 1, width + 1, channels))
    tiles[:n, :height, :width] = scaled.permute(0, 2, 3, 1).numpy()
    tiles = tiles.reshape(rows, columns, height + 1, width + 1, channels).swapaxes(1, 2)
    picture: np.ndarray = tiles.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]
    return picture[..., 0] if channels == 1 else picture
