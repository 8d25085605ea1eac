"""Odd rows of tables by their density under a residual flow: AUC against probes spent, with 0, 1 and 2 exact terms.

    python examples/anomaly_detection.py             # a few minutes on two cores
    python examples/anomaly_detection.py --quick     # seconds, to see that it works; pass --out too

A flow learns the normal rows of a table, and the score of another row is its -log p. Probes make that noisy, which
mixes up rows whose scores are close. Three tables of scikit-learn, each split several times; beside the flow a Gaussian
mixture and an isolation forest learn the same rows. Writes docs/results/anomaly_detection.{json,md,png}.
"""

from __future__ import annotations

import itertools
import math
from argparse import Namespace
from typing import Any

import _common
import _tables
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from rich.progress import track
from sklearn.metrics import roc_auc_score

from iresnet_fast.estimators import Exact, PowerSeries

PROBES, EXACT_TERMS = (1, 4, 16), (0, 1, 2)
COLOURS = ("#D55E00", "#009E73", "#0072B2")


def main() -> None:
    """Train on every split of every table, score, write."""
    parser = _common.parser(__doc__)
    parser.add_argument("--steps", type=int, default=400, help="of training (default: %(default)d)")
    parser.add_argument("--splits", type=int, default=5, help="of each table, at least 2 (default: %(default)d)")
    parser.add_argument("--draws", type=int, default=4, help="of the probes, averaged over (default: %(default)d)")
    parser.add_argument("--jitter", type=float, default=0.2, help="noise on rows to train on (default: %(default)g)")
    options = parser.parse_args()
    most = None
    if options.quick:
        options.steps, options.splits, options.draws, most = 3, 2, 1, 60
    _common.start(options)
    names = ("steps", "splits", "draws", "jitter", "seed", "quick")
    results: dict[str, Any] = {"settings": {name: getattr(options, name) for name in names}, "tables": {}}
    for name in _tables.TABLES:
        found = [scored(name, options, options.seed + i, most) for i in track(range(options.splits), name)]
        results["tables"][name] = summary(found)
    results["machine"] = _common.machine()
    _common.write(options.out, "anomaly_detection", results, text(results))
    _common.save(picture(results["tables"]), options.out, "anomaly_detection")


def scored(name: str, options: Namespace, seed: int, most: int | None) -> list[dict[str, Any]]:
    """Return the figures of every method on one split."""
    data = _tables.split(name, seed, most)
    torch.manual_seed(seed)
    flow = _tables.trained(torch.tensor(data.train, dtype=torch.float32), options.steps, options.jitter)
    test = torch.tensor(data.test, dtype=torch.float32)
    exact, seconds = _tables.scores(flow, Exact(), test)
    rows = [{"method": "flow", "exact": "all", "auc": auc(data, exact), "seconds": seconds / len(test)}]
    for terms, probes in itertools.product(EXACT_TERMS, PROBES):
        tries = [
            _tables.scores(flow, PowerSeries(_tables.TERMS, probes, exact_terms=terms, eval_seed=draw), test)
            for draw in range(options.draws)
        ]
        row: dict[str, Any] = {"method": "flow", "exact": terms, "probes": probes}
        row["auc"] = sum(auc(data, one) for one, _ in tries) / len(tries)
        row["noise"] = math.sqrt(sum(float((one - exact).var()) for one, _ in tries) / len(tries))
        rows.append({**row, "seconds": min(seconds for _, seconds in tries) / len(test)})
    for method, values in _tables.baselines(data, seed).items():
        rows.append({"method": method, "auc": auc(data, values)})
    return rows


def auc(data: _tables.Split, values: Any) -> float:
    """Return the area under the ROC curve, the chance that an odd row has a higher score than a normal one."""
    return float(roc_auc_score(data.odd, values))


def summary(splits: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the means over the splits, with standard errors of the AUC and of what it lost against the exact one."""
    rows = []
    for one in zip(*splits, strict=True):
        row = {key: one[0][key] for key in ("method", "exact", "probes") if key in one[0]}
        row |= {key: float(np.mean([each[key] for each in one])) for key in ("noise", "seconds") if key in one[0]}
        areas = np.array([each["auc"] for each in one])
        lost = np.array([every[0]["auc"] for every in splits]) - areas
        for name, values in (("auc", areas), ("lost", lost)):
            row |= {name: float(values.mean()), f"{name}_error": float(values.std(ddof=1) / math.sqrt(len(values)))}
        rows.append(row)
    return rows


def text(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    header = ["method", "exact terms", "probes", "noise", "AUC", "less than the exact flow", "microseconds a row"]
    parts, settings = [], results["settings"]
    for name, rows in results["tables"].items():
        cells = []
        for row in rows:
            noise = f"{row['noise']:.2f}" if "noise" in row else ""
            areas = [f"{row[key]:.4f} +- {row[f'{key}_error']:.4f}" for key in ("auc", "lost")]
            seconds = f"{1e6 * row['seconds']:.0f}" if "seconds" in row else ""
            cells.append([row["method"], str(row.get("exact", "")), str(row.get("probes", "")), noise, *areas, seconds])
        parts += [f"## {name.capitalize()}", _common.table(header, cells)]
    note = (
        f"Means and standard errors over {settings['splits']} splits, AUC and noise of estimates over "
        f"{settings['draws']} draws of the probes. Noise: standard deviation of log p in nats. Odd are malignant "
        f"tumours, wine of the first vineyard and the digit 0. {_tables.TERMS} terms. {results['machine']}."
    )
    drawn = "![AUC against probes](anomaly_detection.png)"
    return _common.page("Odd rows of tables", *parts, note, drawn)


def picture(tables: dict[str, list[dict[str, Any]]]) -> Figure:
    """Return the AUC that noise takes away, against probes."""
    figure, grid = plt.subplots(1, len(tables), figsize=(4.2 * len(tables), 3.8))
    for axes, (name, rows) in zip(grid, tables.items(), strict=True):
        for terms, colour in zip(EXACT_TERMS, COLOURS, strict=True):
            chosen = [row for row in rows if row.get("exact") == terms]
            lost, errors = ([row[key] for row in chosen] for key in ("lost", "lost_error"))
            axes.errorbar(PROBES, lost, errors, fmt="o-", capsize=3, color=colour, label=f"{terms} exact terms")
        axes.axhline(0.0, color="black", linewidth=0.8)
        axes.set(title=name, xlabel="probes", xscale="log")
        axes.set_xticks(PROBES, PROBES)
        axes.set_xticks([], minor=True)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("AUC lost to noise")
    grid[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
