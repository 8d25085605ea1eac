"""How good a model is on data it has not seen, by an estimate that training had no part in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import _checks
from .._inputs import check_floating, check_labels, check_shape
from ..models import IResNetFlow
from ..models._blocks import Block
from ..models._modes import evaluating
from ..models.truncation import evaluation_terms
from ..nn import Call
from ..nn._transform import check_range
from .batches import Batch
from .tasks import Task, flow_of, task_of

# Training learns to exploit a short series: one of 5 terms flattered a trained MNIST model by 0.015 bits/dim, one of
# 10 terms by nothing that could be measured.
_LEAST_TERMS = 10


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        metrics: means over the samples: "bits_per_dim", or "nats" for vectors of continuous values; "error_percent".
        standard_errors: of those means, from the spread of the samples; NaN for a single sample.
        n: number of samples.
        truncation_bound: how much too good or bad the first of the metrics can be for the truncation of the
            log-determinant, in its unit (theorem 3 of arXiv 1811.00995, a worst case); 0: exact, or no density.
    """

    metrics: dict[str, float]
    standard_errors: dict[str, float]
    n: int
    truncation_bound: float = 0.0

    def __str__(self) -> str:
        """Return it in one line."""
        parts = (f"{name} {mean:.3f} +- {self.standard_errors[name]:.3f}" for name, mean in self.metrics.items())
        return f"{', '.join(parts)} ({self.n} samples)"


@torch.no_grad()
def evaluate(
    model: nn.Module,
    x: Tensor,
    labels: Tensor | None = None,
    batch_size: int = 200,
    seed: int = 0,
    context: Tensor | None = None,
) -> Evaluation:
    """Return the mean of the metrics of a model over all samples, in eval mode and with its eval_estimator.

    Probes and the noise of dequantisation are functions of the bits of a sample, of the seed and of the layer: samples
    that differ are independent, so that the standard errors hold, and no value depends on the batch it is computed in.
    Torch's global generator is not touched. The mode of every module is restored; for a model in training that is a
    change of mode, which lets the spectral norms converge: evaluate a copy if training must go on as if nothing had
    happened, as `fit` does.

    Args:
        model: an IResNetFlow, HybridIResNet or IResNetClassifier.
        x: [N, *event_shape], the data as they come: whole numbers for a model that dequantises.
        labels: [N] integers, for a model that classifies; others do not look at them.
        batch_size: samples at a time.
        seed: of the noise.
        context: [N, context_features], as a data set holds it, for a model that takes one.

    Raises:
        ValueError: there are no samples, labels are missing or no numbers of classes, the context is missing or not
            wanted, the eval_estimator is no honest one (Exact, or at least ten terms), or the value of a sample is not
            finite.
        TypeError: the model is of another kind.
    """
    _checks.check_count("batch_size", batch_size, 1)
    _checks.check_seed("seed", seed)
    task = task_of(model)
    check_shape(x, task.event_shape, owner="model")
    if x.is_meta or x.shape[0] == 0:
        raise ValueError("x must hold at least one sample, got none; pass the test set.")
    if labels is not None:
        n_classes = getattr(model.config, "n_classes", None)  # a flow has none
        check_labels(labels, len(x), n_classes)
        if n_classes is not None:
            check_range(labels.cpu(), 0, n_classes - 1, "number the classes from 0", "labels")
    _check_context(context, len(x), task.context_features)
    check_estimators(model)
    device = next(model.parameters()).device
    batches: list[dict[str, Tensor]] = []
    with evaluating(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in range(0, x.shape[0], batch_size):
            part = slice(start, start + batch_size)
            batch = Batch(x[part], *(None if other is None else other[part] for other in (labels, context)))
            values = _values(model, task, batch.to(device), seed)
            batches.append({name: value.double().cpu() for name, value in values.items()})
    found = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    for name, value in found.items():
        if not bool(value.isfinite().all()):
            first = int((~value.isfinite()).nonzero()[0])
            if not bool(x[first].isfinite().all()):
                raise ValueError(f"x must be finite, got NaN or infinity in sample {first}; remove such samples.")
            raise ValueError(
                f"{name} must be finite, got {float(value[first])} for sample {first}; the model has diverged: lower "
                f"the learning rate or go back to an earlier checkpoint."
            )
    n = x.shape[0]
    return Evaluation(
        {name: float(value.mean()) for name, value in found.items()},
        {name: float(value.std()) / math.sqrt(n) if n > 1 else math.nan for name, value in found.items()},
        n,
        _truncation_bound(model, task),
    )


def _check_context(context: Tensor | None, n: int, width: int) -> None:
    if context is not None:
        check_floating(context, "context")
    shape = None if context is None else tuple(context.shape)
    expected = (n, width) if width else None
    if shape != expected:
        raise ValueError(
            f"context must {f'have shape {expected}' if expected else 'be None'} for this model, got "
            f"{f'shape {shape}' if shape else 'None'}; pass a row for each sample if the model takes a context."
        )
    if context is not None and not bool(context.isfinite().all()):
        raise ValueError("context must be finite, got NaN or infinity in it; remove such samples.")


def _values(model: nn.Module, task: Task, batch: Batch, seed: int) -> dict[str, Tensor]:
    """Return the metrics of each sample, [B] each."""
    inputs, labels, context = task.inputs(batch.x), batch.labels, task.context(batch.context)
    call, flow = Call.of(inputs, seed), flow_of(model)
    if flow is model:
        return _density(flow, task, flow.log_prob(inputs, context, call))
    if labels is None:
        raise ValueError(f"labels must be given for a {type(model).__name__}, got None; pass those of the samples.")
    if flow is None:
        return {"error_percent": _errors(model(inputs), labels)}
    logits, log_prob = model(inputs, context, call)
    return {**_density(flow, task, log_prob), "error_percent": _errors(logits, labels)}


def _errors(logits: Tensor, labels: Tensor) -> Tensor:
    # A NaN among the logits is no decision: it must not pass for class 0.
    wrong = 100.0 * (logits.argmax(1) != labels)
    return torch.where(logits.isfinite().all(1), wrong, math.nan)


def _density(flow: IResNetFlow, task: Task, log_prob: Tensor) -> dict[str, Tensor]:
    nats = -log_prob.double()
    return {"nats": nats} if "nats" in task.metrics else {"bits_per_dim": nats / (math.log(2.0) * flow.config.n_dims)}


def _truncation_bound(model: nn.Module, task: Task) -> float:
    flow = flow_of(model)
    if flow is None:
        return 0.0
    bits = flow.truncation_bound()
    return bits * math.log(2.0) * flow.config.n_dims if "nats" in task.metrics else bits


def check_estimators(model: nn.Module) -> None:
    """Raise ValueError unless every log-determinant of evaluation is exact or has ten terms: better before training."""
    if flow_of(model) is None:
        return
    for name, block in model.named_modules():
        n_terms = evaluation_terms(block.eval_estimator) if isinstance(block, Block) else None
        if n_terms is not None and n_terms < _LEAST_TERMS:
            raise ValueError(
                f"eval_estimator must be Exact or have at least {_LEAST_TERMS} terms, got {n_terms} in {name}: "
                f"training learns to exploit a short series; build the model with eval_estimator=None, the default."
            )
