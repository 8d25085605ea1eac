"""Means of independent estimates, and how sure they are."""

from __future__ import annotations

import torch
from torch import Tensor

# Estimates that a decision to stop is made of. Of fewer, all may be equal by chance where each takes one of two values,
# as that of a block of two dimensions does: of eight with probability 2^-7.
FEWEST = 8

_NORMAL_95 = 1.6448536269514722  # what a standard normal number is below with probability 0.95


class Spread:
    """Means of the estimates of n samples, and their spread, all in float64; estimates are added as they come.

    Args:
        n: number of samples.
        device: of the estimates.

    Attributes:
        count: [n] float64, how many estimates there are of each sample.
        mean: [n], of them.
    """

    def __init__(self, n: int, device: torch.device) -> None:
        """Begin without an estimate; the arguments are those of the class."""
        self.count = torch.zeros(n, dtype=torch.float64, device=device)
        self.mean = torch.zeros_like(self.count)
        self._squares = torch.zeros_like(self.count)  # sum of squared distances from the mean

    def add(self, rows: slice | Tensor, values: Tensor) -> None:
        """Add m estimates [m, b] of the samples at `rows`: as their places [b], or a slice."""
        m, center = values.shape[0], values.mean(0)
        squares = (values - center).square().sum(0)
        count, step = self.count[rows], center - self.mean[rows]
        total = count + m
        self._squares[rows] += squares + step.square() * count * m / total
        self.mean[rows] += step * m / total
        self.count[rows] = total

    @property
    def variance(self) -> Tensor:
        """The variance of one estimate, [n]: NaN where there is one alone."""
        return self._squares / (self.count - 1.0)

    @property
    def standard_error(self) -> Tensor:
        """Of the mean, [n]."""
        return (self.variance / self.count).sqrt()


def largest_factor(degrees: Tensor) -> Tensor:
    """Return by how much the true standard deviation exceeds a measured one at most, with probability 0.95.

    That is sqrt(k / q), q the 0.05 quantile of chi squared with k degrees of freedom, by Wilson and Hilferty (doi
    10.1073/pnas.17.12.684): 4 % above the true factor for k = 3, 0.4 % for 7. Estimates are sums over blocks, taken for
    normal.

    Args:
        degrees: k, at least 1.
    """
    share = 2.0 / (9.0 * degrees)
    return (1.0 - share - _NORMAL_95 * share.sqrt()).pow(-1.5)
