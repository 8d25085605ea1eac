"""Rows of a data set beside samples of a flow that was trained on it."""

from __future__ import annotations

from pathlib import Path

import torch

from ...data import DataSet, Table
from ...models import IResNetFlow
from ..samples import samples_at
from ._pairs import pairs, rows_of

_MOST = 1000
_FEWEST = 200  # rows of test data that make a picture; of fewer, training data are drawn too


def compare(flow: IResNetFlow, dataset: DataSet, path: str | Path, seed: int = 0) -> str:
    """Draw pairs of columns of at most 1000 rows of a data set and of as many samples, at the contexts of these rows.

    Args:
        flow: of vectors, in eval mode.
        dataset: of the flow. Its test data are drawn, or all of its data if there are fewer than 200 of these.
        path: of the file to write.
        seed: of the samples.

    Returns:
        What the rows are: "test data", or "training and test data".

    Raises:
        ValueError: the data are no vectors, or the suffix of the path is that of no format.
    """
    if len(dataset.event_shape) != 1:
        raise ValueError(
            f"pairs of columns need vectors, got events of shape {dataset.event_shape} in {dataset.name}; draw samples "
            f"instead."
        )
    data, samples, what = compared(flow, dataset, seed)
    pairs(data, samples, path)
    return what


def compared(flow: IResNetFlow, dataset: DataSet, seed: int = 0) -> tuple[Table, Table, str]:
    """Return the rows, the samples, and what the rows are; arguments as of `compare`."""
    x, context, what = dataset.test, dataset.test_context, "test data"
    if len(x) < _FEWEST:
        x, what = torch.cat((dataset.train, x)), "training and test data"
        if context is not None and dataset.train_context is not None:
            context = torch.cat((dataset.train_context, context))
    rows = torch.linspace(0, len(x) - 1, min(len(x), _MOST), dtype=torch.float64).long()
    x, context = x[rows], None if context is None else context[rows]
    drawn = samples_at(flow, max(len(x), _FEWEST), context, seed=seed).cpu()
    given = None if context is None else context[torch.arange(len(drawn)) % len(context)]
    data, samples = (
        rows_of(where, values, at, dataset.table, dataset.context_names)
        for where, values, at in (("data", x, context), ("samples", drawn, given))
    )
    return data, samples, what
