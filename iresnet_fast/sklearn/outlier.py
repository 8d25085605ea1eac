"""A detector of outliers by their density."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._optional import needed
from ._base import ResidualFlowEstimator
from ._rows import Floats, offset

with needed("iresnet_fast.sklearn"):
    from sklearn.base import OutlierMixin  # type: ignore[import-untyped]


class ResidualFlowOutlier(OutlierMixin, ResidualFlowEstimator):  # type: ignore[misc]
    """Outliers as the rows of the lowest density of a residual flow.

    Args:
        contamination: share of the weight of the training rows that becomes outliers, in (0, 0.5].
        n_blocks: this and all that follow are those of `ResidualFlowDensity`.
        hidden: as there.
        batch_size: as there.
        learning_rate: as there.
        max_steps: as there.
        max_minutes: as there.
        validation_fraction: as there.
        patience: as there.
        random_state: as there.
        device: as there.
        verbose: as there.

    Attributes:
        offset_: log-density below which a row is an outlier.
        flow_: this and all others as there.
    """

    def __init__(
        self,
        contamination: float = 0.1,
        *,
        n_blocks: Any = "auto",
        hidden: Any = "auto",
        batch_size: Any = "auto",
        learning_rate: Any = "auto",
        max_steps: Any = "auto",
        max_minutes: float | None = None,
        validation_fraction: Any = "auto",
        patience: int = 4,
        random_state: Any = None,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        """Keep the parameters; they are checked in fit."""
        super().__init__(
            n_blocks=n_blocks,
            hidden=hidden,
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_steps=max_steps,
            max_minutes=max_minutes,
            validation_fraction=validation_fraction,
            patience=patience,
            random_state=random_state,
            device=device,
            verbose=verbose,
        )
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> ResidualFlowOutlier:
        """Train the flow, and find the offset; arguments and errors as of `ResidualFlowDensity.fit`."""
        if not 0.0 < self.contamination <= 0.5:
            raise ValueError(f"contamination must be in (0, 0.5], got {self.contamination!r}; pass e.g. 0.1.")
        rows = self._fit(X, sample_weight)
        self.offset_: float = offset(self._log_density(rows.x), rows.weights, self.contamination)
        return self

    def decision_function(self, X: Any) -> Floats:
        """Return `score_samples` minus `offset_` [n_samples]: negative for outliers. Errors as in `score_samples`."""
        decision: Floats = self.score_samples(X) - self.offset_
        return decision

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return -1 for outliers and 1 for other rows [n_samples]; errors as in `score_samples`."""
        return np.where(self.decision_function(X) < 0.0, -1, 1)
