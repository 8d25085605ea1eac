"""A blur and methods that undo it without learning, by scikit-image; images in tiles, and beside each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import denoise_tv_chambolle, wiener
from sklearn.datasets import load_sample_images
from torch import Tensor

Image = np.ndarray[Any, np.dtype[np.float64]]  # [H, W], in [0, 1] but for noise
WIDTH = 1.0  # of the blur, its standard deviation in pixels
_EDGE = 8  # pixels; farther than this the blur does not reach


def photographs(side: int | None = None) -> list[Image]:
    """Return the two sample photographs of scikit-learn in grey, or a corner of each."""
    return [image.mean(2)[:side, :side] / 255.0 for image in load_sample_images().images]


def blur(image: Image) -> Image:
    """Return K x, the image after the blur, mirrored at its edges; K is symmetric and |K| = 1."""
    return gaussian_filter(image, WIDTH, mode="reflect")


def quality(clean: Image, restored: Image) -> float:
    """Return the PSNR in decibels."""
    return float(peak_signal_noise_ratio(clean, restored.clip(0.0, 1.0), data_range=1.0))


def tikhonov(image: Image, balance: float) -> Image:
    """Return argmin |K x - image|^2 + balance |Laplacian x|^2, in closed form."""
    row = np.exp(-((np.arange(-_EDGE, _EDGE + 1) / WIDTH) ** 2) / 2.0)
    padded = np.pad(image, 2 * _EDGE, "symmetric")  # its Fourier transform joins opposite edges
    restored = wiener(padded, np.outer(row, row) / row.sum() ** 2, balance, clip=False)
    return restored[2 * _EDGE : -2 * _EDGE, 2 * _EDGE : -2 * _EDGE]


def total_variation(image: Image, weight: float, steps: int = 60) -> Image:
    """Return argmin |K x - image|^2 / 2 + weight TV(x), by accelerated proximal gradient steps (FISTA)."""
    x = ahead = image
    t = 1.0
    for _ in range(steps):
        new = denoise_tv_chambolle(ahead - blur(blur(ahead) - image), weight, eps=1e-5, max_num_iter=20)
        after = (1.0 + (1.0 + 4.0 * t * t) ** 0.5) / 2.0
        x, ahead, t = new, new + (t - 1.0) / after * (new - x), after
    return x


@torch.no_grad()
def by_tiles(restore: Callable[[Tensor], Tensor], image: Image, size: int, margin: int) -> Image:
    """Restore an image by a function of tiles [n, 1, size, size]; they overlap, and their margins are left out."""
    step = size - 2 * margin
    rows, columns = (-(-n // step) for n in image.shape)
    edges = [(margin, n * step - length + margin) for n, length in zip((rows, columns), image.shape, strict=True)]
    padded = np.pad(image, edges, "symmetric")
    views = np.lib.stride_tricks.sliding_window_view(padded, (size, size))[::step, ::step]
    tiles = torch.tensor(views.reshape(-1, 1, size, size), dtype=torch.float32)
    x = torch.cat([restore(part)[..., margin:-margin, margin:-margin] for part in tiles.split(16)])
    whole = x.view(rows, columns, step, step).transpose(1, 2).reshape(rows * step, columns * step)
    return whole[: image.shape[0], : image.shape[1]].double().numpy()


def picture(pictures: list[dict[str, Image]]) -> Figure:
    """Return a part of each image, a row for each photograph that was restored."""
    figure, grid = plt.subplots(len(pictures), len(pictures[0]), figsize=(15, 5.5))
    for line, images in zip(grid, pictures, strict=True):
        for axes, (name, image) in zip(line, images.items(), strict=True):
            row, column = (max(n // 2 - 64, 0) for n in image.shape)
            axes.imshow(image[row : row + 128, column : column + 128], cmap="gray", vmin=0.0, vmax=1.0)
            axes.set(xticks=[], yticks=[])
            axes.set_title(name, fontsize=9)
    return figure
