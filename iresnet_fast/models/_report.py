"""A log-density with what is known of its error: from several probes for each sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from .. import _checks
from .._torch_private import is_mapped
from ..estimators import PowerSeries, RussianRoulette
from ..nn import InvertibleResidualBlock
from ..nn._fsdp import is_sharded_class
from ..nn._survey import Survey
from ._spread import FEWEST


@dataclass(frozen=True)
class LogProbReport:
    """What `log_prob(x, report=True)` returns: all [B], in nats, without gradient.

    Attributes:
        log_prob: the log-density, the mean of the estimates.
        standard_error: of that mean, from the spread of the estimates; 0 where log-determinants are exact, NaN of a
            single estimate.
        truncation_bound: how far log_prob is at most, but for rounding, from that of infinite series with the same
            probes: usually far below `IResNetFlow.truncation_bound`, since it is made of the last terms themselves. 0
            where log-determinants are exact, infinite if a block does not know its Lipschitz constant.
        n_terms: int64, the most terms that the series of a block took; 0: no series.
        n_probes: int64, how many estimates the mean is of, each with the probes of the blocks' estimators; 1 where
            log-determinants are exact.
    """

    log_prob: Tensor
    standard_error: Tensor
    truncation_bound: Tensor
    n_terms: Tensor
    n_probes: Tensor

    def __str__(self) -> str:
        """Return the ranges of the numbers in two lines."""
        n = self.log_prob.shape[0]
        if n == 0:
            return "log_prob of no samples"
        samples = "1 sample" if n == 1 else f"{n} samples"
        first = f"log_prob {_range(self.log_prob, '.2f')} nats ({samples})"
        if int(self.n_terms.max()) == 0:
            return f"{first}\nlog-determinants: exact"
        return (
            f"{first}, standard error {_range(self.standard_error, '.2g')} of {_range(self.n_probes, '.0f')} probes\n"
            f"log-determinants: {_range(self.n_terms, '.0f')} terms, what they leave out is at most "
            f"{float(self.truncation_bound.max()):.1e} nats"
        )


def _range(values: Tensor, digits: str) -> str:
    """Return what numbers [n], one at least, lie between, or the one they all are; `digits` is that of a format."""
    low, high = (format(float(value), digits) for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def check_request(report: bool, probes: int | None, tol: float | None, max_probes: int) -> None:
    """Raise unless these arguments of `log_prob` make sense."""
    _checks.check_flag("report", report)
    if probes is not None:
        _checks.check_count("probes", probes, 1)
        if tol is not None:
            raise ValueError(f"probes must be None where tol says how many are enough, got {probes}; pass one of them.")
        if report and probes == 1:
            raise ValueError("probes must be at least 2 for a report, got 1; one estimate has no spread, pass e.g. 8.")
    if tol is not None:
        _checks.check_number("tol", tol, "0.1")
        if not tol > 0.0:
            raise ValueError(f"tol must be positive, a standard error in nats, got {tol}; pass e.g. 0.1.")
        _checks.check_count("max_probes", max_probes, FEWEST)


def check_measurable(model: nn.Module) -> None:
    """Raise ValueError unless estimates are functions of a sample and can be told apart.

    They are no such functions in training mode, and inside vmap a call sees one member of the batch.
    """
    if is_mapped():
        raise ValueError(
            "several estimates must be asked for outside torch.func.vmap, got a call inside it; pass the whole batch, "
            "whose samples are estimated one by one anyway."
        )
    for name, module in model.named_modules():
        if module.training:
            part = f"its part {name}" if name else "the whole"
            raise ValueError(
                f"the model must be in eval mode to count probes, got {part} in training mode, where each call draws "
                f"others; call eval() first."
            )


def check_alike(model: nn.Module, name: str) -> None:
    """Raise ValueError if the model is shared out: processes must make the same calls of it, and `name` forbids that.

    Each process has samples of its own, and so a number of probes of its own.
    """
    for part, module in model.named_modules():
        if is_sharded_class(type(module)):
            raise ValueError(
                f"{name} must not be given for a model shared out by fully_shard, whose processes have to make the "
                f"same calls, got {part or 'the whole'} sharded; pass a number of probes."
            )


def series_blocks(model: nn.Module) -> Iterator[tuple[str, InvertibleResidualBlock]]:
    """Yield the names and the blocks whose log-determinants are estimated in their mode."""
    for name, module in model.named_modules():
        if isinstance(module, InvertibleResidualBlock) and isinstance(module.estimator, (PowerSeries, RussianRoulette)):
            yield name, module


def check_complete(model: nn.Module, survey: Survey) -> None:
    """Raise ValueError if a block with a series has not heard of the survey: its noise would be missing from errors."""
    heard = {id(block) for block in survey.blocks}
    for name, block in series_blocks(model):
        if id(block) not in heard:
            raise ValueError(
                f"{name} must be handed the call of its container for its probes to be counted, got none; let forward "
                f"of the transforms around it take a call, and pass call.part(i) on."
            )
