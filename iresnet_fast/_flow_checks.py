"""Checks of the steps of a flow before any of them runs: tensors and draws against the shape that reaches each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _checks
from ._inputs import described
from ._steps import Normalize, Rearrange, Residual, Step
from .reference.residual_flow import check_flow, tensors_of_steps


def check_steps(
    x: Tensor, steps: Sequence[Step], tensors: Sequence[Tensor | None], draws: Sequence[tuple[Tensor, Tensor]]
) -> None:
    """Check all arguments of a flow; an error names the step. Computes nothing."""
    check_flow(x, steps, tensors, draws)
    if x.dim() not in (2, 4):
        raise ValueError(f"x must have shape [B, d] or [B, C, H, W], got {tuple(x.shape)}; reshape it.")
    given = iter(draws)
    for i, (step, own) in enumerate(zip(steps, tensors_of_steps(steps, tensors), strict=True)):
        try:
            if isinstance(step, Normalize):
                _check_normalize(x, own)
            elif isinstance(step, Rearrange):
                x = _check_rearrange(x, step, own[0])
            else:
                n = len(step.activations)
                weights, biases, betas, factors = (own[k * n : (k + 1) * n] for k in range(4))
                _checks.check_branch(x, weights, biases, step.activations, betas, factors)  # type: ignore[arg-type]
                if step.logdet == "series":
                    probe, coefficients = _pair(next(given))
                    _checks.check_probe(probe, x)
                    _checks.check_coefficients(coefficients, x)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{str(error).removesuffix('.')} (steps[{i}]).") from None


def _pair(draw: object) -> tuple[Tensor, Tensor]:
    if not isinstance(draw, (tuple, list)) or len(draw) != 2:
        raise TypeError(f"draws must hold pairs of a probe and coefficients, got {described(draw)}; pass both.")
    return draw[0], draw[1]


def _check_normalize(x: Tensor, tensors: Sequence[Tensor | None]) -> None:
    for name, tensor in zip(("bias", "log_scale"), tensors, strict=True):
        _checks.check_same(name, None, tensor, "x", x)  # type: ignore[arg-type]  # None is refused
        if tuple(tensor.shape) != (x.shape[1],):  # type: ignore[union-attr]
            raise ValueError(
                f"{name} must have shape ({x.shape[1]},), one entry per channel of x, got {tuple(tensor.shape)}; "  # type: ignore[union-attr]
                f"reshape it."
            )


def _check_rearrange(x: Tensor, step: Rearrange, index: Tensor | None) -> Tensor:
    """Check a rearrangement and return something of the kind and the shape of its z, without numbers of its own."""
    size = math.prod(x.shape[1:])
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or tuple(index.shape) != (size,):
        got = f"{index.dtype} of shape {tuple(index.shape)}" if isinstance(index, Tensor) else repr(index)
        raise ValueError(
            f"index must be int64 of shape ({size},), one entry per number of an event, got {got}; change it."
        )
    if index.device != x.device:
        raise ValueError(f"index must be on the device of x, {x.device}, got {index.device}; move it.")
    if len(step.event_shape) not in (1, 3) or math.prod(step.event_shape) != size:
        raise ValueError(
            f"event_shape must be (d,) or (C, H, W) with {size} numbers, got {tuple(step.event_shape)}; change it."
        )
    if index.device.type == "cpu" and not torch.compiler.is_compiling():
        if not torch.equal(index.sort()[0], torch.arange(size)):
            raise ValueError(
                f"index must hold every number below {size} once, got others; pass e.g. torch.randperm({size})."
            )
    return x.new_empty(1).expand(x.shape[0], *step.event_shape)


def names_of(steps: Sequence[Step]) -> tuple[str, ...]:
    """Return the activations of all steps, each once, in the order of their first use."""
    return tuple(dict.fromkeys(name for step in steps if isinstance(step, Residual) for name in step.activations))
