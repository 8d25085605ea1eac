"""Samples through a model in batches: once, and again with other probes for as long as somebody wants more."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..models import IResNetFlow
from ..models._report import check_complete
from ..models._spread import FEWEST, Spread, largest_factor
from ..nn import Call
from ..nn._survey import Survey
from .batches import Batch
from .progress import OnProgress
from .tasks import Task, flow_of

# Of each sample. A standard error that so many do not reach is better asked of an exact log-determinant: a tenth of it
# takes a hundred times as many.
_MOST_PROBES = 4096


class Passes:
    """The metrics of all samples; those of a density are means over so many estimates as there are so far.

    Args:
        model: an IResNetFlow, HybridIResNet or IResNetClassifier, in eval mode.
        task: of the model.
        data: the samples.
        batch_size: samples at a time.
        seed: of the noise and of torch's generator, which begins with it in every pass.
        on_batch: told how it goes on.
    """

    def __init__(
        self, model: nn.Module, task: Task, data: Batch, batch_size: int, seed: int, on_batch: OnProgress
    ) -> None:
        """Begin without a pass; the arguments are those of the class."""
        self._model, self._task, self._data, self._size, self._seed = model, task, data, batch_size, seed
        self._device = next(model.parameters()).device
        self._on_batch = on_batch
        self.n, self.n_probes = len(data.x), 0
        self._found: dict[str, Tensor] = {}
        self._first = torch.zeros(self.n, dtype=torch.float64)  # of the estimates, which the density found contains
        self._spread: Spread | None = None

    def run(self, count: int, surveys: bool) -> None:
        """Add so many estimates of each log-determinant; unless `surveys`, one whose error nobody asks for."""
        torch.manual_seed(self._seed)
        words = f"{self.n_probes + count} probes" if surveys else f"{self.n} samples"
        batches: list[dict[str, Tensor]] = []
        values: list[Tensor] = []
        for start in range(0, self.n, self._size):
            survey = Survey(self.n_probes, count) if surveys else None
            batches.append(self._values(slice(start, start + self._size), survey))
            if survey is not None and survey.found is not None:
                values.append(survey.found.values.cpu())
            self._on_batch(min((start + self._size) / self.n, 1.0), words)
        if not self._found:
            self._found = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        self.n_probes += count
        if values:
            estimates = torch.cat(values, 1)
            if self._spread is None:
                self._spread, self._first = Spread(self.n, estimates.device), estimates[0]
            self._spread.add(slice(None), estimates)

    def until(self, standard_error: float) -> str | None:
        """Add estimates until `probe_error` is at most that with probability 0.95, given their spread.

        So many of each sample that `models._spread.FEWEST` are there of all together. After `_MOST_PROBES` they end,
        and a sentence is returned.
        """
        self.run(max(2, 1 + math.ceil((FEWEST - 1) / self.n)), True)
        while self._spread is not None:
            variance = self._spread.variance
            # Variances that differ count for fewer, as Satterthwaite has it.
            squares = variance.square().sum()
            degrees = torch.where(squares > 0.0, (self.n_probes - 1) * variance.sum().square() / squares, 1.0)
            limit = self.probe_error * float(largest_factor(degrees.clamp(min=1.0)))
            if not limit > standard_error:
                break
            if self.n_probes >= _MOST_PROBES:
                return (
                    f"standard_error, {standard_error:g}, was not reached with {self.n_probes} probes each: it may be "
                    f"{limit:.2g} with probability 0.95; ask for a larger one, or build the model with Exact()."
                )
            # Twice as many at most, since a limit from few estimates is a generous one.
            ratio = min(limit / standard_error, math.sqrt(2.0))
            wanted = min(max(self.n_probes + 1, math.ceil(self.n_probes * ratio**2)), _MOST_PROBES)
            self.run(wanted - self.n_probes, True)
        return None

    @property
    def metrics(self) -> dict[str, Tensor]:
        """Metrics of the samples, [N] float64 each."""
        if self._spread is None:
            return self._found
        name = next(iter(self._found))
        return {**self._found, name: self._found[name] + (self._first - self._spread.mean) / self._unit}

    @property
    def probe_error(self) -> float:
        """Standard error of the mean density that is due to the probes, in its unit: of one estimate NaN."""
        if self._spread is None:
            return 0.0
        return float((self._spread.variance / self._spread.count).sum().sqrt()) / self.n / self._unit

    @property
    def _unit(self) -> float:
        """Of the density, in nats."""
        flow = flow_of(self._model)
        assert flow is not None  # there are no probes without one
        return 1.0 if "nats" in self._task.metrics else math.log(2.0) * flow.config.n_dims

    def _values(self, part: slice, survey: Survey | None) -> dict[str, Tensor]:
        """Return the metrics of each sample of a batch, [B] float64 each."""
        batch = self._data.part(part).to(self._device)
        model, task, labels = self._model, self._task, batch.labels
        inputs, context, flow = task.inputs(batch.x), task.context(batch.context), flow_of(model)
        call = Call.of(inputs, self._seed)
        call = call if survey is None else call.surveyed(survey)
        if flow is model:
            found = self._density(flow, flow.log_prob(inputs, context, call))
        elif labels is None:
            raise ValueError(f"labels must be given for a {type(model).__name__}, got None; pass those of the samples.")
        elif flow is None:
            found = {"error_percent": _errors(model(inputs), labels)}
        else:
            logits, log_prob = model(inputs, context, call)
            found = {**self._density(flow, log_prob), "error_percent": _errors(logits, labels)}
        if survey is not None:
            check_complete(model, survey)
        return {name: value.double().cpu() for name, value in found.items()}

    def _density(self, flow: IResNetFlow, log_prob: Tensor) -> dict[str, Tensor]:
        return {self._task.metrics[0]: -log_prob.double() / self._unit}


def _errors(logits: Tensor, labels: Tensor) -> Tensor:
    # A NaN among the logits is no decision: it must not pass for class 0.
    wrong = 100.0 * (logits.argmax(1) != labels)
    return torch.where(logits.isfinite().all(1), wrong, math.nan)
