"""Twelve tables that come with scikit-learn and statsmodels, as one would load them, and how they are split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import statsmodels.api as sm
import torch
from sklearn import datasets
from torch import Tensor

from iresnet_fast import nn
from iresnet_fast.data import Column, DataSet, TableSchema

TEST = 0.2  # of the rows


class Split(NamedTuple):
    """A table in two parts.

    Attributes:
        dataset: rows to train on and to test on, as they are.
        train: [n, d] float64, the rows to train on; whole numbers have got the noise that a flow gives them outside
            training.
        test: [m, d], likewise the rows to test on.
    """

    dataset: DataSet
    train: Tensor
    test: Tensor

    @property
    def steps(self) -> tuple[float, ...]:
        """Distance of the values of each column; 0.0 where they are continuous."""
        assert self.dataset.table is not None
        return self.dataset.table.steps


def _statsmodels(name: str, without: str = "", only: tuple[str, ...] = ()) -> Callable[[], pd.DataFrame]:
    def load() -> pd.DataFrame:
        frame = getattr(sm.datasets, name).load_pandas().data
        return frame[list(only)] if only else frame.drop(columns=[without] if without else [])

    return load


def _sunspots() -> pd.DataFrame:
    """Return the activity of every year beside that of the three years before."""
    activity = sm.datasets.sunspots.load_pandas().data["SUNACTIVITY"]
    return pd.concat({f"{lag} before": activity.shift(lag) for lag in range(4)}, axis=1).dropna()


# Left out are numbers of rows, names, and what is a function of other columns. In fair all numbers but one, the ratio
# that is left out, are coded in halves.
TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "iris": lambda: datasets.load_iris(as_frame=True).data,
    "wine": lambda: datasets.load_wine(as_frame=True).data,
    "breast_cancer": lambda: datasets.load_breast_cancer(as_frame=True).data,
    "diabetes": lambda: datasets.load_diabetes(as_frame=True, scaled=False).frame,
    "engel": _statsmodels("engel"),
    "cancer": _statsmodels("cancer"),
    "grunfeld": _statsmodels("grunfeld", only=("invest", "value", "capital", "year")),
    "sunspots": _sunspots,
    "fair": _statsmodels("fair", without="affairs"),
    "anes96": _statsmodels("anes96", without="logpopul"),
    "star98": _statsmodels("star98"),
    "modechoice": _statsmodels("modechoice", without="individual"),
}
_HALVES = {"fair": 0.5}


def split(name: str, seed: int, most: int | None = None) -> Split:
    """Return a table, split by the seed; at most so many rows of it."""
    frame = TABLES[name]()
    # A stream of its own: the splits that the recipe was chosen on are those of the plain seeds.
    rows = np.random.default_rng((seed, 1)).permutation(frame.to_numpy(np.float64))[:most]
    columns = tuple(_column(str(label), cells, name) for label, cells in zip(frame, rows.T, strict=True))
    n_test = round(TEST * len(rows))
    train, test = (torch.from_numpy(part).float() for part in (rows[n_test:], rows[:n_test]))
    dataset = DataSet(name, train, test, table=TableSchema(columns))
    assert dataset.table is not None
    # As the first layer of a flow, so that the noise is that of its densities.
    layer = nn.Sequential(nn.DequantizeSteps(dataset.table.steps)).eval()
    return Split(dataset, layer(train)[0].double(), layer(test)[0].double())


def _column(label: str, cells: np.ndarray[Any, np.dtype[np.float64]], name: str) -> Column:
    if (cells == np.rint(cells)).all():
        return Column(label, "integer", step=1.0)
    return Column(label, step=_HALVES.get(name, 0.0))
