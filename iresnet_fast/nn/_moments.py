"""Mean and covariance of data in float64, whatever the dtype of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .._inputs import check_floating, check_tensor

_ROWS = 65536  # in float64 at a time: a copy of all data could be too large


def mean_of(data: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean [*event] of data [N, *event], in float64.

    Args:
        data: the samples.
        weights: [N], how much each counts; None: all the same.

    Raises:
        ValueError: there is no sample, a value is not finite, or the weights do not fit.
    """
    check_tensor(data, "data")
    if data.dim() < 2 or data.shape[0] == 0:
        raise ValueError(f"data must have shape [N, *event] with N > 0, got {tuple(data.shape)}; pass samples.")
    if weights is not None:
        _check_weights(weights, len(data))
    mean = torch.zeros(data.shape[1:], dtype=torch.float64, device=data.device)
    for rows, shares in _parts(data, weights):
        mean += torch.tensordot(shares, rows, 1)
    if not bool(mean.isfinite().all()):
        raise ValueError("data must be finite, got NaN or infinity; clean it first.")
    return mean


def variance_of(data: Tensor, mean: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the variance [*event] of data [N, *event] around their mean, in float64; exactly 0 where constant."""
    variance = torch.zeros_like(mean)
    for rows, shares in _parts(data, weights):
        variance += torch.tensordot(shares, (rows - mean).square(), 1)
    return torch.where(_varies(data, mean, variance), variance, 0.0)


def covariance_of(data: Tensor, mean: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the covariance [d, d] of data [N, d] around their mean, in float64; exactly 0 where one is constant."""
    covariance = mean.new_zeros(len(mean), len(mean))
    for rows, shares in _parts(data, weights):
        centred = rows - mean
        covariance += centred.T @ (shares[:, None] * centred)
    varies = _varies(data, mean, covariance.diagonal()).double()
    return covariance * varies[:, None] * varies


def _parts(data: Tensor, weights: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield some rows at a time, and what share of the whole each of them is."""
    n, data = data.shape[0], data.detach()
    if weights is None:
        shares = torch.full((n,), 1.0 / n, dtype=torch.float64, device=data.device)
    else:
        shares = weights.detach().double() / weights.detach().double().sum()
    for begin in range(0, n, _ROWS):
        yield data[begin : begin + _ROWS].double(), shares[begin : begin + _ROWS]


def _check_weights(weights: Tensor, n: int) -> None:
    check_floating(weights, "weights")
    if weights.shape != (n,):
        raise ValueError(f"weights must have shape ({n},), got {tuple(weights.shape)}; pass one for each sample.")
    total = float(weights.double().sum())
    if not (bool((weights >= 0.0).all()) and 0.0 < total < math.inf):
        raise ValueError("weights must be finite, not negative and not all zero, got others; correct them.")


def _varies(data: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return which entries of an event vary by more than rounding leaves of a constant in the dtype of the data."""
    dtype = data.dtype if data.is_floating_point() else torch.float64
    return (data != data[0]).any(0) & (variance > (2.0 * torch.finfo(dtype).eps * mean).square())
