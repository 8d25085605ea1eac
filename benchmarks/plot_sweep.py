"""The picture of bench_sweep.py: how many times faster than the best baseline, against the size of the branch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from baselines import MODES
from machine import Record, setting

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Okabe and Ito: told apart with any colour vision.
_WAYS = {False: ("tiles", "#0072B2", "o"), True: ("layers", "#E69F00", "^")}
_PANELS = {"eval": "Without gradient: z and log-det", "train": "Training step: forward and backward"}
_TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 40)


def draw(records: Sequence[Record], ratios: Sequence[float], floor: float, path: Path) -> None:
    """Write the picture as a PNG."""
    with plt.rc_context({"font.size": 10, "font.family": "DejaVu Sans", "axes.titlesize": 11}):
        figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True)
        for panel, mode in zip(panels, MODES, strict=True):
            for layers, (label, colour, marker) in _WAYS.items():
                points = [
                    (record["multiply_adds"], value)
                    for record, value in zip(records, ratios, strict=True)
                    if record["mode"] == mode and record["layers"] == layers
                ]
                panel.scatter([x for x, _ in points], [y for _, y in points], s=26, color=colour, marker=marker,
                              label=label, alpha=0.85, zorder=2)  # fmt: skip
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.axhline(1.0, color="black", linewidth=1.0, zorder=1)
            panel.axhline(floor, color="#999999", linewidth=0.8, linestyle="--", zorder=1)
            panel.set_title(_PANELS[mode], loc="left")
            panel.set_xlabel("multiply-adds of one evaluation of the branch, whole batch")
            panel.grid(color="#E4E4E4", linewidth=0.8, zorder=0)
            for side in ("top", "right"):
                panel.spines[side].set_visible(False)
        panels[0].yaxis.set_major_locator(FixedLocator(_TICKS))
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
        panels[0].yaxis.set_minor_locator(NullLocator())
        panels[0].set_ylabel("speed-up over the best explicit formula")
        panels[0].legend(frameon=False, title="way")
        figure.text(0.01, 0.01, setting(records), color="#555555", fontsize=8)
        figure.tight_layout(rect=(0, 0.03, 1, 1))
        figure.savefig(path, dpi=160)
        plt.close(figure)
