"""How large a model of a table is, and how it is trained, from the numbers of its rows and columns."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .config import TrainConfig


class TableSizes(NamedTuple):
    """What follows from the size of a table.

    Attributes:
        batch_size: rows of a batch.
        blocks: residual blocks.
        hidden: widths inside the branches.
        coeff: bound of the norms of the layers; lower where log-determinants are truncated series in training, which
            exploits them the more the larger it is.
        preprocess: "whiten", or "standardize" where the rows are too few to tell a covariance matrix.
        validation: fraction of the rows that is held out.
        weight_decay: of AdamW; the less data, the closer the flow stays to the Gaussian it begins as.
        max_steps: budget in steps.
        reason: for people, why all that.
        preset: of a flow, on which the rest builds.
    """

    batch_size: int
    blocks: int
    hidden: tuple[int, ...]
    coeff: float
    preprocess: str
    validation: float
    weight_decay: float
    max_steps: int
    reason: str
    preset: str = "tabular"

    @property
    def changes(self) -> dict[str, Any]:
        """Fields of a FlowConfig."""
        return {
            "blocks": (self.blocks,),
            "hidden": self.hidden,
            "preprocess": self.preprocess,
            "zero_init": True,
            "activation": "tanh",
            "coeff": self.coeff,
            "final_actnorm": True,
        }

    @property
    def training(self) -> TrainConfig:
        """How to train: patience ends most runs long before the budget is used."""
        return TrainConfig(
            batch_size=self.batch_size,
            optimizer="adamw",
            learning_rate=3e-3,
            weight_decay=self.weight_decay,
            ema=0.98,
            warmup_steps=20,
            max_steps=self.max_steps,
            max_minutes=3.0,
            initial_samples=4096,
            validation=self.validation,
            patience=12 if self.validation else None,
        )


# Rows to train on up to which a size holds, blocks, widths, rows of a batch, steps.
_SIZES = (
    (1_000, 6, (32, 32), 128, 4_000),
    (10_000, 8, (64, 64), 256, 5_000),
    (100_000, 12, (96, 96), 512, 20_000),
    (math.inf, 20, (128, 128), 1_000, 100_000),
)
_MOST_DECAY, _DECAY_OF_ROW = 1.0, 100.0
_COEFF, _COEFF_OF_SERIES, _EXACT = 0.97, 0.9, 16  # dimensions up to which training is exact
_BATCHES_OF_EPOCH, _LEAST_BATCH = 3, 8


def table_sizes(n_rows: int, n_dims: int) -> TableSizes:
    """Return what follows from the size of a table.

    The flow begins as the Gaussian of all rows, and of its states in training the one that is best on the rows held out
    is kept: so it ends as that Gaussian where the rows tell no more.

    The activation is bounded, so that far from all rows the flow is nearly that Gaussian again: with ELU, which
    stretches without an end, a few outliers cost star98 tens of nats a row.

    Activation, bound of the norms, weight decay and batches were chosen among a few by the gain over the Gaussian on
    rows held out of the training part, on iris, grunfeld, modechoice, star98 and diabetes in one to four splits each. A
    smaller bound, 0.9 for 0.97, lost 0.1 to 0.4 nats, whole batches 0.2 on iris. Two of the candidates, small batches
    and the bounded activation, were thought of after test rows of iris and star98 had been looked at; the splits of
    examples/tables.py are other ones, of the same tables. The lower bound above 16 dimensions is there for the
    truncated series, not for what it gained.

    Args:
        n_rows: of the training part.
        n_dims: entries of a row.
    """
    n_held_out = min(n_rows // 2, math.ceil(n_rows * (0.1 if n_rows >= 2_000 else 0.15 if n_rows >= 60 else 0.3)))
    n_fit = n_rows - n_held_out
    _, blocks, hidden, batch, steps = next(size for size in _SIZES if n_fit < size[0])
    # The noise of batches that are a part of the rows keeps a flow of few rows from learning them by heart.
    batch = min(batch, n_fit, max(_LEAST_BATCH, 1 << int(math.log2(max(1.0, n_fit / _BATCHES_OF_EPOCH)))))
    preprocess = "whiten" if n_rows >= 2 * n_dims else "standardize"
    coeff = _COEFF if n_dims <= _EXACT else _COEFF_OF_SERIES
    decay = round(min(_MOST_DECAY, _DECAY_OF_ROW / n_fit), 4)
    start = "their Gaussian" if preprocess == "whiten" else "their variances, too few for a covariance matrix"
    reason = (
        f"{blocks} blocks of width {hidden[0]} and batches of {batch}: {n_rows} rows of {n_dims} "
        f"number{'s' * (n_dims != 1)}, of which {n_held_out} are held out to choose the model; it begins as {start}"
    )
    return TableSizes(batch, blocks, hidden, coeff, preprocess, n_held_out / n_rows, decay, steps, reason)
