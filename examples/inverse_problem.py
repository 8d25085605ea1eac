"""Deblurring by invertible residual networks, beside Tikhonov regularisation and total variation.

    python examples/inverse_problem.py           # learns from one photograph of scikit-learn, is tried on another
    python examples/inverse_problem.py --noise 0.02

A network f = (I + g_2)(I + g_1) with Lip(g_i) <= L is trained to be the blur and read backwards; another is trained
through its inverse, to lead blurred and noisy images back (arXiv 2409.13482: approximation, reconstruction training).
No inverse stretches noise by more than 1 / (1 - L)^2, whatever was learnt: the more noise, the smaller L should be. L
and the parameters of the other methods are what suits one photograph best, and the other one is what counts; then the
photographs change places. Needs scikit-image. Writes docs/results/inverse_problem.{json,md,png}.
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
from _deblurring import WIDTH, Image, blur, by_tiles, photographs, picture, quality, tikhonov, total_variation
from rich.progress import track

from iresnet_fast import models, nn, solvers

PARAMETERS = {
    "Tikhonov": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2],
    "total variation": [1e-4, 3e-4, 1e-3, 3e-3],
    "i-ResNet, approximation": [0.3, 0.5, 0.7],
    "i-ResNet, reconstruction": [0.5, 0.7, 0.9],
}
PHOTOGRAPHS = ("china", "flower")
SIZE, MARGIN = 48, 8  # of the tiles a network sees; it knows too little of what is near their border


def main() -> None:
    """Try every method and parameter on both photographs, and write."""
    parser = _common.parser(__doc__)
    parser.add_argument("--noise", type=float, default=0.01, help="its standard deviation (default: %(default)g)")
    parser.add_argument("--steps", type=int, default=500, help="of training, for each network (default: %(default)d)")
    options = parser.parse_args()
    _common.start(options)
    side, options.steps, most = (64, 2, 1) if options.quick else (None, options.steps, None)
    clean, rng = photographs(side), np.random.default_rng(options.seed)
    noisy = [blur(image) + options.noise * rng.standard_normal(image.shape) for image in clean]
    settings = {"noise": options.noise, "seed": options.seed, "quick": options.quick, "steps": options.steps}
    results: dict[str, Any] = {"settings": settings, "machine": _common.machine(), "learnt_from": {}}
    results["psnr_blurred"] = [quality(*pair) for pair in zip(clean, noisy, strict=True)]
    pictures = [{"photograph": clean[i], "blurred, noisy": noisy[i]} for i in (1, 0)]
    for (i, teacher), shown in zip(enumerate(PHOTOGRAPHS), pictures, strict=True):
        results["learnt_from"][teacher] = {}
        for name, parameters in PARAMETERS.items():
            tries = []
            for parameter in parameters[:most]:
                restore, found = method(name, parameter, clean[i], options)
                began = time.perf_counter()
                restored = [restore(image) for image in noisy]
                found |= {"parameter": parameter, "seconds": (time.perf_counter() - began) / 2}
                found["psnr"] = [quality(*pair) for pair in zip(clean, restored, strict=True)]
                tries.append((found, restored[1 - i]))
            best, shown[name] = max(tries, key=lambda entry, i=i: entry[0]["psnr"][i])
            tried = [{key: one[key] for key in ("parameter", "psnr")} for one, _ in tries]
            results["learnt_from"][teacher][name] = {**best, "tried": tried}
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
    header = "method|tried on|parameter|PSNR|best there|seconds|training|stretches at most".split("|")
    rows = []
    for i, methods in zip((1, 0), results["learnt_from"].values(), strict=True):
        rows.append(["none", PHOTOGRAPHS[i], "", f"{results['psnr_blurred'][i]:.2f}", *[""] * 4])
        for name, found in methods.items():
            psnr = [found["psnr"][i], max(entry["psnr"][i] for entry in found["tried"])]
            row = [name, PHOTOGRAPHS[i], f"{found['parameter']:g}", *(f"{value:.2f}" for value in psnr)]
            row.append(f"{found['seconds']:.2f}")
            if "lipschitz" in found:
                row += [f"{found['training_seconds']:.0f} s", f"{found['stretches_at_most']:.1f}"]
            rows.append(row + [""] * (len(header) - len(row)))
    note = (
        f"PSNR in dB of two grey photographs, 427 x 640, after a Gaussian blur of {WIDTH:g} pixels and noise of "
        f"{results['settings']['noise']:g}. Networks learn from the other photograph, and each parameter (L of the "
        f"networks) is the best one of those tried for that other one; beside stands what the best one for the "
        f"photograph itself would have given. Seconds to restore one photograph. {results['machine']}."
    )
    drawn = "![Part of each photograph, blurred and restored](inverse_problem.png)"
    return _common.page("Deblurring", _common.table(header, rows), note, drawn)


if __name__ == "__main__":
    main()
