"""What is noted of every step without waiting for it, its means in the log, and bounds of the norms of a model."""

from __future__ import annotations

import copy
import time
from collections import deque
from pathlib import Path

import torch
from torch import Tensor, nn

from ..models import certified_lipschitz
from ..nn.spectral import count_unsettled
from . import distributed
from .resume import means_of

# Norms that take longer than _NORMS_FREE seconds take no more than _NORMS_SHARE of the run, but for those at its end.
_NORMS_FREE, _NORMS_SHARE = 1.0, 0.02


class Measures:
    """The last losses and gradient norms, whose means are in the log, and the norms of the model.

    Args:
        model: what is trained.
        most: number of steps that means are taken over.
        folder: of the run, for the sentence of an error.
    """

    def __init__(self, model: nn.Module, most: int, folder: Path) -> None:
        """Begin without a step; the arguments are those of the class."""
        self._model, self._folder = model, folder
        self._losses: deque[Tensor] = deque(maxlen=most)
        self._norms: deque[Tensor] = deque(maxlen=most)
        self._unsettled_before = 0  # norms, by the processes that this one goes on from
        self._norms_due = 0.0

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Note the loss [] and the gradient norm [] of a step."""
        self._losses.append(loss)
        self._norms.append(norm)

    def means(self, step: int) -> tuple[float, float]:
        """Return the means of the last losses and gradient norms, up to a step, over all processes.

        Raises:
            ValueError: one of them is not finite.
        """
        values = torch.stack([torch.stack(list(self._losses)), torch.stack(list(self._norms))]).double().cpu()
        values = distributed.mean(values)
        for kept, means in zip((self._losses, self._norms), values.to(self._losses[0].device), strict=True):
            kept.clear()
            kept.extend(means.unbind())  # checkpoints, which all processes read, hold those of all
        bad = (~values.isfinite()).any(0).nonzero()
        if len(bad):
            step = step - values.shape[1] + int(bad[0]) + 1
            loss, norm = values[:, int(bad[0])].tolist()
            raise ValueError(
                f"loss and gradient norm must be finite, got {loss} and {norm} in step {step}; lower the learning rate "
                f"or check the data, then {distributed.how_to_resume(self._folder)}"
            )
        loss, norm = values.mean(1).tolist()
        return loss, norm

    def of_model(self, is_over: bool) -> dict[str, float]:
        """Return bounds of the Lipschitz constants of the model as the next step will see it, nothing if it is early.

        Of a copy, to leave the model as it is. Large convolutional models take seconds: then a small share of the run.
        """
        now = time.monotonic()
        if not is_over and now < self._norms_due:
            return {}
        table = certified_lipschitz(copy.deepcopy(self._model))
        seconds = time.monotonic() - now
        self._norms_due = now + (seconds / _NORMS_SHARE if seconds > _NORMS_FREE else 0.0)
        return {"lipschitz": table.worst, "worst_norm": table.worst_layer, "unsettled_norms": self._unsettled()}

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint that `restore` goes on from."""
        return {
            "log.loss": torch.stack(list(self._losses)),
            "log.grad_norm": torch.stack(list(self._norms)),
            "log.unsettled_norms": torch.tensor(self._unsettled()),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from those tensors, without "log."; raises ValueError, without the file, if they cannot be that."""
        losses, norms, self._unsettled_before = means_of(state)
        self._losses.extend(losses.unbind())
        self._norms.extend(norms.unbind())

    def _unsettled(self) -> int:
        """Return how many norms the steps of the whole run have left unsettled, see `nn.spectral`."""
        return self._unsettled_before + count_unsettled(self._model)
