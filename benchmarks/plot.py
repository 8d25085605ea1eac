"""The picture: how many times faster than each baseline, per case, without gradient and in training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from baselines import MODES, TITLES
from machine import Record

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Okabe and Ito: told apart with any colour vision.
_COLOURS = {
    "series": "#0072B2",
    "neumann": "#56B4E9",
    "explicit": "#009E73",
    "compiled": "#E69F00",
    "normflows": "#CC79A7",
    "normflows_basic": "#8F4B73",
}
_PANELS = {"eval": "Without gradient: z and log-det", "train": "Training step: forward and backward"}
_TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
_GREY = "#555555"


def draw(records: Sequence[Record], path: Path) -> None:
    """Write the bar chart as a PNG."""
    with plt.rc_context({"font.size": 10, "font.family": "DejaVu Sans", "axes.titlesize": 11}):
        figure, panels = plt.subplots(2, 1, figsize=(10, 7.6), sharey=True)
        for panel, mode in zip(panels, MODES, strict=True):
            _panel(panel, [record for record in records if record["mode"] == mode])
            panel.set_title(_PANELS[mode], loc="left", pad=8)
        _scale(panels[0], [ratio for record in records for ratio in _ratios(record).values()])
        handles = {label: h for panel in panels for h, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        used = [title for title in TITLES.values() if title in handles]
        figure.suptitle(
            "log|det| of an invertible residual block: speed-up over each baseline",
            x=0.062, y=0.982, ha="left", fontsize=14, fontweight="bold",
        )  # fmt: skip
        figure.legend(
            [handles[title] for title in used], used,
            loc="upper left", bbox_to_anchor=(0.052, 0.952), ncols=len(used), frameon=False, handlelength=1.0,
            columnspacing=1.6,
        )  # fmt: skip
        figure.text(0.062, 0.02, _caption(records[0]), color=_GREY, fontsize=8.5, linespacing=1.5)
        figure.subplots_adjust(left=0.062, right=0.985, top=0.855, bottom=0.135, hspace=0.36)
        figure.savefig(path, dpi=160)
        plt.close(figure)


def _ratios(record: Record) -> dict[str, float]:
    return {name: time / record["ours_ms"] for name, time in record["baselines"].items()}


def _panel(panel: Axes, records: Sequence[Record]) -> None:
    for position, record in enumerate(records):
        ratios = _ratios(record)
        width = 0.86 / max(len(ratios), 4)
        for i, (name, ratio) in enumerate(ratios.items()):
            centre = position + (i - (len(ratios) - 1) / 2) * width
            # From 1 on: up is faster, down is slower, and on the logarithmic scale twice and half are equally far.
            panel.bar(centre, ratio - 1.0, 0.92 * width, bottom=1.0, color=_COLOURS[name], label=TITLES[name], zorder=2)
            text = f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"
            offset, align = ((0, 2), "bottom") if ratio >= 1.0 else ((0, -2), "top")
            panel.annotate(text, (centre, ratio), offset, textcoords="offset points", ha="center", va=align, fontsize=8)
    panel.axhline(1.0, color="black", linewidth=1.0, zorder=3)
    panel.set_xticks(range(len(records)), [_label(record) for record in records])
    panel.set_xlim(-0.55, len(records) - 0.45)
    panel.tick_params(axis="both", length=0)
    panel.tick_params(axis="y", labelcolor=_GREY)
    panel.grid(axis="y", color="#DDDDDD", linewidth=0.8, zorder=0)
    for side in ("top", "right", "left", "bottom"):
        panel.spines[side].set_visible(False)


def _scale(panel: Axes, ratios: Sequence[float]) -> None:
    """One scale for both panels, with room for the numbers above and below the bars."""
    panel.set_yscale("log", base=2)
    lowest, highest = min(ratios), max(*ratios, 2.0)
    panel.set_ylim(0.95 if lowest >= 1.0 else lowest / 1.35, highest * 1.3)
    panel.yaxis.set_major_locator(FixedLocator(_TICKS))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    panel.yaxis.set_minor_locator(NullLocator())


def _label(record: Record) -> str:
    return f"{record['case']}\n{record['ours_ms']:.3g} ms"


def _caption(record: Record) -> str:
    isa = f", {record['isa']}" if record["isa"] else ""
    return (
        "Under each case: our median time. Bars below 1x: the baseline is faster. Medians of interleaved calls.\n"
        f"{record['processor']}, {record['threads']} threads{isa}, {record['dtype']}, torch {record['torch']}, "
        f"{record['date']}"
    )
