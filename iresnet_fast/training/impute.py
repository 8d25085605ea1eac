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
from ._chains import CHAINS as CHAINS
from ._chains import Chains
from ._gaussian import conditional
from .evaluate import check_context, check_estimators
from .progress import OnProgress, working
from .samples import samples_at

STEPS = 400
_FEWEST = 8  # of which the kept ones have halves with a variance
_FITTED = 4096  # samples of the flow that proposals are fitted to
_ROWS = 1024  # at a time, fewer of wide tables
_ENTRIES = 1 << 24  # of their covariances
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
    widths = sum((layer.step.double().cpu() for layer in _noisy_layers(model)), torch.zeros(x.shape[1]).double())
    size = max(1, min(_ROWS, _ENTRIES // x.shape[1] ** 2))
    with evaluating(model), _without_noise(model), working(show_progress) as on_progress:
        contexts = None if context is None else context.detach().cpu()
        samples = samples_at(model, _FITTED, contexts, seed=seed).cpu().double()
        given = torch.zeros(len(x), 0).double() if contexts is None else contexts.double()
        sampled_given = given[torch.arange(_FITTED) % len(given)]
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            normal = conditional(x.cpu()[part].double(), missing[part], samples, given[part], sampled_given)
            chains = Chains(model, normal, widths, None if contexts is None else contexts[part], generator)
            drawn = chains.run(draws, steps, _portion(on_progress, start, len(part), len(rows)))
            filled = _on_the_grid(drawn, widths).to(found.x.dtype)
            found.x[:, part] = torch.where(missing[part], filled, found.x[:, part])
            found.acceptance[part] = chains.acceptance
            found.r_hat[part] = torch.where(missing[part], chains.r_hat, math.nan)
    return found


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
