"""How good a model is on data it has not seen, by an estimate that training had no part in."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .. import _checks
from .._inputs import check_floating, check_labels, check_shape
from ..models._blocks import Block
from ..models._modes import evaluating
from ..models._report import check_alike, series_blocks
from ..models.truncation import evaluation_terms
from ..nn._transform import check_range
from ._passes import Passes
from .batches import Batch
from .progress import working
from .tasks import Task, flow_of, task_of

# Training learns to exploit a short series: one of 5 terms flattered a trained MNIST model by 0.015 bits/dim, one of
# 10 terms by nothing that could be measured.
_LEAST_TERMS = 10

_STANDARD_ERROR = 0.001  # what the metrics are printed to


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        metrics: means over the samples: "bits_per_dim", or "nats" for vectors of continuous values; "error_percent".
        standard_errors: of those means, from the spread of the samples; NaN for a single sample.
        n: number of samples.
        truncation_bound: how much too good or bad the first of the metrics can be for the truncation of the
            log-determinant, in its unit (theorem 3 of arXiv 1811.00995, a worst case); 0: exact, or no density.
        n_probes: how many estimates of each log-determinant the first of the metrics is the mean of.
        probe_error: standard error of the first of the metrics that is due to the probes alone, from the spread of the
            estimates of each sample; 0: there are no probes; None: a single one tells nothing of it.
        values: the metrics of each sample, [n] float64; they have no part in a comparison.
    """

    metrics: dict[str, float]
    standard_errors: dict[str, float]
    n: int
    truncation_bound: float = 0.0
    n_probes: int = 1
    probe_error: float | None = None
    values: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        """Return it in one line."""
        parts = (f"{name} {mean:.3f} +- {self.standard_errors[name]:.3f}" for name, mean in self.metrics.items())
        samples = f"{self.n} samples"
        if self.probe_error:
            name = next(iter(self.metrics))
            samples += f"; of {name}, {self.n_probes} probes each make +- {self.probe_error:.2g}"
        return f"{', '.join(parts)} ({samples})"


@torch.no_grad()
def evaluate(
    model: nn.Module,
    x: Tensor,
    labels: Tensor | None = None,
    batch_size: int = 200,
    seed: int = 0,
    context: Tensor | None = None,
    probes: int | str = 1,
    standard_error: float | None = None,
    show_progress: bool = False,
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
        probes: how many estimates of each log-determinant to average, or "auto": as many, the same of each sample, as
            bring the standard error of the density that is due to probes down to `standard_error`, with probability
            0.95 given the spread of the estimates, or 4096: then a warning says what was missed. The standard error
            that is due to the samples stays as it is.
        standard_error: for "auto", in the unit of the density; None: 0.001.
        show_progress: a progress bar on a terminal.

    Raises:
        ValueError: there are no samples, labels are missing or no numbers of classes, the context is missing or not
            wanted, the eval_estimator is no honest one (Exact, or at least ten terms), the value of a sample is not
            finite, probes or standard_error is out of range, or there are no probes to count: the model has no density,
            or a block is not handed the call.
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
    check_context(context, len(x), task.context_features)
    check_estimators(model)
    check_probes(model, probes, standard_error)
    device = next(model.parameters()).device
    with (
        evaluating(model),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        working(show_progress) as on_batch,
    ):
        passes = Passes(model, task, Batch(x, labels, context), batch_size, seed, on_batch)
        if isinstance(probes, str):
            missed = passes.until(_STANDARD_ERROR if standard_error is None else standard_error)
            if missed is not None:
                warnings.warn(f"iresnet_fast: {missed}", RuntimeWarning, stacklevel=3)
        else:
            passes.run(probes, probes > 1)
        estimates = any(True for _ in series_blocks(model))
    found = passes.metrics
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
        passes.n_probes if estimates else 1,
        (None if probes == 1 else passes.probe_error) if estimates else 0.0,
        found,
    )


def check_probes(model: nn.Module, probes: int | str, standard_error: float | None) -> None:
    """Raise ValueError unless these say how exact the density of a model is to be."""
    if probes == "auto":
        check_alike(model, "probes='auto'")
    elif isinstance(probes, str):
        raise ValueError(f"probes must be a number or 'auto', got {probes!r}; pass one of them.")
    else:
        _checks.check_count("probes", probes, 1)
        if standard_error is not None:
            raise ValueError(
                f"standard_error must be None for a given number of probes, {probes}, got {standard_error}; pass "
                f"probes='auto'."
            )
    if probes != 1 and flow_of(model) is None:
        raise ValueError(f"probes must be 1 for a model without a density, got {probes!r}; leave it out.")
    if standard_error is not None:
        _checks.check_number("standard_error", standard_error, "0.001")
        if not 0.0 < standard_error < math.inf:
            raise ValueError(f"standard_error must be positive and finite, got {standard_error}; pass e.g. 0.001.")


def check_context(context: Tensor | None, n: int, width: int) -> None:
    """Raise ValueError unless a context is finite and of this shape; None for width 0."""
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
