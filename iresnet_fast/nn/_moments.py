"""Mean and covariance of data in float64, whatever the dtype of the data."""

from __future__ import annotations

import torch
from torch import Tensor

from .._inputs import check_tensor

_ROWS = 65536  # in float64 at a time: a copy of all data could be too large


def mean_of(data: Tensor) -> Tensor:
    """Return the mean [*event] of data [N, *event], in float64.

    Raises:
        ValueError: there is no sample, or a value is not finite.
    """
    check_tensor(data, "data")
    if data.dim() < 2 or data.shape[0] == 0:
        raise ValueError(f"data must have shape [N, *event] with N > 0, got {tuple(data.shape)}; pass samples.")
    mean = data.detach().sum(0, dtype=torch.float64) / data.shape[0]
    if not bool(mean.isfinite().all()):
        raise ValueError("data must be finite, got NaN or infinity; clean it first.")
    return mean


def variance_of(data: Tensor, mean: Tensor) -> Tensor:
    """Return the variance [*event] of data [N, *event] around their mean, in float64; exactly 0 where constant."""
    total = torch.zeros_like(mean)
    for rows in torch.split(data.detach(), _ROWS):
        total += (rows.double() - mean).square().sum(0)
    variance = total / data.shape[0]
    return torch.where(_varies(data, mean, variance), variance, 0.0)


def covariance_of(data: Tensor, mean: Tensor) -> Tensor:
    """Return the covariance [d, d] of data [N, d] around their mean, in float64; exactly 0 where one is constant."""
    total = mean.new_zeros(len(mean), len(mean))
    for rows in torch.split(data.detach(), _ROWS):
        centred = rows.double() - mean
        total += centred.T @ centred
    covariance = total / data.shape[0]
    varies = _varies(data, mean, covariance.diagonal()).double()
    return covariance * varies[:, None] * varies


def _varies(data: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return which entries of an event vary by more than rounding leaves of a constant in the dtype of the data."""
    dtype = data.dtype if data.is_floating_point() else torch.float64
    return (data != data[0]).any(0) & (variance > (2.0 * torch.finfo(dtype).eps * mean).square())
