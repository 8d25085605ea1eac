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

_MIXING = ("maxmin", "clipswish")


class Stages(NamedTuple):
    """Lists of L entries each, as the public ops take them."""

    weights: list[Tensor]
    biases: list[Tensor | None]
    activations: list[str]
    parameters: list[Tensor | None]
    factors: list[Tensor | None]


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
    given = (
        list(weights),
        list(biases),
        list(activations),
        [None] * n if parameters is None else list(parameters),
        [None] * n if factors is None else list(factors),
    )
    if not any(name in _MIXING for name in activations):
        return Stages(*given)  # type: ignore[arg-type]  # the lists are of what their names say
    made = Stages([], [], [], [], [])
    for weight, bias, name, parameter, factor in zip(*given, strict=True):
        if name in _MIXING:
            _prepare(made, weight, name)
        if name == "maxmin":
            if factor is not None:  # which multiplies the maximum and the minimum themselves
                _append(made, _columns(_identity(weight, weight.shape[1])), None, "half_abs")
                _append(made, weight, bias, "identity", None, factor)
            else:
                _append(made, _columns(weight), bias, "half_abs")
        elif name == "clipswish":
            _append(made, weight / registry.CLIPSWISH_SCALE, bias, "lipswish", parameter, factor)
        else:
            _append(made, weight, bias, name, parameter, factor)
    return made


def _append(
    made: Stages,
    weight: Tensor,
    bias: Tensor | None,
    name: str,
    parameter: Tensor | None = None,
    factor: Tensor | None = None,
) -> None:
    made.weights.append(weight)
    made.biases.append(bias)
    made.activations.append(name)
    made.parameters.append(parameter)
    made.factors.append(factor)


def _prepare(made: Stages, weight: Tensor, name: str) -> None:
    """Make the last stage give what the activation takes; of the input itself a stage must be put in front."""
    if not made.weights:
        n_channels = weight.shape[1] if name == "maxmin" else weight.shape[1] // 2
        _append(made, _identity(weight, n_channels), None, "identity")
    change = _rows if name == "maxmin" else _both_signs
    made.weights[-1] = change(made.weights[-1], 0)
    bias = made.biases[-1]
    if bias is not None:
        made.biases[-1] = change(bias, min(bias.dim() - 1, 1))


def _identity(like: Tensor, n_channels: int) -> Tensor:
    eye = torch.eye(n_channels, dtype=like.dtype, device=like.device)
    return eye if like.dim() == 2 else eye[:, :, None, None]


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
