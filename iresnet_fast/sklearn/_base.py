"""What both estimators share: parameters, training, log-densities."""

from __future__ import annotations

import tempfile
import warnings
from numbers import Integral
from typing import Any

import numpy as np
import torch

from .. import _checks, training
from .._optional import needed
from ..data import DataSet
from ..models import IResNetFlow
from ._rows import Floats, Rows, Scaling, distinct, fit_scaling

with needed("iresnet_fast.sklearn"):
    from sklearn.base import BaseEstimator  # type: ignore[import-untyped]
    from sklearn.utils import check_random_state  # type: ignore[import-untyped]
    from sklearn.utils.validation import (  # type: ignore[import-untyped]
        _check_sample_weight,
        check_is_fitted,
        validate_data,
    )

_AT_ONCE = 4096  # rows of a call of the flow
_FEWEST = 20  # rows of which a part is held out


class ResidualFlowEstimator(BaseEstimator):  # type: ignore[misc]
    """A residual flow that is trained on the rows of a table."""

    def __init__(
        self,
        n_blocks: Any = "auto",
        hidden: Any = "auto",
        batch_size: Any = "auto",
        learning_rate: Any = "auto",
        max_epochs: int = 100,
        max_minutes: float | None = None,
        validation_fraction: float = 0.1,
        patience: int = 10,
        random_state: Any = None,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        """Keep the parameters; they are checked in fit."""
        self.n_blocks = n_blocks
        self.hidden = hidden
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.max_minutes = max_minutes
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def score_samples(self, X: Any) -> Floats:
        """Return the log-density of every row, in nats and in the units of X.

        Args:
            X: [n_samples, n_features].

        Returns:
            [n_samples], float64.

        Raises:
            sklearn.exceptions.NotFittedError: fit was not called.
            ValueError: X has other columns, or holds NaN or infinity.
        """
        check_is_fitted(self)
        return self._log_density(validate_data(self, X, dtype=np.float64, reset=False))

    def _fit(self, X: Any, sample_weight: Any) -> Rows:
        """Train, and return the distinct rows that count."""
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        rows = distinct(X, sample_weight)
        self.scaling_: Scaling = fit_scaling(rows, getattr(self, "feature_names_in_", None))
        z = torch.from_numpy(self.scaling_.forward(rows.x)).float()
        weights = torch.from_numpy(rows.weights / rows.weights.mean()).float()
        same = bool((weights == weights[0]).all())
        # What is evaluated on the test part, which a data set must have, is not looked at.
        dataset = DataSet("X", z, z[:1], train_weights=None if same else weights)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model, config = training.recipe(dataset, preset="tabular", changes=self._of_model())
        assert isinstance(model, IResNetFlow)
        flow, self.n_steps_ = self._trained(model.to(self.device), dataset, self._training(config, len(z), seed))
        # In float64 a log-density depends on nothing but its row, to rounding that nobody sees, and the digits stay.
        self.flow_: IResNetFlow = flow.double().eval()
        return rows

    def _trained(self, flow: IResNetFlow, dataset: DataSet, config: training.TrainConfig) -> tuple[IResNetFlow, int]:
        """Return the flow as it is to be used, and the number of steps taken."""
        if len(dataset.train) < _FEWEST:
            warnings.warn(
                f"iresnet_fast: X has {len(dataset.train)} distinct rows, too few to train on: the density is a normal "
                f"one with their mean and covariance. Give {_FEWEST} at least for another.",
                RuntimeWarning,
                stacklevel=4,
            )
            data = dataset.train.to(flow.prior.mean)
            flow.fit_preprocessing(data)
            flow.initialize(data)
            return flow, 0
        with tempfile.TemporaryDirectory() as folder:
            run = training.fit(flow, dataset, config, folder, show_progress=bool(self.verbose))
        best = run.best
        assert isinstance(best, IResNetFlow)
        return best, run.step

    def _training(self, config: training.TrainConfig, n: int, seed: int) -> training.TrainConfig:
        """Return the recipe for n rows with what the parameters say."""
        if not 0.0 <= self.validation_fraction < 1.0:
            raise ValueError(
                f"validation_fraction must be in [0, 1), got {self.validation_fraction!r}; pass e.g. 0.1, or 0.0 to "
                f"hold nothing out."
            )
        n_held_out = round(self.validation_fraction * n)
        changes: dict[str, Any] = {"max_epochs": self.max_epochs, "max_minutes": self.max_minutes, "max_steps": None}
        changes["validation"] = self.validation_fraction if n_held_out else 0.0
        changes["patience"] = self.patience if n_held_out else None
        if not _is_auto(self.learning_rate):
            changes["learning_rate"] = self.learning_rate
        size = config.batch_size if _is_auto(self.batch_size) else self.batch_size
        _checks.check_count("batch_size", size, 1)
        return config.replace(**changes, batch_size=max(1, min(size, n - n_held_out)), seed=seed)

    def _of_model(self) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if not _is_auto(self.n_blocks):
            _checks.check_count("n_blocks", self.n_blocks, 0)
            changes["blocks"] = (int(self.n_blocks),)
        if not _is_auto(self.hidden):
            hidden = (self.hidden,) if isinstance(self.hidden, Integral) else tuple(self.hidden)
            changes["hidden"] = tuple(int(width) for width in hidden)
        return changes

    def _log_density(self, x: Floats) -> Floats:
        z = torch.from_numpy(self.scaling_.forward(x)).to(self.flow_.prior.mean.device)
        with torch.no_grad():
            found = [self.flow_.log_prob(part) for part in torch.split(z, _AT_ONCE)]
        log_density: Floats = torch.cat(found).cpu().numpy() + self.scaling_.logdet
        return log_density


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"
