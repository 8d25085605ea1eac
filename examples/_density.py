"""Bits per dimension against minutes of training: the kernels and plain torch, with one recipe and one seed.

Both backends train the same model from the same seed for the same time. The curve is the moving average of the weights
on 1000 test images, always the same, with 40 terms in the log-determinants. A model that is trained
with a few terms learns to exploit the missing ones, so the bias is measured.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

import _bias
import _common
import _density_report

from iresnet_fast import _library, data, training
from iresnet_fast.estimators import PowerSeries
from iresnet_fast.training.batches import test_subset

BACKENDS = ("kernels", "reference")
TERMS = (5, 10, 20, 40)  # of which the bias is measured; evaluation takes the last
POINTS = 20  # of a curve: for the slower backend, a twentieth of its time


def main(name: str, minutes: float, exact_images: int, description: str | None) -> None:
    """Train, evaluate, write.

    Args:
        name: of the data set.
        minutes: of training, for each backend.
        exact_images: test images on which the bias of the log-determinants is measured.
        description: for --help.
    """
    parser = _common.parser(description)
    parser.add_argument("--backend", choices=BACKENDS, help="train with this one only, and keep the other's results")
    parser.add_argument("--minutes", type=float, default=minutes, help="of each run (default: %(default)g)")
    parser.add_argument("--data-root", help="folder of the data files, if the data need one")
    parser.add_argument("--exact-images", type=int, default=exact_images, help="for the bias (default: %(default)d)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the training runs (default: runs)")
    options = parser.parse_args()
    settings = {"data": name, "minutes": options.minutes, "seed": options.seed, "quick": options.quick}
    results = _common.earlier(parser, options.out / f"{name}_density.json", settings, options.backend is not None)
    for backend in [options.backend] if options.backend else BACKENDS:
        _common.start(options)
        with _library.use_backend(backend):
            results["runs"][backend] = train(name, options, backend)
        results["speed"] = speed(results["runs"])
        _common.write(options.out, f"{name}_density", results, _density_report.text(results))
        _common.save(_density_report.picture(results), options.out, f"{name}_density")


def train(name: str, options: Namespace, backend: str) -> dict[str, Any]:
    """Train one model, and return all that there is to say about it."""
    dataset, changes = data.load(name, root=options.data_root), {"eval_estimator": PowerSeries(n_terms=TERMS[-1])}
    if options.quick:
        dataset, changes = _common.shortened(dataset, 64), {**changes, "blocks": (1,), "hidden": (4, 4)}
    model, config = training.recipe(dataset, changes=changes)
    config = config.replace(max_minutes=options.minutes, eval_minutes=options.minutes / POINTS, seed=options.seed)
    if options.quick:
        config = config.replace(max_minutes=None, max_steps=4, eval_steps=2, log_steps=1)
    folder = _common.fresh_folder(options.runs, f"{name}_density-{backend}")
    run = training.fit(model, dataset, config, folder=folder)
    # At the end fit evaluates all test images, but the last point of the curve must be of those of the others.
    last = training.evaluate(run.best, dataset.test[test_subset(dataset, config)])
    curve = [row for row in run.history if row["test_bits_per_dim"] is not None and row["step"] < run.step]
    curve.append({"minutes": run.minutes, "step": run.step, "test_bits_per_dim": last.metrics["bits_per_dim"]})
    with _library.use_backend(None):  # the bias is a property of the weights: whatever measures it fastest
        few = dataset.test[: options.exact_images]
        # An estimate above the log-determinant flatters the model: bits/dim come out too low by so much.
        biases = -_bias.bits(_bias.series_bias(run.best, few, TERMS), few[0].numel())
    return {
        "machine": _common.machine(backend),
        "train_config": config.to_dict(),
        "model_config": run.best.config.to_dict(),
        "steps": run.step,
        "minutes": run.minutes,
        "ms_per_step": median(1e3 * config.batch_size / row["samples_per_second"] for row in run.history),
        "curve": [{key: row[key] for key in ("minutes", "step", "test_bits_per_dim")} for row in curve],
        "curve_images": last.n,
        "bits_per_dim": run.evaluation.metrics["bits_per_dim"],
        "standard_error": run.evaluation.standard_errors["bits_per_dim"],
        "test_images": run.evaluation.n,
        "truncation_bound": run.evaluation.truncation_bound,
        "bias_images": len(few),
        "bias": [
            {"terms": n, "mean": float(row.mean()), "least": float(row.min()), "most": float(row.max())}
            for n, row in zip(TERMS, biases, strict=True)
        ],
    }


def speed(runs: dict[str, Any]) -> dict[str, float | None] | None:
    """Return when the kernels' curve passes the end of the reference's; None without both runs.

    It does so between two of its points: at the later one, "minutes", it is as good; at the one before, "before", not.
    """
    if set(runs) != set(BACKENDS):
        return None
    goal, end = (runs["reference"]["curve"][-1][key] for key in ("test_bits_per_dim", "minutes"))
    found: dict[str, float | None] = {"goal": goal, "before": 0.0, "minutes": None, "ratio": None}
    for point in runs["kernels"]["curve"]:
        if point["test_bits_per_dim"] <= goal:
            return {**found, "minutes": point["minutes"], "ratio": end / point["minutes"]}
        found["before"] = point["minutes"]
    return found
