"""Error and invertibility of MNIST classifiers against the bound c on the norms of their layers (i-ResNet, table 2).

    python examples/mnist_classify.py --data-root DIR                 # 10 minutes for each of 0.5, 0.7, 0.9, none
    python examples/mnist_classify.py --data-root DIR --coeff 0.9     # one of them; the others' results stay

DIR holds the four standard files. Every model is the preset "mnist" trained with its recipe: AdamW, batches of 64,
shifts by up to 2 pixels. Images are led to features and back by fixed-point iteration. Writes
docs/results/mnist_classify.{json,md,png}.
"""

from __future__ import annotations

import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import _common
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from iresnet_fast import _library, data, training
from iresnet_fast.solvers import FixedPoint

COEFFS = {"0.5": 0.5, "0.7": 0.7, "0.9": 0.9, "none": None}
# Layers are normalised to a little below c: power iteration follows their norms from below, in training with some lag.
MARGIN = 0.99
ERRORS = ("largest_pixel_error", "mean_pixel_error")


def main() -> None:
    """Train, evaluate, write."""
    parser = _common.parser(__doc__)
    parser.add_argument("--coeff", choices=COEFFS, help="train with this bound only, and keep the others' results")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each run (default: %(default)g)")
    parser.add_argument("--data-root", required=True, help="folder of the files of MNIST")
    parser.add_argument("--backend", choices=("kernels", "reference"), help="default: kernels, if they are built")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the training runs (default: runs)")
    options = parser.parse_args()
    settings = {"seed": options.seed, "quick": options.quick}
    results = _common.earlier(parser, options.out / "mnist_classify.json", settings, options.coeff is not None)
    for name in [options.coeff] if options.coeff else COEFFS:
        _common.start(options)
        with _library.use_backend(options.backend):
            results["runs"][name] = train(name, options)
        results["runs"] = {key: results["runs"][key] for key in COEFFS if key in results["runs"]}
        _common.write(options.out, "mnist_classify", results, text(results))
        _common.save(picture(results["runs"]), options.out, "mnist_classify")


def train(name: str, options: Namespace) -> dict[str, Any]:
    """Train one classifier, and return all that there is to say about it."""
    dataset = data.load("mnist", root=options.data_root)
    coeff = COEFFS[name]
    changes: dict[str, Any] = {"coeff": None if coeff is None else MARGIN * coeff, "solver": FixedPoint(tol=1e-5)}
    if options.quick:
        dataset, changes = _common.shortened(dataset), {**changes, "blocks": (1, 1, 1), "hidden": (4, 4, 4)}
    model, config = training.recipe(dataset, "classifier", changes=changes)
    config = config.replace(max_minutes=options.minutes, eval_minutes=options.minutes / 10, seed=options.seed)
    if options.quick:
        config = config.replace(max_minutes=None, max_steps=4, eval_steps=2, log_steps=1)
    run = training.fit(model, dataset, config, folder=_common.fresh_folder(options.runs, f"mnist_classify-{name}"))
    images = dataset.test[:500] / 255.0 - 0.5  # as training scales them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that blocks were not inverted: the table says so
        back = run.best.reconstruct(images)
    norms = [row["worst_norm"] for row in run.history if row.get("worst_norm") is not None]
    return {
        "machine": _common.machine(),
        "train_config": config.to_dict(),
        "model_config": run.best.config.to_dict(),
        "steps": run.step,
        "minutes": run.minutes,
        "error_percent": run.evaluation.metrics["error_percent"],
        "standard_error": run.evaluation.standard_errors["error_percent"],
        "test_images": run.evaluation.n,
        "largest_norm": max(norms),
        "norms_measured": len(norms),
        "reconstructed_images": len(images),
        "largest_pixel_error": finite(back.error.max()),
        "mean_pixel_error": finite((back.x - images).abs().mean()),
        "iterations_a_block": float(back.iterations.double().mean()) / sum(run.best.config.blocks),
        "images": packed(images[:10]),
        "again": packed(back.x[:10]),
    }


def finite(value: Tensor) -> float | None:
    """Return a number, None if the iteration diverged beyond all numbers."""
    return float(value) if bool(value.isfinite()) else None


def packed(x: Tensor) -> list[str]:
    """Return images as hexadecimal strings of bytes; what is no number, black."""
    pixels = (255.0 * (x.nan_to_num(-0.5) + 0.5)).clamp(0, 255).round().to(torch.uint8)
    return [bytes(image.flatten().tolist()).hex() for image in pixels]


def text(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    header = "c|minutes|test error %|largest norm in training|max pixel error|mean pixel error|steps a block".split("|")
    rows = []
    for name, run in results["runs"].items():
        coeff = COEFFS[name]
        held = "" if coeff is None else " (held)" if run["largest_norm"] <= coeff else " (NOT held)"
        rows.append(
            [
                name,
                f"{run['minutes']:.1f}",
                f"{run['error_percent']:.2f} +- {run['standard_error']:.2f}",
                f"{run['largest_norm']:.5f}{held}",
                *("diverged" if run[key] is None else f"{run[key]:.1e}" for key in ERRORS),
                f"{run['iterations_a_block']:.1f}",
            ]
        )
    run, measured = next(iter(results["runs"].values())), min(run["norms_measured"] for run in results["runs"].values())
    note = (
        f"Error on {run['test_images']} test images. Norms of all layers, which are normalised to {MARGIN:g} c, were "
        f"measured {measured} times or more during training; held: at most c. {run['reconstructed_images']} test images"
        f" led to features and back in float32, pixels in [-0.5, 0.5]. {run['machine']}."
    )
    drawn = "![Images and what the inverse makes of their features](mnist_classify.png)"
    return _common.page("MNIST classifiers and their inverses", _common.table(header, rows), note, drawn)


def picture(runs: dict[str, Any]) -> Figure:
    """Return the images, and below them those from their features, a row for each bound."""
    rows = [
        ("image", next(iter(runs.values()))["images"]),
        *((f"c = {name}", run["again"]) for name, run in runs.items()),
    ]
    figure, grid = plt.subplots(len(rows), 1, figsize=(7, 0.8 * len(rows)))
    for axes, (label, images) in zip(grid, rows, strict=True):
        pixels = np.concatenate([np.frombuffer(bytes.fromhex(image), np.uint8).reshape(28, 28) for image in images], 1)
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


if __name__ == "__main__":
    main()
