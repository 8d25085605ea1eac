"""The least that a density model of vectors should reach: a Gaussian with a full covariance matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data import DataSet
from .evaluate import Evaluation
from .tasks import flow_of

_MOST_DIMENSIONS = 2000  # whose covariance matrix takes a second
_RIDGES = (0.0, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6)  # of the correlation matrix, from none on

_LEVEL = 0.005  # nats that are printed as 0.00: a model that is kept as it began differs by its noise and rounding


@dataclass(frozen=True)
class Baseline:
    """How a model compares with a Gaussian on the test set.

    Attributes:
        log_prob: mean log-density of the test samples under the Gaussian, in nats.
        difference: by how much that of the model is larger, in nats.
        standard_error: of the difference, from the spread of those of the samples; NaN of a single one.
        with_context: whether the mean of the Gaussian is a linear function of the context.
    """

    log_prob: float
    difference: float
    standard_error: float
    with_context: bool = False

    def __str__(self) -> str:
        """Return it in one line."""
        error = "" if math.isnan(self.standard_error) else f" +- {self.standard_error:.2f}"
        what = "a full-covariance Gaussian" + " around a linear function of the context" * self.with_context
        if abs(self.difference) < _LEVEL:
            return f"baseline: the model is level with {what} on the test samples"
        if self.difference < 0.0:
            return (
                f"baseline: the model is worse than {what} by {-self.difference:.2f}{error} nats on the test samples: "
                f"more data, --validation or --patience may help"
            )
        return f"baseline: the model is better than {what} by {self.difference:.2f}{error} nats on the test samples"


def compare(model: nn.Module, dataset: DataSet, found: Evaluation) -> Baseline | None:
    """Return how a model compares with a Gaussian that is fitted to all training samples, with their weights.

    The Gaussian is computed in float64. Where the model makes whole numbers continuous by noise, so does the Gaussian:
    its log-density is the mean over that.

    Args:
        model: what was evaluated.
        dataset: what on.
        found: the evaluation on the test samples.

    Returns:
        None unless the model is a density of vectors of continuous values, of 2000 entries at most, without labels.
    """
    flow = flow_of(model)
    if flow is not model or "nats" not in found.values or dataset.n_classes is not None:
        return None
    if len(dataset.event_shape) != 1 or dataset.event_shape[0] > _MOST_DIMENSIONS or len(dataset.train) < 2:
        return None
    steps: tuple[float, ...] = getattr(model.config, "dequantize", ())
    noise = torch.tensor(steps or (0.0,), dtype=torch.float64).square() / 12.0
    ours = gaussian_log_prob(
        dataset.train, dataset.test, noise, dataset.train_context, dataset.test_context, dataset.train_weights
    )
    difference = -found.values["nats"] - ours
    n = len(difference)
    error = float(difference.std()) / math.sqrt(n) if n > 1 else math.nan
    return Baseline(float(ours.mean()), float(difference.mean()), error, dataset.train_context is not None)


def gaussian_log_prob(
    train: Tensor,
    test: Tensor,
    noise: Tensor,
    train_context: Tensor | None = None,
    test_context: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the log-densities [M], float64, of test samples under the Gaussian of training samples.

    Args:
        train: [N, d].
        test: [M, d].
        noise: [d] or [1], variance of what is added to every entry, over which the mean is taken.
        train_context: [N, c], of which the mean of the Gaussian is a linear function; None: it is constant.
        test_context: [M, c].
        weights: [N], how much each training sample counts; None: all the same.
    """
    x, points = train.double().cpu(), test.double().cpu()
    centre, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 0.0, scale, 1.0)
    x, points, variance = (x - centre) / scale, (points - centre) / scale, noise / scale.square()
    roots = torch.ones(len(x), 1, dtype=torch.float64)
    if weights is not None:
        roots = (weights.double().cpu() / weights.double().mean().cpu()).sqrt()[:, None]
    given, at = _designs(train_context, test_context, len(x), len(points))
    # The least squares of smallest norm, also where columns of the context depend on each other.
    coefficients = torch.linalg.pinv(roots * given) @ (roots * x)
    rest, points = roots * (x - given @ coefficients), points - at @ coefficients
    covariance = rest.T @ rest / len(x) + torch.diag(variance.expand(x.shape[1]))
    factor = _cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, points.T, upper=False)
    inverse = torch.cholesky_inverse(factor)
    squares = white.square().sum(0) + (inverse.diagonal() * variance).sum()
    logdet = factor.diagonal().log().sum() + scale.log().sum()
    result: Tensor = -0.5 * (squares + x.shape[1] * math.log(2.0 * math.pi)) - logdet
    return result


def _designs(train: Tensor | None, test: Tensor | None, n_train: int, n_test: int) -> tuple[Tensor, Tensor]:
    """Return a column of ones for both parts, and the standardised contexts beside it."""
    ones = [torch.ones(n, 1, dtype=torch.float64) for n in (n_train, n_test)]
    if train is None or test is None:
        return ones[0], ones[1]
    centre, scale = train.double().mean(0), train.double().std(0, correction=0)
    scale = torch.where(scale > 0.0, scale, 1.0)
    both = ((part.double() - centre) / scale for part in (train, test))
    given, at = (torch.cat([one, part.cpu()], 1) for one, part in zip(ones, both, strict=True))
    return given, at


def _cholesky(covariance: Tensor) -> Tensor:
    """Return the factor of a covariance matrix whose entries are about 1, with a ridge as small as will do."""
    one = torch.eye(len(covariance), dtype=torch.float64)
    factor: Tensor = one
    for ridge in _RIDGES:
        factor, failed = torch.linalg.cholesky_ex(covariance + ridge * one)
        if int(failed) == 0:
            break
    return factor
