"""What both estimators share: parameters, training, log-densities."""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import numpy as np
import torch

from .. import _checks
from .._optional import needed
from ..data import DataSet
from ..models import IResNetFlow
from ..training import TrainConfig, fit
from ..training.table_sizes import TableSizes, table_sizes
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
_OF_BUDGET = 4  # one part of the recipe's steps: estimators are fitted many times, in seconds rather than minutes
_FEWEST = 50  # distinct rows to train on: of fewer, those held out cannot tell a better density from a normal one


class ResidualFlowEstimator(BaseEstimator):  # type: ignore[misc]
    """A residual flow that is trained on the rows of a table; the parameters are those of `ResidualFlowDensity`."""

    def __init__(
        self,
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
        """Keep the parameters, which fit checks."""
        self.n_blocks = n_blocks
        self.hidden = hidden
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_steps = max_steps
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
        z = torch.from_numpy(self.scaling_.forward(rows.x))
        weights = torch.from_numpy(rows.weights / rows.weights.mean())
        same = bool((weights == weights[0]).all())
        # What is evaluated on the test part, which a data set must have, is not looked at.
        dataset = DataSet("X", z.float(), z[:1].float(), train_weights=None if same else weights.float())
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        sizes = table_sizes(*z.shape)
        config = self._training(sizes, len(z), seed)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            flow = self._untrained(sizes, *z.shape).to(self.device)
        self.n_steps_ = 0
        if len(z) < _FEWEST:
            warnings.warn(
                f"iresnet_fast: X has {len(z)} distinct rows, fewer than the {_FEWEST} it takes to train a flow: the "
                f"density is a normal one, with their mean and covariance.",
                RuntimeWarning,
                stacklevel=3,
            )
            flow.double().fit_preprocessing(z.to(self.device), weights=weights.to(self.device))
        else:
            flow, self.n_steps_ = self._trained(flow, dataset, config)
        # In float64 a log-density depends on nothing but its row, to rounding that nobody sees.
        self.flow_: IResNetFlow = flow.double().eval()
        return rows

    def _untrained(self, sizes: TableSizes, n: int, n_dims: int) -> IResNetFlow:
        changes = dict(sizes.changes)
        if not _is_auto(self.n_blocks):
            _checks.check_count("n_blocks", _plain(self.n_blocks), 1)
            changes["blocks"] = (_plain(self.n_blocks),)
        if not _is_auto(self.hidden):
            changes["hidden"] = _plain(self.hidden)
        if n < _FEWEST:
            changes |= {"blocks": (0,), "final_actnorm": False, "prior": "standard"}
        return IResNetFlow(IResNetFlow.preset_config("tabular").replace(event_shape=(n_dims,), **changes))

    def _training(self, sizes: TableSizes, n: int, seed: int) -> TrainConfig:
        """Return the recipe for n rows, with what the parameters say."""
        recipe = sizes.training
        own = {name: _plain(getattr(self, name)) for name in ("batch_size", "learning_rate", "max_steps")}
        own["validation"] = _plain(self.validation_fraction)
        changes = {name: value for name, value in own.items() if not _is_auto(value)}
        assert recipe.max_steps is not None
        changes.setdefault("max_steps", recipe.max_steps // _OF_BUDGET)
        if "validation" in changes:
            n_held_out = _check_fraction(changes["validation"], n)
            changes.setdefault("batch_size", min(recipe.batch_size, n - n_held_out))
        changes["patience"] = _plain(self.patience) if changes.get("validation", recipe.validation) else None
        return recipe.replace(**changes, max_minutes=_plain(self.max_minutes), seed=seed)

    def _trained(self, flow: IResNetFlow, dataset: DataSet, config: TrainConfig) -> tuple[IResNetFlow, int]:
        """Return the flow as it is to be used, and the number of steps taken."""
        # `fit` keeps its state in files, so that it can go on after any crash; here nobody looks at them.
        with tempfile.TemporaryDirectory(prefix="iresnet-fast-") as folder, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "iresnet_fast: the run is logged in log.csv alone", RuntimeWarning)
            run = fit(flow, dataset, config, folder, show_progress=bool(self.verbose))
        best = run.best
        assert isinstance(best, IResNetFlow)
        return best, run.step

    def _log_density(self, x: Floats) -> Floats:
        z = torch.from_numpy(self.scaling_.forward(x)).to(self.flow_.prior.mean.device)
        with torch.no_grad():
            found = [self.flow_.log_prob(part) for part in torch.split(z, _AT_ONCE)]
        log_density: Floats = torch.cat(found).cpu().numpy() + self.scaling_.logdet
        return log_density


def _check_fraction(fraction: Any, n: int) -> int:
    """Return how many of n rows are held out; raises unless some are left, and some held out where that is wanted."""
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)):
        raise TypeError(f"validation_fraction must be a number or 'auto', got {fraction!r}; pass e.g. 0.1.")
    n_held_out = round(float(fraction) * n) if 0.0 <= fraction < 1.0 else n
    if n_held_out == n or (n_held_out == 0 and fraction > 0.0):
        raise ValueError(
            f"validation_fraction must be 0.0, or leave a row to train on and hold one out, got {fraction} of {n} "
            f"distinct rows; pass e.g. 0.1."
        )
    return n_held_out


def _plain(value: Any) -> Any:
    """Return a parameter as Python has it: searches draw numbers of numpy, and lists for tuples."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"
