"""The optimizer of a run and the moving average of its weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from ..nn._beta import with_one_element
from .config import TrainConfig

# The fused ones update all weights in one kernel; Adamax and RMSprop have no such kernel.
_OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {"fused": True}),
    "adamw": (torch.optim.AdamW, {"fused": True}),
    "adamax": (torch.optim.Adamax, {"foreach": True}),
    "rmsprop": (torch.optim.RMSprop, {"foreach": True}),
    "sgd": (torch.optim.SGD, {"fused": True, "momentum": 0.9}),
}


class Optimization:
    """Clips gradients, steps the optimizer and follows with the average.

    Args:
        model: what is trained.
        config: of the run.

    Attributes:
        optimizer: the torch.optim optimizer.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        """Build the optimizer and the average; the arguments are those of the class."""
        self._model, self._config = model, config
        self._parameters = list(model.parameters())
        kind, options = _OPTIMIZERS[config.optimizer]
        if config.betas is not None:
            options = {**options, "betas": config.betas}
        self.optimizer = kind(self._parameters, lr=config.learning_rate, weight_decay=config.weight_decay, **options)  # type: ignore[call-arg]  # of the subclasses
        self._average = None if config.ema is None else copy.deepcopy(model)
        self._averaged = [] if self._average is None else list(self._average.parameters())

    @property
    def average(self) -> nn.Module | None:
        """The model with averaged weights, None if ema is None."""
        if self._average is not None:
            # u, v and sigma, and whether ActNorms are initialised, have no average. AveragedModel of torch copies them
            # at every step, at ten times the cost of the average.
            for ours, theirs in zip(self._average.buffers(), self._model.buffers(), strict=True):
                ours.copy_(theirs)
        return self._average

    def step(self, n_before: int, learning_rate: float) -> Tensor:
        """Take a step along the gradients that are there; returns their norm [] before clipping, without waiting.

        Args:
            n_before: number of steps taken before.
            learning_rate: of this step.
        """
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        if self._config.clip is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self._config.clip, norm, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        if self._config.ema is not None:
            decay = min(self._config.ema, (1 + n_before) / (10 + n_before))
            update = swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            update(self._averaged, self._parameters, None)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return the state of the optimizer as "<parameter index>.<key>"."""
        states: dict[int, dict[str, Tensor]] = self.optimizer.state_dict()["state"]
        return {f"{i}.{key}": value for i, state in states.items() for key, value in state.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the state that `state` returned.

        Raises:
            ValueError: it is not that of such an optimizer of these weights; the sentence lacks the file.
        """
        kept = self._kept()
        states: dict[int, dict[str, Tensor]] = {}
        left = dict(state)
        for i, (parameter_name, parameter) in enumerate(self._model.named_parameters()):
            if not parameter.requires_grad:  # the optimizer has never seen a gradient of it
                continue
            states[i] = {}
            for key, is_scalar in kept.items():
                name, shape = f"{i}.{key}", torch.Size() if is_scalar else parameter.shape
                value = left.pop(name, None)
                if not is_scalar:
                    value = with_one_element(parameter_name, value)
                if value is None or value.shape != shape or not value.is_floating_point():
                    got = "none" if value is None else f"{value.dtype} of shape {tuple(value.shape)}"
                    raise ValueError(f"numbers of shape {tuple(shape)} as optimizer.{name}, got {got}")
                if not bool(value.isfinite().all()):
                    raise ValueError(f"finite numbers as optimizer.{name}, got others")
                states[i][key] = value
        if left:
            raise ValueError(f"the state of {self._config.optimizer}, got also optimizer.{next(iter(left))[:80]}")
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})

    def _kept(self) -> dict[str, bool]:
        """Return what such an optimizer keeps of each parameter, and whether that is one number for the whole of it."""
        kind, options = _OPTIMIZERS[self._config.optimizer]
        parameter = torch.zeros(1, requires_grad=True)
        parameter.grad = torch.zeros(1)
        optimizer = kind([parameter], lr=1e-3, **options)  # type: ignore[call-arg]  # of the subclasses
        optimizer.step()
        return {key: value.dim() == 0 for key, value in optimizer.state[parameter].items()}
