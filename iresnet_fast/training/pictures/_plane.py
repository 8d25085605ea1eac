"""Points of the plane, and densities on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...models import IResNetFlow
from ...models._contexts import for_all
from ._figures import BLUE, new_figure, save, tidy

_GRID = 200  # points on a side of a picture of a density
_BATCH = 5000  # of them at a time


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
    figure = new_figure(2, 9.0, 4.7)
    left, right = figure.axes
    left.set_title(f"{len(points)} points of the data{', at all contexts' * (context is not None)}")
    left.hist2d(points[:, 0], points[:, 1], bins=(xs[::2], ys[::2]), cmap="viridis", rasterized=True)
    shown = "" if context is None else f" at context {', '.join(f'{value:.3g}' for value in context.tolist())}"
    right.set_title(f"density of the model{shown}")
    right.pcolormesh(xs, ys, values, cmap="viridis", shading="nearest", rasterized=True)
    for axes in (left, right):
        _set_aspect(axes, high - low)
    return save(figure, path)


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
    figure = new_figure(1, 5.0, 5.0)
    (axes,) = figure.axes
    xs, ys = samples.double().cpu().numpy().T
    axes.scatter(xs, ys, s=4.0, linewidths=0.0, color=BLUE, rasterized=True)
    tidy(axes)
    _set_aspect(axes, np.array([np.ptp(xs), np.ptp(ys)]))
    axes.set_title(f"{samples.shape[0]} samples")
    return save(figure, path)


def _set_aspect(axes: Any, size: np.ndarray) -> None:
    """Draw both coordinates to the same scale, unless one of them would be a strip then."""
    if size.max() <= 4.0 * size.min():
        axes.set_aspect("equal")


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
