"""How typical a score is of those of the training rows: neither too low nor too high."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from .._inputs import check_shape
from . import checkpoint
from .batches import Batch
from .scores import row_scores
from .tasks import flow_of

NAME = "scores.log_prob"  # of the tensor in a model file
MOST = 4096


def training_scores(model: nn.Module, batch: Batch, most: int = MOST, batch_size: int = 200) -> Tensor:
    """Return the log-densities of training rows in ascending order, [n] float64, on the CPU.

    They are those that `row_scores` gives with one estimate of each log-determinant, in nats. Values that are not
    finite are left out.

    Args:
        model: an IResNetFlow or HybridIResNet.
        batch: the training rows.
        most: how many to look at; of more rows so many are taken at even distances, from the first to the last.
        batch_size: rows at a time.

    Raises:
        ValueError: the model has no density, or as of `row_scores`.
    """
    if flow_of(model) is None:
        raise ValueError(f"model must have a density, got a {type(model).__name__}; pass a flow or a hybrid.")
    n = len(batch.x)
    if n > most:
        rows = torch.linspace(0, n - 1, most, dtype=torch.float64).round().long()
        batch = batch.rows(rows.to(batch.x.device))
    found = row_scores(model, batch, batch_size).log_prob
    assert found is not None  # there is a density
    return found[found.isfinite()].sort().values


def p_values(scores: Tensor, reference: Tensor) -> Tensor:
    """Return how typical log-densities are of a reference, [N] float64 in (0, 1]: small for outliers.

    A point is typical of a density if its log-density is near the mean one, not if it is high (Nalisnick et al. 2019,
    arXiv 1906.02994): in many dimensions the mode is where no sample is. The p-value of a score s is that of its rank:
    (1 + #{i: |s_i - m| >= |s - m|}) / (n + 1) over the n scores s_i of the reference, m being the mean of these and s
    together. With s among them it treats all n + 1 alike, so that the p-value of a row that is exchangeable with those
    of the reference is at most a with a probability of at most a, for every a and n. Rows that a model was trained on
    score a little higher than others of the same kind; the p-values of these are that much too small if it overfits.

    Args:
        scores: [N]; NaN stays NaN, infinite ones are the least typical.
        reference: [n], finite, one at least.

    Raises:
        ValueError: the reference is empty or not finite, or something is no vector.
    """
    for name, values in (("scores", scores), ("reference", reference)):
        check_shape(values, (), name)
    if len(reference) == 0 or not bool(reference.isfinite().all()):
        raise ValueError(
            f"reference must hold finite scores, one at least, got {len(reference)} numbers of which "
            f"{int(reference.isfinite().sum())} are finite; pass those of training rows."
        )
    scores = scores.detach().double().cpu()
    ordered = reference.detach().double().cpu().sort().values
    n = len(ordered)
    mean = (ordered.sum() + scores) / (n + 1)
    mirrored = 2.0 * mean - scores
    low, high = torch.minimum(scores, mirrored), torch.maximum(scores, mirrored)
    nearer = torch.searchsorted(ordered, high) - torch.searchsorted(ordered, low, right=True)
    found = (1 + n - nearer.clamp(min=0)).double() / (n + 1)
    found = torch.where(scores.isinf(), 1.0 / (n + 1), found)
    return torch.where(scores.isnan(), torch.nan, found)


def reference_scores(path: str | os.PathLike[str]) -> Tensor | None:
    """Return the training scores of the model that `load_model` takes, [n] float64; None if no file has them.

    Those of a folder may be in its model file, which is written at the end, if that holds the same weights.

    Raises:
        CheckpointError: as of `load_model`, or they are no such scores.
    """
    found = checkpoint.read_run(path)
    at_end = Path(path, checkpoint.MODEL_FILE)
    if NAME not in found.tensors and Path(path).is_dir() and at_end.exists():
        whole = checkpoint.read(at_end)
        found = whole if _same(whole, found) else found
    scores = found.tensors.get(NAME)
    if scores is None:
        return None
    if scores.dim() != 1 or not scores.is_floating_point() or len(scores) == 0 or not bool(scores.isfinite().all()):
        raise checkpoint.CheckpointError(
            f"{found.path} must hold finite training scores [n], got {scores.dtype} of shape {tuple(scores.shape)}; "
            f"get the file again, or train anew."
        )
    return scores.double()


def _same(one: checkpoint.Checkpoint, other: checkpoint.Checkpoint) -> bool:
    ours, theirs = (file.part("average") or file.part("model") for file in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
