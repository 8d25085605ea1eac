"""The conditional distributions of a normal one, for rows that have other entries missing each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Degrees of freedom of what is proposed: tails heavier than those of the density, so that no region of it is proposed
# too rarely, yet with a finite variance.
_DEGREES = 5


@dataclass(frozen=True)
class Conditional:
    """Where the missing entries of each row are, given the observed ones; all on the CPU.

    Attributes:
        mean: [R, d] float64, of the missing entries; elsewhere what was observed.
        factor: [R, d, d] float64, lower triangular, of the covariance of the missing entries; zero elsewhere.
        missing: [R, d] bool.
    """

    mean: Tensor
    factor: Tensor
    missing: Tensor

    def steps(self, n_chains: int, generator: torch.Generator) -> Tensor:
        """Return normal numbers [n_chains, R, d] of this covariance; zero at observed entries."""
        noise = torch.randn(n_chains, *self.mean.shape, dtype=torch.float64, generator=generator)
        return (self.factor @ noise[..., None])[..., 0]

    def draw(self, n_chains: int, generator: torch.Generator) -> Tensor:
        """Return draws [n_chains, R, d] of the t-distribution of this mean and factor."""
        shape = (n_chains, len(self.mean), _DEGREES)
        squares = torch.randn(shape, dtype=torch.float64, generator=generator).square().sum(2)
        return self.mean + self.steps(n_chains, generator) * (_DEGREES / squares)[..., None].sqrt()

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log-density of `draw` at x [n_chains, R, d], [n_chains, R], but for a constant of each row."""
        # Ones on the diagonal of observed entries, whose differences are left out, make the factor invertible.
        factor = self.factor + torch.diag_embed((~self.missing).double())
        away = torch.where(self.missing, x - self.mean, 0.0)[..., None]
        z = torch.linalg.solve_triangular(factor, away, upper=False)[..., 0]
        return -0.5 * (_DEGREES + self.missing.sum(1)) * torch.log1p(z.square().sum(2) / _DEGREES)


def conditional(rows: Tensor, missing: Tensor, samples: Tensor, given: Tensor, sampled_given: Tensor) -> Conditional:
    """Return the conditional of the normal distribution that has the mean and covariance of samples.

    Args:
        rows: [R, d] float64; the missing entries are not looked at.
        missing: [R, d] bool.
        samples: [n, d] float64, n > 1.
        given: [R, c] float64, what else is known of each row; c may be 0.
        sampled_given: [n, c] float64, of each sample.
    """
    width = rows.shape[1]
    joint = torch.cat((samples, sampled_given), 1)
    mean, scale = joint.mean(0), joint.std(0)
    scale = torch.where(scale > 0.0, scale, 1.0)
    standard = (joint - mean) / scale
    correlation = standard.T @ standard / (len(joint) - 1)
    # Entries that depend on each other to rounding, or do not vary, would leave it without an inverse.
    correlation += 1e-6 * torch.eye(len(correlation), dtype=torch.float64)
    known = (torch.cat((rows, given), 1) - mean) / scale
    means, factors = rows.clone(), torch.zeros(len(rows), width, width, dtype=torch.float64)
    patterns, pattern_of = torch.unique(missing, dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        members = (pattern_of == number).nonzero()[:, 0]
        gone = pattern.nonzero()[:, 0]
        there = torch.ones(joint.shape[1], dtype=torch.bool)
        there[gone] = False
        kept = there.nonzero()[:, 0]
        cross = correlation[gone][:, kept]
        weights = torch.linalg.solve(correlation[kept][:, kept], cross.T)
        spread = correlation[gone][:, gone] - cross @ weights
        factor = torch.linalg.cholesky(0.5 * (spread + spread.T)) * scale[gone][:, None]
        means[members[:, None], gone] = mean[gone] + scale[gone] * (known[members][:, kept] @ weights)
        factors[members[:, None, None], gone[:, None], gone] = factor
    return Conditional(means, factors, missing)
