"""Missing entries of rows, drawn from the conditional distribution of a flow given the observed ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _checks
from .._inputs import check_floating, check_shape, described
from ..models import IResNetFlow
from ..models._modes import evaluating
from ..nn import DequantizeSteps
from ._gaussian import Conditional, conditional
from .evaluate import check_context, check_estimators
from .progress import OnProgress, working
from .samples import samples_at

CHAINS = 4  # of each row
STEPS = 600
_FEWEST = 8  # of which the kept ones have halves with a variance
_FITTED = 4096  # samples of the flow that proposals are fitted to
_CANDIDATES = 32  # of which a chain begins at one
_WANTED = 0.3  # share of random steps to accept
_ROWS = 1024  # at a time, fewer of wide tables
_ENTRIES = 1 << 24  # of their covariances
_BATCH = 4096  # of the flow
LARGEST_R_HAT = 1.1  # of chains that are said to agree


@dataclass(frozen=True)
class Imputed:
    """What `impute` returns, on the CPU.

    Attributes:
        x: [draws, N, d], the rows with their missing entries drawn; what was observed is as it was, to the bit.
        missing: [N, d] bool, which entries were missing.
        acceptance: [N] float64, the share of proposals that were accepted after the first half of the steps; NaN for
            rows without a missing entry.
        r_hat: [N, d] float64, the split R-hat of every missing entry (Gelman et al., Bayesian Data Analysis, 3rd
            edition, 11.4): how much wider the chains of a row lie together than each half of one alone, 1 if they
            agree; NaN where nothing was missing, infinite where no chain moved.
    """

    x: Tensor
    missing: Tensor
    acceptance: Tensor
    r_hat: Tensor

    @property
    def n_doubtful(self) -> int:
        """Number of missing entries whose chains do not agree: with an R-hat above 1.1."""
        return int((self.r_hat > LARGEST_R_HAT).sum())

    @property
    def converged(self) -> bool:
        """Whether the chains of all but a hundredth of the missing entries agree: so many may not by chance."""
        return self.n_doubtful <= 0.01 * int(self.missing.sum())


@torch.no_grad()
def impute(
    model: IResNetFlow,
    x: Tensor,
    context: Tensor | None = None,
    draws: int = 1,
    steps: int = STEPS,
    seed: int = 0,
    show_progress: bool = False,
) -> Imputed:
    """Draw missing entries by Metropolis-Hastings sampling of the density of a flow; torch's generator is not touched.

    Four chains for each row go through the values of its missing entries; the density at the row that is filled so,
    which is in proportion to their conditional one, decides on every proposal. Half of the proposals are independent
    draws of the conditional t-distribution around a normal one, which is fitted to samples of the flow; the others are
    random steps of its conditional covariance, whose size is adapted in the first half of the steps, which is not
    used. Chains begin at one of 32 independent draws, by their importance weights. Draws are values at even distances
    in time, of the four chains in turn. That is exact in the limit of many steps: `r_hat` tells what was reached.

    The density is that of eval mode. Where its log-determinants are estimates, it is the one that the fixed probes of
    each point give. Whole numbers that the model makes continuous by noise stay so in the chains, those that were
    observed within the width of their noise, and missing ones are rounded at the end.

    Args:
        model: a flow of vectors.
        x: [N, d], of floating point; NaN where an entry is missing.
        context: [N, context_features] if the model takes one.
        draws: how many completed copies of the rows to return.
        steps: of each chain, the first half included, which is not used.
        seed: of the draws.
        show_progress: a progress bar on a terminal.

    Raises:
        ValueError: the model has no density of vectors of continuous numbers, an entry is infinite, the context does
            not fit or is missing, there are more draws than kept steps of the chains, or steps is below 8.
        TypeError: an argument is of another kind.
    """
    _check(model, x, context, draws, steps, seed)
    missing = x.isnan().cpu()
    rows = missing.any(1).nonzero()[:, 0]
    found = Imputed(
        x.detach().cpu()[None].repeat(draws, 1, 1),
        missing,
        torch.full((len(x),), math.nan, dtype=torch.float64),
        torch.full(x.shape, math.nan, dtype=torch.float64),
    )
    if len(rows) == 0:
        return found
    generator = torch.Generator().manual_seed(seed)
    size = max(1, min(_ROWS, _ENTRIES // x.shape[1] ** 2))
    with evaluating(model), _without_noise(model), working(show_progress) as on_progress:
        contexts = None if context is None else context.detach().cpu()
        samples = samples_at(model, _FITTED, contexts, seed=seed).cpu().double()
        given = torch.zeros(len(x), 0).double() if contexts is None else contexts.double()
        sampled_given = given[torch.arange(_FITTED) % len(given)]
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            normal = conditional(x.cpu()[part].double(), missing[part], samples, given[part], sampled_given)
            chains = _Chains(model, normal, None if contexts is None else contexts[part], generator)
            drawn = chains.run(draws, steps, _portion(on_progress, start, len(part), len(rows)))
            filled = _on_the_grid(drawn, chains.widths).to(found.x.dtype)
            found.x[:, part] = torch.where(missing[part], filled, found.x[:, part])
            found.acceptance[part] = chains.acceptance
            found.r_hat[part] = torch.where(missing[part], chains.r_hat, math.nan)
    return found


class _Chains:
    """Chains of some rows.

    Args:
        model: in eval mode, without noise.
        normal: what is proposed.
        context: of the rows.
        generator: of all that is random.

    Attributes:
        widths: [d] float64, of the noise of each entry; 0 for continuous ones.
        acceptance: [R], after `run`.
        r_hat: [R, d], after `run`.
    """

    def __init__(
        self, model: IResNetFlow, normal: Conditional, context: Tensor | None, generator: torch.Generator
    ) -> None:
        """Begin at one of several draws; the arguments are those of the class."""
        self._model, self._normal, self._generator = model, normal, generator
        like = next(model.parameters())
        self._dtype, self._device = like.dtype, like.device
        self._context = None if context is None else context.to(like).repeat(CHAINS, 1)
        self.widths = torch.zeros(normal.mean.shape[1], dtype=torch.float64)
        for layer in _noisy_layers(model):
            self.widths += layer.step.double().cpu()
        self._noisy = (self.widths > 0.0) & ~normal.missing
        self.acceptance = torch.zeros(0)
        self.r_hat = torch.zeros(0)
        self._at, self._density = self._first()

    def run(self, draws: int, steps: int, on_progress: OnProgress) -> Tensor:
        """Return the draws [draws, R, d]."""
        kept = steps - steps // 2
        size = torch.full((len(self._normal.mean),), math.log(2.38), dtype=torch.float64)
        size -= 0.5 * self._normal.missing.sum(1).double().log()  # what is best for a normal density
        accepted, halves = torch.zeros_like(size), _Halves(self._at, kept)
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
        noisy = self._normal.mean + self.widths * (self._uniform(at.shape) - 0.5)
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


class _Halves:
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


@contextmanager
def _without_noise(model: IResNetFlow) -> Iterator[None]:
    """Let the model take whole numbers that have their noise already."""
    layers = _noisy_layers(model)
    modes = [layer.eval_noise for layer in layers]
    try:
        for layer in layers:
            layer.eval_noise = "half"
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.eval_noise = mode


def _noisy_layers(model: IResNetFlow) -> list[DequantizeSteps]:
    return [layer for layer in model.preprocessing if isinstance(layer, DequantizeSteps)]


def _on_the_grid(x: Tensor, widths: Tensor) -> Tensor:
    return torch.where(widths > 0.0, (x / widths.clamp(min=1e-300)).round() * widths, x)


def _portion(on_progress: OnProgress, start: int, size: int, n: int) -> OnProgress:
    return lambda done, words: on_progress((start + size * done) / n, f"{n} rows with missing cells")


def _check(model: IResNetFlow, x: Tensor, context: Tensor | None, draws: int, steps: int, seed: int) -> None:
    if not isinstance(model, IResNetFlow):
        raise TypeError(f"model must be an IResNetFlow, got {described(model)}; pass a flow of vectors.")
    config = model.config
    if len(config.event_shape) != 1 or config.n_levels is not None or config.noise_channels:
        raise ValueError(
            f"model must be a flow of vectors without n_levels and noise_channels, got event_shape = "
            f"{config.event_shape}, n_levels = {config.n_levels} and noise_channels = {config.noise_channels}; train "
            f"one on a table."
        )
    if config.preprocess == "logit":
        raise ValueError("preprocess of the model must not be 'logit', which has no density outside [0, 1]; train one.")
    check_floating(x)
    check_shape(x, config.event_shape, owner="model")
    if bool(x.isinf().any()):
        raise ValueError(f"x must be finite or NaN, got {int(x.isinf().sum())} infinite entries; replace them.")
    check_context(context, len(x), config.context_features)
    check_estimators(model)
    check_lengths("draws", draws, "steps", steps)
    _checks.check_seed("seed", seed)


def check_lengths(name: str, draws: int, name_of_steps: str, steps: int) -> None:
    """Raise unless chains of so many steps have so many draws; the names are those that the caller has for them."""
    _checks.check_count(name_of_steps, steps, _FEWEST)
    _checks.check_count(name, draws, 1)
    most = CHAINS * (steps - steps // 2)
    if draws > most:
        raise ValueError(
            f"{name} must be at most {most}, the steps that the chains keep, got {draws}; lower it or raise "
            f"{name_of_steps}."
        )
