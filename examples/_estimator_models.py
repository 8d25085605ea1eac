"""The models on which the noise of estimators is measured: their branches differ in what is known of their traces."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import _common
import torch

from iresnet_fast import data, training
from iresnet_fast.data import DataSet


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        branch: what its branches are, for the tables.
        load: from the folder of data files to the data.
        changes: of the configuration that the recipe of the data has.
        minutes: of training.
        samples: of the test set, of which the noise is measured.
        draws: of every estimator.
    """

    branch: str
    load: Callable[[Any], DataSet]
    changes: dict[str, Any] = field(default_factory=dict)
    minutes: float = 0.25
    samples: int = 64
    draws: int = 50


def _cells(root: Any) -> DataSet:
    """Return scikit-learn's table of breast tumours, 30 columns."""
    from sklearn.datasets import load_breast_cancer

    table = torch.from_numpy(load_breast_cancer().data).float()
    table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]
    return DataSet("breast_cancer", table[:500], table[500:])


def _named(name: str) -> Callable[[Any], DataSet]:
    return lambda root: data.load(name, root=root)


_TABLE = {"blocks": (8,), "hidden": (128,)}

CASES = {
    "toy": Case("dense 2-128-2, ELU", _named("checkerboard"), {"hidden": (128,)}),
    "deep toy": Case("dense 2-128-128-2, ELU", _named("checkerboard")),
    "table": Case("dense 30-128-30, ELU", _cells, _TABLE),
    "table, leading": Case("dense 30-128-30, leading ELU", _cells, {**_TABLE, "preactivation": True}),
    "deep table": Case("dense 30-128-128-30, ELU", _cells, {**_TABLE, "hidden": (128, 128)}),
    "digits": Case("conv 3-1-3 of 4x4x4, leading LipSwish", _named("digits"), {}, 2.0, 32, 40),
    "digits, ELU": Case(
        "conv 3-1-3 of 4x4x4, ELU", _named("digits"), {"activation": "elu", "preactivation": False}, 2.0, 32, 40
    ),
    "mnist": Case("conv 3-1-3 of 4x14x14 and 16x7x7, leading LipSwish", _named("mnist"), {}, 2.0, 8, 20),
}


def train(name: str, options: Namespace) -> tuple[Any, Any, DataSet, dict[str, Any]]:
    """Return the trained model, the recipe, the data, and what to say about it."""
    case = CASES[name]
    dataset, changes = case.load(options.data_root), case.changes
    dataset = DataSet(dataset.name, dataset.train, dataset.test[:1000], n_levels=dataset.n_levels)
    if options.quick:
        dataset = _common.shortened(dataset, 64)
        changes = {**changes, "blocks": (1,) * (2 if name == "mnist" else 1)}
        changes["hidden"] = (8,) * len(changes.get("hidden", (8, 8)))
    model, config = training.recipe(dataset, changes=changes)
    budget = (
        {"max_minutes": None, "max_steps": 3} if options.quick else {"max_minutes": options.minutes or case.minutes}
    )
    batch = min(config.batch_size, len(dataset.train) // 2)
    config = config.replace(**budget, batch_size=batch, seed=options.seed)
    folder = _common.fresh_folder(options.runs, f"estimator_variance-{name.replace(', ', '-').replace(' ', '-')}")
    run = training.fit(model, dataset, config, folder=folder)
    about = {
        "branch": case.branch,
        "data": dataset.name,
        "n_dims": dataset.train[0].numel(),
        "blocks": sum(run.best.config.blocks),
        "model_config": run.best.config.to_dict(),
        "train_config": config.to_dict(),
        "steps": run.step,
        "minutes": run.minutes,
        "metrics": run.evaluation.metrics,
    }
    return run.best, config, dataset, about
