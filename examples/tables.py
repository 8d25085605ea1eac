"""Density of twelve real tables: our flow as the recipe has it, a Gaussian, a mixture of ten, and normflows' flow.

    python examples/tables.py                          # all tables, some 20 minutes on two cores
    python examples/tables.py --resume                 # those that an interrupted run has not come to
    python examples/tables.py --only iris,wine         # some of them; the results of the others stay
    python examples/tables.py --quick                  # seconds, to see that it works; pass --out too

The tables come with scikit-learn and statsmodels. A fifth of the rows, drawn by the seed, is for tests alone. Whole
numbers get the same noise for everybody. Gaussian and mixture are fitted to all other rows; both flows choose their
model by the same part of them, held out, and normflows' trains for as many seconds as ours did. Writes
docs/results/tables.{json,md,png}.
"""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import _common
import _table_models
import _table_report
import _table_sets
import torch
from torch import Tensor

from iresnet_fast import training
from iresnet_fast.training import recipes
from iresnet_fast.training.batches import divided


def main() -> None:
    """Train on every table, compare, write after each."""
    parser = _common.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of a flow at most (default: %(default)g)")
    parser.add_argument("--only", type=lambda text: text.split(","), help="names of tables, with commas (default: all)")
    parser.add_argument("--resume", action="store_true", help="keep the tables that are done (default: start again)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the training runs (default: runs)")
    options = parser.parse_args()
    names = options.only or list(_table_sets.TABLES)
    if unknown := set(names) - set(_table_sets.TABLES):
        parser.error(
            f"--only must be of {', '.join(_table_sets.TABLES)}, got {', '.join(sorted(unknown))}; correct it."
        )
    settings = {"seconds": options.seconds, "seed": options.seed, "quick": options.quick}
    keep = options.resume or options.only is not None
    results = _common.earlier(parser, options.out / "tables.json", settings, keep)
    for i, name in enumerate(names):
        if options.resume and name in results["runs"]:
            continue
        _common.start(options)
        print(f"table {i + 1} of {len(names)}: {name}", flush=True)
        results["runs"][name] = measured(name, options)
        results["runs"] = {known: results["runs"][known] for known in _table_sets.TABLES if known in results["runs"]}
        _table_report.draw(results, options.out)
        _common.write(options.out, "tables", results, _table_report.text(results))


def measured(name: str, options: Namespace) -> dict[str, Any]:
    """Return what every method comes to on the test rows of a table."""
    split = _table_sets.split(name, options.seed, 40 if options.quick else None)
    dataset, changes = split.dataset, {"blocks": (1,), "hidden": (4,)} if options.quick else {}
    model, config = training.recipe(dataset, changes=changes)
    config = config.replace(max_minutes=options.seconds / 60.0, seed=options.seed)
    if options.quick:
        config = config.replace(max_steps=2)
    folder = _common.fresh_folder(options.runs, f"tables-{name}")
    run = training.fit(model, dataset, config, folder, show_progress=not options.quick)
    with torch.no_grad():
        ours = run.best.log_prob(dataset.test).double()
    fit, held_out = divided(len(dataset.train), config)
    assert fit is not None
    parts = _table_models.Parts(split.train, split.train[fit], split.train[held_out], split.test)
    law = _table_models.gaussian(split.train, torch.tensor(split.steps, dtype=torch.float64).square() / 12.0)
    sizes, seconds = recipes.sizes_of(dataset), 60.0 * run.minutes
    assert sizes is not None
    theirs, steps = _table_models.residual_flow(parts, sizes, seconds, options.seed)
    gaussian = law.log_prob(split.test)
    found = {"ours": ours, "mixture": _table_models.mixture(parts, law, options.seed), "normflows": theirs}
    return {
        "machine": _common.machine(),
        "rows": len(dataset.train) + len(dataset.test),
        "columns": dataset.event_shape[0],
        "test_rows": len(dataset.test),
        "gaussian": mean(gaussian),
        "gain": {method: mean(log_prob - gaussian) for method, log_prob in found.items()},
        "ours_over_mixture": mean(ours - found["mixture"]),
        "ours_over_normflows": mean(ours - theirs),
        "seconds": seconds,
        "steps": {"ours": run.step, "best": run.best_step, "normflows": steps},
    }


def mean(values: Tensor) -> list[float]:
    """Return the mean of values [n] and its standard error."""
    return [float(values.mean()), float(values.std()) / math.sqrt(len(values))]


if __name__ == "__main__":
    main()
