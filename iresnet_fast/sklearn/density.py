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
    """Density of the rows of a table by a residual flow."""

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
