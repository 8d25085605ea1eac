"""MaxMin and CLipSwish, which mix channels, as elementwise activations between other weights: what kernels compute.

Kernels know elementwise activations only: their derivative is a diagonal, in every walk, backward pass and instruction
set. With u = (a - b) / 2 and v = (a + b) / 2, max(a, b) = v + |u| and min(a, b) = v - |u|. So MaxMin is "half_abs" once
the weight before it gives u and v and the weight after it takes |u| and v, which costs a sum for each number of the two
weights. CLipSwish is LipSwish of [a, -a], which the weight before it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import activations as registry
from ._stages import Stages, identity_like

_MIXING = ("maxmin", "clipswish")


class _Stage(NamedTuple):
    weight: Tensor
    bias: Tensor | None
    activation: str
    parameter: Tensor | None = None
    factor: Tensor | None = None


def has_kernel(name: str) -> bool:
    """Whether the kernels compute an activation, as it is or between other weights."""
    return name in _MIXING or registry.get(name).kernel_id is not None


def lowered(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    parameters: Sequence[Tensor | None] | None,
    factors: Sequence[Tensor | None] | None,
) -> Stages:
    """Return stages of elementwise activations that compute the same branch."""
    n = len(weights)
    betas: list[Tensor | None] = [None] * n if parameters is None else list(parameters)
    given: list[Tensor | None] = [None] * n if factors is None else list(factors)
    if not any(name in _MIXING for name in activations):
        return Stages(list(weights), list(biases), tuple(activations), betas, given)
    made: list[_Stage] = []
    for stage in map(_Stage, weights, biases, activations, betas, given):
        if stage.activation in _MIXING:
            _prepare(made, stage)
        if stage.activation == "clipswish":
            stage = stage._replace(weight=stage.weight / registry.CLIPSWISH_SCALE, activation="lipswish")
        elif stage.activation == "maxmin" and stage.factor is None:
            stage = stage._replace(weight=_columns(stage.weight), activation="half_abs")
        elif stage.activation == "maxmin":  # the factor multiplies the maximum and the minimum themselves
            pairs = _columns(identity_like(stage.weight, stage.weight.shape[1]))
            made.append(_Stage(pairs, None, "half_abs"))
            stage = stage._replace(activation="identity")
        made.append(stage)
    lists = [list(column) for column in zip(*made, strict=True)]
    return Stages(lists[0], lists[1], tuple(lists[2]), lists[3], lists[4])


def _prepare(made: list[_Stage], stage: _Stage) -> None:
    """Make the last stage give what the activation takes; of the input itself a stage must be put in front."""
    doubles = stage.activation == "clipswish"
    if not made:
        n_channels = stage.weight.shape[1] // (2 if doubles else 1)
        made.append(_Stage(identity_like(stage.weight, n_channels), None, "identity"))
    change = _both_signs if doubles else _rows
    before = made[-1]
    bias = before.bias
    if bias is not None:
        bias = change(bias, min(bias.dim() - 1, 1))
    made[-1] = before._replace(weight=change(before.weight, 0), bias=bias)


def _pairs(t: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first and the second of every pair of channels, and the channel left over of an odd number."""
    n = t.shape[dim] // 2
    paired = t.narrow(dim, 0, 2 * n)
    first, second = paired.reshape(*t.shape[:dim], n, 2, *t.shape[dim + 1 :]).unbind(dim + 1)
    return first, second, t.narrow(dim, 2 * n, t.shape[dim] - 2 * n)


def _rows(t: Tensor, dim: int) -> Tensor:
    """Return u and v from a and b, along a dimension."""
    a, b, rest = _pairs(t, dim)
    return torch.cat(((a - b) * 0.5, (a + b) * 0.5, rest), dim)


def _columns(weight: Tensor) -> Tensor:
    """Return the weight that takes |u| and v where `weight` takes the maximum v + |u| and the minimum v - |u|."""
    most, least, rest = _pairs(weight, 1)
    return torch.cat((most - least, most + least, rest), 1)


def _both_signs(t: Tensor, dim: int) -> Tensor:
    return torch.cat((t, -t), dim)
