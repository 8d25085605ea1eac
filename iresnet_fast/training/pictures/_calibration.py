"""Whether test data are, through a flow, what its prior says: as good as drawn from it, or in which direction not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models import IResNetFlow
from ..progress import working
from ._figures import BLUE, GREY, ORANGE, new_figure, save, tidy

_LEVEL = 0.05  # how often a perfect model leaves the band
_FEW = 12  # dimensions with lines that can be told apart
_MOST = 1000  # samples: more take time and hardly narrow the bands
_POINTS = 400  # of a line
_BATCH = 500


class Calibration(NamedTuple):
    """How far the distribution of test data through a flow is from its prior.

    Attributes:
        n: number of samples.
        n_dims: d.
        dims: [d], largest distance of the distribution function of each dimension from that of the prior, in [0, 1].
        dims_band: what chance allows all of them together, with probability 0.95.
        radius: the same distance of the squared radius from chi-squared.
        radius_band: what chance allows that.
    """

    n: int
    n_dims: int
    dims: NDArray[np.float64]
    dims_band: float
    radius: float
    radius_band: float

    def __str__(self) -> str:
        """Return it in a sentence."""
        n_outside = int((self.dims > self.dims_band).sum())
        one = "the latent" if self.n_dims == 1 else f"{n_outside} of {self.n_dims} dimensions"
        verb = "leave" if self.n_dims > 1 and n_outside != 1 else "leaves"
        stays = self.radius <= self.radius_band
        if self.n_dims == 1:
            verb = "leaves" if n_outside else "stays within"
        return (
            f"on {self.n} test samples {one} {verb} the band of chance ({self.dims_band:.3f}; the largest distance is "
            f"{self.dims.max():.3f}), and the radius {'stays within' if stays else 'leaves'} its own "
            f"({self.radius_band:.3f}; {self.radius:.3f})"
        )


def calibration(
    flow: IResNetFlow, x: Tensor, path: str | Path, context: Tensor | None = None, show_progress: bool = False
) -> Calibration:
    """Draw how the latents of test data, through the distribution function of the prior, differ from uniform ones.

    A line for each dimension, and one for the squared radius through that of chi-squared, of the first 1000 samples.
    The bands are those of Dvoretzky, Kiefer, Wolfowitz and Massart at 5 percent, of all dimensions together by
    Bonferroni: all lines of a perfect model stay within them with probability 0.95 at least. A line that rises above
    the band where it begins says that there are more data in the left tail than the model expects.

    Args:
        flow: in eval mode.
        x: [N, *event_shape], test data as they come.
        path: of the file to write.
        context: [N, context_features], if the flow takes one.
        show_progress: a bar on a terminal.

    Returns:
        What is drawn, in numbers.

    Raises:
        ValueError: there are no data, they do not fit, or the suffix of the path is that of no format.
    """
    if len(x) == 0:
        raise ValueError("x must hold a sample at least, got none; pass test data.")
    standard = _latents(flow, x[:_MOST], None if context is None else context[:_MOST], show_progress)
    n, n_dims = standard.shape
    u = torch.special.ndtr(standard)
    half = torch.tensor(n_dims / 2.0, dtype=torch.float64)
    radius = torch.special.gammainc(half, 0.5 * standard.square().sum(1))
    found = Calibration(
        n,
        n_dims,
        np.array([_distance(column) for column in u.T.numpy()]),
        _band(n, n_dims),
        _distance(radius.numpy()),
        _band(n, 1),
    )
    figure = new_figure(2, 9.6, 4.2)
    left, right = figure.axes
    _draw(left, u.T.numpy(), found.dims, found.dims_band)
    left.set_title("each latent against its prior" if n_dims > 1 else "the latent against its prior", fontsize=11)
    _draw(right, radius.numpy()[None], np.array([found.radius]), found.radius_band)
    right.set_title("squared radius against chi-squared", fontsize=11)
    left.set_ylabel("fraction of test data below, minus expected")
    left.set_xlabel("expected fraction of the prior")
    right.set_xlabel(f"expected fraction of chi-squared, {n_dims} degree{'s' * (n_dims > 1)} of freedom")
    save(figure, path)
    return found


@torch.no_grad()
def _latents(flow: IResNetFlow, x: Tensor, context: Tensor | None, show_progress: bool) -> Tensor:
    """Return the latents [N, d] in units of the prior, float64 on the CPU."""
    like, parts = flow.prior.mean, []
    with working(show_progress) as on_batch:
        for begin in range(0, len(x), _BATCH):
            on_batch(begin / len(x), "latents of test data")
            given = None if context is None else context[begin : begin + _BATCH].to(like)
            parts.append(flow.standardized_latents(x[begin : begin + _BATCH].to(like), given).double().cpu())
    return torch.cat(parts)


def _band(n: int, n_lines: int) -> float:
    return math.sqrt(math.log(2.0 * n_lines / _LEVEL) / (2.0 * n))


def _distance(u: NDArray[np.float64]) -> float:
    """Return the largest distance of the distribution function of values [N] from the diagonal."""
    ordered, n = np.sort(u), len(u)
    return float(np.maximum(np.arange(1, n + 1) / n - ordered, ordered - np.arange(n) / n).max())


def _draw(axes: Any, lines: NDArray[np.float64], distances: NDArray[np.float64], band: float) -> None:
    """Draw the distribution function of values [d, N] minus the diagonal."""
    at = np.linspace(0.0, 1.0, _POINTS)
    axes.axhspan(-band, band, color="#e8e8e8", linewidth=0.0, label="what chance allows (95 %)", zorder=0)
    axes.axhline(0.0, color=GREY, linewidth=0.8)
    worst = int(distances.argmax())
    for number in [i for i in range(len(lines)) if i != worst] + [worst]:
        difference = np.searchsorted(np.sort(lines[number]), at, side="right") / lines.shape[1] - at
        is_worst = number == worst and len(lines) > 1
        axes.plot(
            at,
            difference,
            color=ORANGE if is_worst else BLUE,
            linewidth=1.6 if is_worst or len(lines) == 1 else 1.0,
            alpha=1.0 if is_worst or len(lines) <= _FEW else max(0.1, _FEW / len(lines)),
            label=f"latent {number + 1}, the farthest" if is_worst else None,
            rasterized=len(lines) > _FEW,
        )
    reach = 1.3 * max(band, distances.max())
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(-reach, reach)
    tidy(axes)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
