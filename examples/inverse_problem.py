"""Deblurring by invertible residual networks, beside Tikhonov regularisation and total variation.

    python examples/inverse_problem.py                  # learns from one photograph of scikit-learn, tried on another
    python examples/inverse_problem.py --noise 0.02

A network f = (I + g_2)(I + g_1) with Lip(g_i) <= L is trained to be the blur and read backwards; another is trained
through its inverse, to lead blurred and noisy images back (arXiv 2409.13482: approximation, reconstruction training).
No inverse stretches noise by more than 1 / (1 - L)^2, whatever was learnt: the more noise, the smaller L should be. L
and the parameters of the other methods are what suits the first photograph best; nothing is chosen on the second one.
Needs scikit-image. Writes docs/results/inverse_problem.{json,md,png}.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import _common
import numpy as np
import torch
from _deblurring import WIDTH, Image, blur, by_tiles, photographs, quality, tikhonov, total_variation
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from rich.progress import track

from iresnet_fast import models, nn, solvers

PARAMETERS = {
    "Tikhonov": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2],
    "total variation": [1e-4, 3e-4, 1e-3, 3e-3],
    "i-ResNet, approximation": [0.3, 0.5, 0.7],
    "i-ResNet, reconstruction": [0.5, 0.7, 0.9],
}
SIZE, MARGIN = 48, 8  # of the tiles a network sees; it knows too little of what is near their border


def main() -> None:
    """Try every method and parameter on both photographs, and write."""
    parser = _common.parser(__doc__)
    parser.add_argument("--noise", type=float, default=0.01, help="its standard deviation (default: %(default)g)")
    parser.add_argument("--steps", type=int, default=600, help="of training, for each network (default: %(default)d)")
    options = parser.parse_args()
    _common.start(options)
    side, options.steps, most = (64, 2, 1) if options.quick else (None, options.steps, None)
    clean, rng = photographs(side), np.random.default_rng(options.seed)
    noisy = [blur(image) + options.noise * rng.standard_normal(image.shape) for image in clean]
    settings = {"noise": options.noise, "seed": options.seed, "quick": options.quick, "steps": options.steps}
    results: dict[str, Any] = {"settings": settings, "machine": _common.machine(), "methods": {}}
    results["psnr_blurred"] = [quality(*pair) for pair in zip(clean, noisy, strict=True)]
    pictures = {"photograph": clean[1], "blurred, noisy": noisy[1]}
    for name, parameters in PARAMETERS.items():
        tries = []
        for parameter in parameters[:most]:
            restore, found = method(name, parameter, clean[0], options)
            began = time.perf_counter()
            restored = [restore(image) for image in noisy]
            found |= {"parameter": parameter, "seconds": (time.perf_counter() - began) / len(noisy)}
            found["psnr"] = [quality(*pair) for pair in zip(clean, restored, strict=True)]
            tries.append((found, restored[1]))
        results["methods"][name], pictures[name] = max(tries, key=lambda entry: entry[0]["psnr"][0])
        results["methods"][name] |= {"tried": [{key: one[key] for key in ("parameter", "psnr")} for one, _ in tries]}
    _common.write(options.out, "inverse_problem", results, text(results))
    _common.save(picture(pictures), options.out, "inverse_problem")


def method(name: str, parameter: float, clean: Image, options: Namespace) -> tuple[Callable[[Image], Image], Any]:
    """Return a method with a parameter, ready to restore images, and what there is to say about it."""
    if name == "Tikhonov":
        return partial(tikhonov, balance=parameter), {}
    if name == "total variation":
        return partial(total_variation, weight=parameter, steps=2 if options.quick else 60), {}
    began = time.perf_counter()
    model = train(name, parameter, clean, options)
    seconds = time.perf_counter() - began
    table = models.certified_lipschitz(model)
    found = {"training_seconds": seconds, "lipschitz": [block.lipschitz for block in table.blocks]}
    restore = partial(by_tiles, lambda tiles: model.inverse(tiles)[0], size=SIZE, margin=MARGIN)
    return restore, {**found, "stretches_at_most": 1.0 / table.bi_lipschitz[0]}


def train(name: str, constant: float, clean: Image, options: Namespace) -> nn.Sequential:
    """Return a network with Lip(g_i) <= constant, trained on pieces of a photograph."""
    _common.start(options)
    model = nn.Sequential()
    for _ in range(2):
        branch = nn.ResidualBranch.conv([1, 32, 1], [5, 5], SIZE, "elu", coeff=constant**0.5)
        torch.nn.init.zeros_(branch.layers[-1].weight)  # training starts from a blur that does nothing
        torch.nn.init.zeros_(branch.layers[-1].bias)
        model.append(nn.InvertibleResidualBlock(branch, None, solvers.FixedPoint(tol=1e-2)))
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, options.steps + 1)
    both = torch.tensor(np.stack([clean, blur(clean)]), dtype=torch.float32)
    for _ in track(range(options.steps), f"{name}, L = {constant:g}"):
        corners = [[int(torch.randint(n - SIZE + 1, ())) for n in clean.shape] for _ in range(8)]
        x, kx = torch.stack([both[:, None, i : i + SIZE, j : j + SIZE] for i, j in corners], 1)
        if name.endswith("approximation"):
            off = model(x)[0] - kx
        else:
            off = model.inverse(kx + options.noise * torch.randn_like(kx))[0] - x
        optimizer.zero_grad()
        off[..., MARGIN:-MARGIN, MARGIN:-MARGIN].square().mean().backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def text(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    header = "method|parameter|PSNR, first|PSNR, second|best there|seconds|training|stretches at most".split("|")
    rows = [["none", "", *(f"{value:.2f}" for value in results["psnr_blurred"]), *[""] * 4]]
    for name, found in results["methods"].items():
        psnr = [*found["psnr"], max(entry["psnr"][1] for entry in found["tried"])]
        row = [name, f"{found['parameter']:g}", *(f"{value:.2f}" for value in psnr), f"{found['seconds']:.2f}"]
        if "lipschitz" in found:
            row += [f"{found['training_seconds']:.0f} s", f"{found['stretches_at_most']:.1f}"]
        rows.append(row + [""] * (len(header) - len(row)))
    note = (
        f"PSNR in dB of two grey photographs, 427 x 640, after a Gaussian blur of {WIDTH:g} pixels and noise of "
        f"{results['settings']['noise']:g}. Networks learn from the first one, and each parameter (L of the networks) "
        f"is the best one for it of those tried; what the best one for the second would have given stands beside. "
        f"Seconds to restore one photograph. {results['machine']}."
    )
    drawn = "![Part of the second photograph, blurred and restored](inverse_problem.png)"
    return _common.page("Deblurring", _common.table(header, rows), note, drawn)


def picture(pictures: dict[str, Image]) -> Figure:
    """Return a part of each image."""
    figure, grid = plt.subplots(1, len(pictures), figsize=(15, 3))
    for axes, (name, image) in zip(grid, pictures.items(), strict=True):
        row, column = (max(n // 2 - 64, 0) for n in image.shape)
        axes.imshow(image[row : row + 128, column : column + 128], cmap="gray", vmin=0.0, vmax=1.0)
        axes.set(xticks=[], yticks=[])
        axes.set_title(name, fontsize=9)
    return figure


if __name__ == "__main__":
    main()
