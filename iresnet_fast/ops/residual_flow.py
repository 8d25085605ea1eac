"""Blocks of a residual flow one after the other, with what stands between them, on the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from .._steps import Normalize, Rearrange, Step
from ..reference.residual_flow import check_flow, tensors_of_steps
from .branch import branch
from .residual_logdet import residual_logdet
from .residual_logdet_exact import residual_logdet_exact


def residual_flow(
    x: Tensor,  # [B, d] or [B, C, H, W]
    steps: Sequence[Step],
    tensors: Sequence[Tensor | None],
    draws: Sequence[tuple[Tensor, Tensor]] = (),
) -> tuple[Tensor, Tensor]:
    """Return what the steps make of x one after the other, and the log-determinant [B] of them all.

    Equivalent to: `for step in steps: x, logdet = step(x); total = total + logdet`.

    Args:
        x: [B, d] or [B, C, H, W].
        steps: what is done, of `iresnet_fast._steps`.
        tensors: those of each step, in the order of the steps.
        draws: for each step with a series, in their order, its probe, the shape of its input or [m, B, *event], and
            its coefficients, [n] or [B, n].

    Returns:
        z and the log-determinant [B]; differentiable in x and the tensors.

    Raises:
        ValueError: a shape, device, name or number of entries does not fit.
        TypeError: a dtype does not fit.
    """
    check_flow(x, steps, tensors, draws)
    given = iter(draws)
    logdets = []
    for step, own in zip(steps, tensors_of_steps(steps, tensors), strict=True):
        if isinstance(step, (Normalize, Rearrange)):
            x, logdet = reference.residual_flow(x, (step,), own)
        else:
            n = len(step.activations)
            weights: Sequence[Tensor] = own[:n]  # type: ignore[assignment]
            stages = (weights, own[n : 2 * n], step.activations)
            if step.logdet == "none":
                x = x + branch(x, *stages, own[2 * n :])
                continue
            if step.logdet == "exact":
                x, logdet = residual_logdet_exact(x, *stages, own[2 * n :])
            else:
                x, logdet, *_ = residual_logdet(x, *stages, *next(given), "neumann", own[2 * n :])
        logdets.append(logdet)
    return x, torch.stack(logdets, 1).sum(1) if logdets else x.new_zeros(x.shape[0])
