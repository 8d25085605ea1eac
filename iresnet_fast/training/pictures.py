"""Pictures of what a model does, as PNG files: matplotlib without a display, whatever backend the caller uses."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .._optional import needed
from ..models import IResNetFlow
from ..models._contexts import for_all
from .files import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GRID = 200  # points on a side of a picture of a density
_BATCH = 5000  # of them at a time


def image_grid(images: Tensor, path: str | Path, n_levels: int | None = None) -> Path:
    """Draw images in rows and columns.

    Args:
        images: [N, C, H, W], with C = 1 or 3.
        path: of the file to write.
        n_levels: the values are 0 (black) to n_levels - 1 (white); None: 0 to 1.

    Returns:
        The path.

    Raises:
        ValueError: these are no images.
    """
    picture = _tiled(images, 0.0, 1.0 if n_levels is None else n_levels - 1.0, _columns(images))
    figure = _figure(1, 6.0, 6.0 * picture.shape[0] / picture.shape[1])
    _show(figure, picture)
    return _save(figure, path)


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
        ValueError: these are no images.
    """
    pairs = torch.stack((x, again.to(x)), 1).flatten(0, 1)
    picture = _tiled(pairs, float(x.min()), float(x.max()), 2 * _columns(x, 0.5))
    figure = _figure(1, 6.0, 6.0 * picture.shape[0] / picture.shape[1] + 0.4)
    _show(
        figure, picture, f"{x.shape[0]} images, each beside its reconstruction: error at most {float(error.max()):.1e}"
    )
    return _save(figure, path)


def density(model: IResNetFlow, data: Tensor, path: str | Path, context: Tensor | None = None) -> Path:
    """Draw points of the plane beside the density a model gives the plane.

    Args:
        model: of two dimensions; its mode is restored.
        data: [N, 2].
        path: of the file to write.
        context: [context_features], that of the density, if the model takes one.

    Returns:
        The path.

    Raises:
        ValueError: the model or the data have another number of dimensions, or the context does not fit.
    """
    if model.config.event_shape != (2,) or data.shape[1:] != (2,):
        raise ValueError(
            f"a picture of a density needs two dimensions, got {model.config.event_shape} in the model and "
            f"{tuple(data.shape[1:])} in the data; use it for two-dimensional data."
        )
    points = data.double().cpu().numpy()
    low, high = points.min(0), points.max(0)
    margin = 0.1 * (high - low) + 1e-6  # data on a line too
    xs, ys = (np.linspace(a, b, _GRID) for a, b in zip(low - margin, high + margin, strict=True))
    values = _densities(model, np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2), context).reshape(_GRID, _GRID)
    figure = _figure(2, 9.0, 4.7)
    left, right = figure.axes
    left.set_title(f"{len(points)} points of the data{', at all contexts' * (context is not None)}")
    left.hist2d(points[:, 0], points[:, 1], bins=(xs[::2], ys[::2]), cmap="viridis")
    shown = "" if context is None else f" at context {', '.join(f'{value:.3g}' for value in context.tolist())}"
    right.set_title(f"density of the model{shown}")
    right.pcolormesh(xs, ys, values, cmap="viridis", shading="nearest", rasterized=True)
    for axes in (left, right):
        axes.set_aspect("equal")
    return _save(figure, path)


def points(samples: Tensor, path: str | Path) -> Path:
    """Draw points of the plane.

    Args:
        samples: [N, 2].
        path: of the file to write.

    Returns:
        The path.

    Raises:
        ValueError: the points have another number of dimensions.
    """
    if samples.shape[1:] != (2,):
        raise ValueError(
            f"points must have shape [N, 2] for a picture, got {tuple(samples.shape)}; write them to a file instead."
        )
    figure = _figure(1, 5.0, 5.0)
    (axes,) = figure.axes
    xs, ys = samples.double().cpu().numpy().T
    axes.scatter(xs, ys, s=4.0, linewidths=0.0)
    axes.set_aspect("equal")
    axes.set_title(f"{samples.shape[0]} samples")
    return _save(figure, path)


def curves(log: str | Path, path: str | Path) -> Path:
    """Draw the loss and the metrics of the test set against minutes of training.

    Args:
        log: a log.csv that `fit` has written.
        path: of the file to write.

    Returns:
        The path.

    Raises:
        ValueError: the log holds no step.
        OSError: it cannot be read.
    """
    with open(log, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{log} must hold a row at least, got none; train for more steps.")
    names = ["loss", *(name for name in rows[0] if name.startswith("test_") and any(row[name] for row in rows))]
    figure = _figure(len(names), 5.0 * len(names), 4.0)
    for axes, name in zip(figure.axes, names, strict=True):
        known = [(float(row["minutes"]), float(row[name])) for row in rows if row[name]]
        axes.plot(*zip(*known, strict=True), marker="." if len(known) < 50 else "", linewidth=1.0)
        axes.set_xlim(0.0, float(rows[-1]["minutes"]))
        axes.set_xlabel("minutes")
        axes.set_title(name.replace("_", " "))
        axes.grid(alpha=0.3)
    return _save(figure, path)


@torch.no_grad()
def _densities(model: IResNetFlow, at: np.ndarray, context: Tensor | None) -> np.ndarray:
    like = next(model.parameters())
    given = None if context is None else context.to(like)
    mode = model.training
    model.eval()
    try:
        batches = torch.split(torch.from_numpy(at).to(like), _BATCH)
        log_probs = [model.log_prob(batch, for_all(given, len(batch))) for batch in batches]
        return torch.cat(log_probs).double().exp().cpu().numpy()
    finally:
        model.train(mode)


def _figure(n_axes: int, width: float, height: float) -> Figure:
    with needed("drawing pictures"):
        from matplotlib.figure import Figure  # heavy, and only needed to draw

    figure = Figure((width, height), dpi=120, layout="constrained")
    figure.subplots(1, n_axes)
    return figure


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


def _save(figure: Figure, path: str | Path) -> Path:
    """Write the figure whole: a reader never sees half a picture."""
    path = Path(path)
    with writing(path) as file:
        figure.savefig(file, format="png")
    return path
