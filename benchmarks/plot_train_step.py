"""The picture of a whole training step: all implementations by phase, and ours by section."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from baselines import OURS, TITLES
from machine import setting
from report_train_step import Record, parts
from train_steps import PHASES

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

# Okabe and Ito: told apart with any colour vision.
_COLOURS = ("#999999", "#E69F00", "#0072B2", "#56B4E9", "#CC79A7")
_GREY = "#555555"


def draw(record: Record, path: Path) -> None:
    """Write the two bar charts as a PNG."""
    with plt.rc_context({"font.size": 10, "font.family": "DejaVu Sans", "axes.titlesize": 11}):
        figure, (steps, ours) = plt.subplots(2, 1, figsize=(10, 6.8))
        _phases(steps, record)
        _sections(ours, record)
        for panel in (steps, ours):
            panel.invert_yaxis()
            panel.tick_params(axis="both", length=0)
            panel.grid(axis="x", color="#DDDDDD", linewidth=0.8, zorder=0)
            panel.set_axisbelow(True)
            panel.spines[:].set_visible(False)
        figure.suptitle(
            f"One training step of an i-ResNet on MNIST, batch {record['batch']}",
            x=0.02, y=0.985, ha="left", fontsize=14, fontweight="bold",
        )  # fmt: skip
        figure.text(0.02, 0.015, f"Medians of steps, all in turn. {setting([record])}", color=_GREY, fontsize=8)
        figure.subplots_adjust(left=0.22, right=0.97, top=0.83, bottom=0.09, hspace=0.42)
        figure.savefig(path, dpi=160)
        plt.close(figure)


def _phases(panel: Axes, record: Record) -> None:
    times = {OURS: record["ours_ms"]} | record["baselines"]
    labels = [TITLES[name] for name in times]
    left = [0.0] * len(times)
    for phase, colour in zip(PHASES, _COLOURS, strict=True):
        widths = [record["phases_ms"][name][phase] for name in times]
        panel.barh(labels, widths, left=left, color=colour, label=phase)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for position, (end, total) in enumerate(zip(left, times.values(), strict=True)):
        text = f" {total:.0f} ms" + ("" if position == 0 else f", {total / record['ours_ms']:.1f}x")
        panel.annotate(text, (end, position), va="center")
    panel.set_xlim(0.0, 1.15 * max(left))
    panel.set_title("Milliseconds of a step (ours iterates the norms within forward)", loc="left", pad=26)
    panel.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.98), ncols=len(PHASES), frameon=False, fontsize=8.5)


def _sections(panel: Axes, record: Record) -> None:
    shares = {section: time / record["ours_ms"] for section, time in parts(record).items()}
    panel.barh(list(shares), [100.0 * share for share in shares.values()], color=_COLOURS[2])
    for position, share in enumerate(shares.values()):
        panel.annotate(f" {share:.1%}", (100.0 * share, position), va="center")
    panel.set_xlim(0.0, 112.0 * max(shares.values()))
    panel.set_title("Our step by section, per cent", loc="left", pad=8)
