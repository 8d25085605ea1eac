"""The table and the picture of a density experiment, from its JSON."""

from __future__ import annotations

from typing import Any

import _common
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

COLOURS = {"kernels": "#0072B2", "reference": "#E69F00"}


def text(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    data, runs = results["settings"]["data"], results["runs"]
    header = ["backend", "bits/dim", "test images", "steps", "ms a step", "minutes"]
    rows = [
        [
            backend,
            f"{run['bits_per_dim']:.4f} +- {run['standard_error']:.4f}",
            str(run["test_images"]),
            str(run["steps"]),
            f"{run['ms_per_step']:.1f}",
            f"{run['minutes']:.2f}",
        ]
        for backend, run in runs.items()
    ]
    notes = _speed(results)
    for backend, run in runs.items():
        biases = "; ".join(
            f"{row['terms']} terms {row['mean']:+.5f} ({row['least']:+.5f} to {row['most']:+.5f})"
            for row in run["bias"]
        )
        notes += [
            f"{backend}: moving average of the weights, {run['bias'][-1]['terms']} terms. The truncation can be worth "
            f"{run['truncation_bound']:.4f} bits/dim at most (theorem 3 of arXiv 1811.00995); measured by exact "
            f"log-determinants of {run['bias_images']} test images, mean and range, negative flatters: {biases}. "
            f"{run['machine']}.",
        ]
    drawn = f"![Test bits/dim against minutes of training]({data}_density.png)"
    return _common.page(f"Bits per dimension on {data}", _common.table(header, rows), *notes, drawn)


def _speed(results: dict[str, Any]) -> list[str]:
    found = results["speed"]
    if found is None:
        return []
    images = results["runs"]["kernels"]["curve_images"]
    reached = (
        "the kernels did not reach that"
        if found["minutes"] is None
        else f"the kernels passed it between minutes {found['before']:.2f} and {found['minutes']:.2f}, when they were "
        f"there {found['ratio']:.2f} times sooner"
    )
    return [
        f"The reference ended at {found['goal']:.4f} bits/dim on the {images} test images of the curves; {reached}."
    ]


def picture(results: dict[str, Any]) -> Figure:
    """Return the curves."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for backend, run in results["runs"].items():
        minutes = [point["minutes"] for point in run["curve"]]
        values = [point["test_bits_per_dim"] for point in run["curve"]]
        axes.plot(minutes, values, "o-", markersize=3, color=COLOURS[backend], label=backend)
    if results["speed"] is not None:
        axes.axhline(results["speed"]["goal"], color=COLOURS["reference"], linewidth=0.8, linestyle="--")
    images = next(iter(results["runs"].values()))["curve_images"]
    axes.set(xlabel="minutes of training", ylabel=f"bits/dim of {images} test images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
