"""What a model says of each row: its log-density, how exact that is, and the class of one that classifies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import _checks
from .._inputs import check_shape
from ..models import IResNetFlow
from ..models._modes import evaluating
from ..models._report import series_blocks
from ..nn import Call
from .batches import Batch
from .evaluate import check_context, check_estimators, check_probes
from .progress import working
from .tasks import flow_of, task_of

_STANDARD_ERROR = 0.01  # nats, of each row
_MOST_PROBES = 4096  # of each row


@dataclass(frozen=True)
class RowScores:
    """What `row_scores` returns: [N] each, in the order of the rows, on the CPU.

    Attributes:
        log_prob: float64, in nats; None of a classifier.
        standard_error: float64, of log_prob for its probes; None if log_prob is exact, or one estimate.
        classes: int64, the most probable class of each row; None of a flow.
        probabilities: float64, of that class.
    """

    log_prob: Tensor | None
    standard_error: Tensor | None = None
    classes: Tensor | None = None
    probabilities: Tensor | None = None


@torch.no_grad()
def row_scores(
    model: nn.Module,
    batch: Batch,
    batch_size: int = 200,
    probes: int | str = 1,
    standard_error: float | None = None,
    show_progress: bool = False,
) -> RowScores:
    """Return the scores of rows, in eval mode and with the eval_estimator; the mode of every module is restored.

    All numbers are functions of each row alone, to rounding: they do not depend on what else is in the batch.

    Args:
        model: an IResNetFlow, HybridIResNet or IResNetClassifier.
        batch: the rows as a data set holds them; labels are not looked at.
        batch_size: rows at a time.
        probes: how many estimates of each log-determinant to average, or "auto": for each row as many as bring its
            standard error down to `standard_error` with probability 0.95, or 4096: a warning then says of how many
            rows it was missed. Without effect where log-determinants are exact.
        standard_error: for "auto", in nats; None: 0.01.
        show_progress: a progress bar on a terminal.

    Raises:
        ValueError: there are no rows or they do not fit, the eval_estimator is no honest one (Exact, or at least ten
            terms), or probes or standard_error is out of range.
        TypeError: the model is of another kind.
    """
    _checks.check_count("batch_size", batch_size, 1)
    task = task_of(model)
    check_shape(batch.x, task.event_shape, owner="model")
    if batch.x.is_meta or len(batch.x) == 0:
        raise ValueError("x must hold at least one row, got none; pass rows of data.")
    check_context(batch.context, len(batch.x), task.context_features)
    check_estimators(model)
    check_probes(model, probes, standard_error)
    device = next(model.parameters()).device
    flow, n = flow_of(model), len(batch.x)
    found: list[tuple[Tensor | None, Tensor | None, Tensor | None]] = []
    with evaluating(model), working(show_progress) as on_batch:
        estimates = any(True for _ in series_blocks(model)) and probes != 1
        for start in range(0, n, batch_size):
            part = batch.part(slice(start, start + batch_size)).to(device)
            inputs, context = task.inputs(part.x), task.context(part.context)
            error: Tensor | None = None
            if flow is model:
                logits, log_prob = None, flow.log_prob(inputs, context) if not estimates else None
            elif flow is None:
                logits, log_prob = model(inputs), None
            else:
                logits, log_prob = model(inputs, context, Call.of(inputs))
            if flow is not None and estimates:
                log_prob, error = _measured(flow, inputs, context, probes, standard_error)
            found.append((logits, log_prob, error))
            on_batch(min((start + batch_size) / n, 1.0), f"{n} rows")
    logits, log_prob, error = (_joined([part[i] for part in found]) for i in range(3))
    if logits is None:
        return RowScores(log_prob, error)
    # A NaN among the logits is no decision: it must not pass for class 0.
    probabilities, classes = torch.softmax(logits, 1).max(1)
    return RowScores(log_prob, error, classes, torch.where(logits.isfinite().all(1), probabilities, math.nan))


def _measured(
    flow: IResNetFlow, inputs: Tensor, context: Tensor | None, probes: int | str, standard_error: float | None
) -> tuple[Tensor, Tensor]:
    if isinstance(probes, int):
        report = flow.log_prob(inputs, context, report=True, probes=probes)
    else:
        wanted = _STANDARD_ERROR if standard_error is None else standard_error
        report = flow.log_prob(inputs, context, report=True, tol=wanted, max_probes=_MOST_PROBES)
    return report.log_prob, report.standard_error


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known).double().cpu() if known else None
