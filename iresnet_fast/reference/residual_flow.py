"""Blocks of a residual flow one after the other, with what stands between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from iresnet_fast import _checks
from iresnet_fast._inputs import check_channels, check_floating, check_samples
from iresnet_fast._stages import Stages
from iresnet_fast._steps import Normalize, Rearrange, Residual, Step
from iresnet_fast._traces import split_coefficients
from iresnet_fast.reference.branch import branch
from iresnet_fast.reference.jacobian_traces import traces_of_maps
from iresnet_fast.reference.residual_logdet import residual_logdet
from iresnet_fast.reference.residual_logdet_exact import residual_logdet_exact

_LOGDETS = ("none", "exact", "series")


def residual_flow(
    x: Tensor,  # [B, d] or [B, C, H, W]
    steps: Sequence[Step],
    tensors: Sequence[Tensor | None],
    draws: Sequence[tuple[Tensor, Tensor]] = (),
) -> tuple[Tensor, Tensor]:
    """Return what the steps make of x one after the other, and the log-determinant [B] of them all.

    Equivalent to: `for step in steps: x, logdet = step(x); total = total + logdet`.

    Arguments, results and errors: those of `iresnet_fast.ops.residual_flow`.
    """
    check_flow(x, steps, tensors, draws)
    given = iter(draws)
    logdets = []
    for step, own in zip(steps, tensors_of_steps(steps, tensors), strict=True):
        if isinstance(step, Normalize):
            x, logdet = _normalize(x, *own)  # type: ignore[arg-type]  # checked not to be None
        elif isinstance(step, Rearrange):
            x, logdet = _rearrange(x, step, *own), None  # type: ignore[arg-type]
        else:
            x, logdet = _residual(x, step, own, given)
        if logdet is not None:
            logdets.append(logdet)
    # A row for each sample: sums of columns are rounded differently at different places of a batch.
    return x, torch.stack(logdets, 1).sum(1) if logdets else x.new_zeros(x.shape[0])


def tensors_of_steps(steps: Sequence[Step], tensors: Sequence[Tensor | None]) -> list[Sequence[Tensor | None]]:
    """Return the tensors of each step from the list of them all."""
    found, first = [], 0
    for step in steps:
        found.append(tensors[first : first + step.n_tensors])
        first += step.n_tensors
    return found


def check_flow(
    x: Tensor, steps: Sequence[Step], tensors: Sequence[Tensor | None], draws: Sequence[tuple[Tensor, Tensor]]
) -> None:
    """Check what the steps of a flow have in common; each checks its own tensors."""
    check_floating(x)
    check_samples(x)
    for i, step in enumerate(steps):
        if not isinstance(step, (Normalize, Rearrange, Residual)):
            raise TypeError(f"steps[{i}] must be a Normalize, Rearrange or Residual, got {step!r}; build one.")
        if isinstance(step, Residual):
            _checks.check_choice(f"logdet of steps[{i}]", step.logdet, _LOGDETS)
    n_tensors = sum(step.n_tensors for step in steps)
    if len(tensors) != n_tensors:
        raise ValueError(f"tensors must hold the {n_tensors} of the steps, got {len(tensors)}; pass None for a gap.")
    n_series = sum(isinstance(step, Residual) and step.logdet == "series" for step in steps)
    if len(draws) != n_series:
        raise ValueError(
            f"draws must hold a probe and coefficients for each of {n_series} steps with a series, got {len(draws)}; "
            f"draw them in the order of the steps."
        )


def _normalize(x: Tensor, bias: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    check_channels(x, bias.numel())
    shape = (-1, *[1] * (x.dim() - 2))
    z = (x + bias.view(shape)) * log_scale.exp().view(shape)
    return z, log_scale.expand(x.shape[0], -1).sum(1) * math.prod(x.shape[2:])


def _rearrange(x: Tensor, step: Rearrange, index: Tensor) -> Tensor:
    return x.flatten(1).index_select(1, index).reshape(x.shape[0], *step.event_shape)


def _residual(
    x: Tensor, step: Residual, tensors: Sequence[Tensor | None], draws: Iterator[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor | None]:
    n = len(step.activations)
    weights: Sequence[Tensor] = tensors[:n]  # type: ignore[assignment]  # checked not to be None
    biases, parameters, factors = (tensors[k * n : (k + 1) * n] for k in (1, 2, 3))
    maps: Sequence[Tensor] = tensors[4 * n :]  # type: ignore[assignment]  # likewise
    if step.logdet == "none":
        return x + branch(x, weights, biases, step.activations, parameters, factors), None
    if step.logdet == "exact":
        return residual_logdet_exact(x, weights, biases, step.activations, parameters, factors)
    probe, coefficients = next(draws)
    first, rest = split_coefficients(_checks.check_coefficients(coefficients, x), len(maps))
    z, logdet, *_ = residual_logdet(
        x, weights, biases, step.activations, probe, rest, "neumann", parameters, factors=factors
    )
    if maps:
        stages = Stages(list(weights), list(biases), step.activations, list(parameters), list(factors))
        logdet = logdet + (first * torch.stack(traces_of_maps(x, stages, step.traces, maps), 1)).sum(-1)
    return z, logdet
