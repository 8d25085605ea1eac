"""Metropolis-Hastings chains through the missing entries of rows, and whether they agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..models import IResNetFlow
from ._gaussian import Conditional
from .progress import OnProgress

CHAINS = 4  # of each row
_CANDIDATES = 32  # of which a chain begins at one
_WANTED = 0.3  # share of random steps to accept
_BATCH = 4096  # of the flow


class Chains:
    """Chains of some rows.

    Args:
        model: in eval mode, without noise.
        normal: what is proposed.
        widths: [d] float64, of the noise of each entry; 0 for continuous ones.
        context: of the rows.
        generator: of all that is random.

    Attributes:
        acceptance: [R], after `run`.
        r_hat: [R, d], after `run`.
    """

    def __init__(
        self,
        model: IResNetFlow,
        normal: Conditional,
        widths: Tensor,
        context: Tensor | None,
        generator: torch.Generator,
    ) -> None:
        """Begin at one of several draws; the arguments are those of the class."""
        self._model, self._normal, self._generator = model, normal, generator
        like = next(model.parameters())
        self._dtype, self._device = like.dtype, like.device
        self._context = None if context is None else context.to(like).repeat(CHAINS, 1)
        self._widths = widths
        self._noisy = (widths > 0.0) & ~normal.missing
        self.acceptance = torch.zeros(0)
        self.r_hat = torch.zeros(0)
        self._at, self._density = self._first()

    def run(self, draws: int, steps: int, on_progress: OnProgress) -> Tensor:
        """Return the draws [draws, R, d]."""
        kept = steps - steps // 2
        size = torch.full((len(self._normal.mean),), math.log(2.38), dtype=torch.float64)
        size -= 0.5 * self._normal.missing.sum(1).double().log()  # what is best for a normal density
        accepted, halves = torch.zeros_like(size), Halves(self._at, kept)
        wanted = {
            (draw % CHAINS, kept - 1 - draw // CHAINS * (kept // -(-draws // CHAINS))): draw for draw in range(draws)
        }
        result = torch.empty(draws, *self._normal.mean.shape, dtype=torch.float64)
        for step in range(steps):
            stepped, moved = self._move(size)
            if bool(self._noisy.any()):
                self._shake()
            if step < steps - kept:
                share = (moved & stepped).sum(0) / stepped.sum(0).clamp(min=1)
                gain = torch.where(stepped.any(0), 2.0 / math.sqrt(step + 1.0), 0.0)
                size += gain * (share - _WANTED)
            else:
                number = step - (steps - kept)
                accepted += moved.double().mean(0) / kept
                halves.add(self._at, number)
                for chain in range(CHAINS):
                    if (chain, number) in wanted:
                        result[wanted[chain, number]] = self._at[chain]
            on_progress((step + 1) / steps, "")
        self.acceptance, self.r_hat = accepted, halves.r_hat()
        return result

    def _first(self) -> tuple[Tensor, Tensor]:
        """Return a state [CHAINS, R, d] and its log-density: of candidates, each by its weight in proportion."""
        best = torch.full((CHAINS, len(self._normal.mean)), -math.inf, dtype=torch.float64)
        at, density = self._normal.mean.repeat(CHAINS, 1, 1), best.clone()
        for _ in range(_CANDIDATES):
            candidate = self._noise(self._normal.draw(CHAINS, self._generator))
            found = self._log_prob(candidate)
            # The largest sum of a logarithmic weight and a number of Gumbel's distribution is that of a fair draw.
            weight = found - self._normal.log_density(candidate) - (-self._uniform(best.shape).log()).log()
            better = weight > best
            best, density = torch.where(better, weight, best), torch.where(better, found, density)
            at = torch.where(better[..., None], candidate, at)
        return at, density

    def _move(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """Move the missing entries; return where [CHAINS, R] steps were proposed, and what was accepted."""
        normal = self._normal
        independent = normal.draw(CHAINS, self._generator)
        step = self._at + size.exp()[:, None] * normal.steps(CHAINS, self._generator)
        stepped = self._uniform(self._density.shape) < 0.5
        proposed = torch.where(stepped[..., None], step, independent)
        proposed = torch.where(normal.missing, proposed, self._at)
        correction = normal.log_density(self._at) - normal.log_density(proposed)
        return stepped, self._accept(proposed, torch.where(stepped, 0.0, correction))

    def _shake(self) -> None:
        """Draw half of the noise of observed whole numbers anew."""
        other = self._uniform(self._at.shape) < 0.5
        self._accept(torch.where(other, self._noise(self._at), self._at), torch.zeros_like(self._density))

    def _accept(self, proposed: Tensor, correction: Tensor) -> Tensor:
        density = self._log_prob(proposed)
        # From where the density is zero, to rounding, every other place is better.
        gain = torch.where(self._density == -math.inf, math.inf, density - self._density + correction)
        moved = (self._uniform(gain.shape).log() < gain) & (density > -math.inf)
        self._at = torch.where(moved[..., None], proposed, self._at)
        self._density = torch.where(moved, density, self._density)
        return moved

    def _noise(self, at: Tensor) -> Tensor:
        """Return a state with fresh noise around the whole numbers that were observed."""
        noisy = self._normal.mean + self._widths * (self._uniform(at.shape) - 0.5)
        return torch.where(self._noisy, noisy, at)

    def _log_prob(self, at: Tensor) -> Tensor:
        """Return the log-density [CHAINS, R] at a state, -inf where it is no number."""
        flat = at.flatten(0, 1).to(self._dtype)
        parts = []
        for start in range(0, len(flat), _BATCH):
            part = slice(start, start + _BATCH)
            context = None if self._context is None else self._context[part]
            parts.append(self._model.log_prob(flat[part].to(self._device), context).double().cpu())
        found = torch.cat(parts).view(at.shape[:2])
        return torch.where(found.isnan() | (found == math.inf), -math.inf, found)

    def _uniform(self, shape: torch.Size) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, generator=self._generator)


class Halves:
    """Means and variances of the two halves of every chain, as its values come.

    Args:
        at: [CHAINS, R, d], the first values.
        n: how many there will be; an odd last one is left out.
    """

    def __init__(self, at: Tensor, n: int) -> None:
        """Begin without a value; the arguments are those of the class."""
        self._origin, self._n = at.mean(0), n // 2  # near the values, so that their squares keep their digits
        self._sums = torch.zeros(2, 2, *at.shape, dtype=torch.float64)

    def add(self, at: Tensor, number: int) -> None:
        """Add the values of a step."""
        if number < 2 * self._n:
            away = at - self._origin
            self._sums[number // self._n] += torch.stack((away, away.square()))

    def r_hat(self) -> Tensor:
        """Return the split R-hat [R, d]."""
        mean, square = (self._sums / self._n).unbind(1)
        within = (square - mean.square()).clamp(min=0.0).flatten(0, 1).mean(0) * self._n / (self._n - 1)
        between = mean.flatten(0, 1).var(0)
        found = ((self._n - 1) / self._n + between / within).sqrt()
        return torch.where(within > 0.0, found, math.inf)
