"""The density of the rows of a table, as an estimator."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._optional import needed
from ._base import ResidualFlowEstimator
from ._rows import Floats

with needed("iresnet_fast.sklearn"):
    from sklearn.base import DensityMixin  # type: ignore[import-untyped]
    from sklearn.utils import check_random_state  # type: ignore[import-untyped]
    from sklearn.utils.validation import check_is_fitted  # type: ignore[import-untyped]


class ResidualFlowDensity(DensityMixin, ResidualFlowEstimator):  # type: ignore[misc]
    """Density of the rows of a table by a residual flow.

    Columns are standardised in float64 and whitened before the flow, so that their units, offsets and correlations do
    not matter; the flow begins as the normal density of the rows, and of its states in training the one that is best
    on rows held out is kept. With fewer than 50 distinct rows the density stays the normal one (without correlations if
    they are fewer than twice the columns), and a warning says so.

    A row of weight 2 is the same as a row that is there twice, and the order of rows has no part. Fits with one integer
    as random_state are the same to the bit at the same number of threads, but for max_minutes; fit in processes rather
    than threads at the same time, since training seeds torch's global generator, which it puts back.

    Args:
        n_blocks: number of residual blocks; "auto": by the size of the table, see training.table_sizes.
        hidden: widths between the layers of a block, such as (64, 64); "auto": by the size of the table.
        batch_size: rows of a step; "auto": by the size of the table.
        learning_rate: of AdamW; "auto": 3e-3.
        max_steps: most steps; "auto": by the size of the table, a quarter of what the command line takes.
        max_minutes: most minutes of a fit; None: no limit.
        validation_fraction: of the distinct rows, held out; 0.0: none, and the last state is kept; "auto": 0.1 to 0.3,
            by the size of the table.
        patience: evaluations on the rows held out without a better one after which training ends.
        random_state: seed of initial weights, batches and rows held out: an integer or a generator of numpy; None:
            numpy's global one.
        device: that trains and scores: "cpu", "cuda".
        verbose: whether to show progress.

    Attributes:
        flow_: the IResNetFlow, in float64 and eval mode, of the columns standardised.
        scaling_: how they are: (X - scaling_.shift) / scaling_.scale - scaling_.center.
        n_steps_: number of steps taken.
        n_features_in_: number of columns.
        feature_names_in_: their names, if X was a data frame with texts as names.
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> ResidualFlowDensity:
        """Train the flow on the rows of a table.

        Args:
            X: [n_samples, n_features], numbers without NaN or infinity; an array, a list of rows, or a data frame.
            y: not looked at.
            sample_weight: [n_samples], how often each row counts, not negative; None: all once.

        Returns:
            The estimator.

        Raises:
            ValueError: X is no such table or has a constant column, or a parameter is out of range.
            TypeError: X is sparse, or a parameter of another type.
        """
        self._fit(X, sample_weight)
        return self

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean log-density of the rows, in nats, as GaussianMixture does; KernelDensity returns the sum.

        Arguments and errors as in `score_samples`; y is not looked at.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Floats:
        """Return new rows [n_samples, n_features], float64.

        Args:
            n_samples: how many.
            random_state: a seed or a generator of numpy; None: numpy's global one.

        Raises:
            sklearn.exceptions.NotFittedError: fit was not called.
            ValueError: n_samples is negative.
            TypeError: n_samples is not an integer.
        """
        check_is_fitted(self)
        seed = int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
        return self.scaling_.inverse(self.flow_.sample(n_samples, seed=seed).cpu().numpy())
