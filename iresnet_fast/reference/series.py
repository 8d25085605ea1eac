"""The power series of log|det(I + J)|: its signs, its weights and the bound on its tail."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class LogdetInfo(NamedTuple):
    """What a log-determinant did, per probe and sample.

    Attributes:
        norms: [m, B], |w_k| of the last term used.
        terms: [m, B] int64, the number of terms used.
        tail_bound: [m, B], bound on the terms left out (of the series with coefficients 1); None without `lipschitz`.
    """

    norms: Tensor
    terms: Tensor
    tail_bound: Tensor | None


def signed_coefficients(coefficients: Tensor) -> Tensor:
    """Return (-1)^k q_{k+1}, k = 0 .. n-1: [n] as [n, 1], [B, n] as [n, B]."""
    n = coefficients.shape[-1]
    signs = 1.0 - 2.0 * (torch.arange(n, device=coefficients.device) % 2).to(coefficients.dtype)
    signed = coefficients * signs
    return signed.unsqueeze(1) if signed.dim() == 1 else signed.t()


def over_events(c: Tensor, x: Tensor) -> Tensor:
    """Reshape per-sample numbers [..., B or 1] so that they multiply x [..., B, *event] of as many event dimensions."""
    return c.reshape(*c.shape, *([1] * (x.dim() - 1)))


def sample_dot(a: Tensor, b: Tensor, event_ndim: int) -> Tensor:
    """Return the inner product over the last `event_ndim` dimensions."""
    return (a * b).flatten(-event_ndim).sum(-1)


def sample_norm(a: Tensor, event_ndim: int) -> Tensor:
    """Return the Euclidean norm over the last `event_ndim` dimensions."""
    norm: Tensor = torch.linalg.vector_norm(a, dim=tuple(range(-event_ndim, 0)))
    return norm


@lru_cache(maxsize=64)
def tail_factors(lipschitz: float, n_terms: int) -> tuple[float, ...]:
    """Return T_k = sum_{j>=1} L^j / (k+j) for k = 1 .. n: the terms after the k-th are at most |v| |w_k| T_k.

    By the recurrence T_k = L / (k+1) + L T_{k+1}, downwards and so stable, from the upper bound L / ((K+1)(1-L)) far
    out: the result is an upper bound too, and right to rounding unless 1 - L is below about 0.01.
    """
    if lipschitz == 0.0:
        return (0.0,) * n_terms
    start = n_terms + min(4000, math.ceil(math.log(1e-18) / math.log(lipschitz)))
    tail = lipschitz / ((start + 1) * (1.0 - lipschitz))
    factors = []
    for k in range(start - 1, 0, -1):
        tail = lipschitz / (k + 1) + lipschitz * tail
        if k <= n_terms:
            factors.append(tail)
    return tuple(reversed(factors))
