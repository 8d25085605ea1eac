"""The stages of a branch: as an autograd.Function takes them, as the raw ops do, and back for gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .. import activations as registry
from .._packing import unpack


class Stages(NamedTuple):
    """A branch as an autograd.Function takes it: names apart, all tensors in one flat list."""

    activations: tuple[str, ...]
    tensors: tuple[Tensor | None, ...]  # L weights, L biases, L betas

    @classmethod
    def of(
        cls,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        activations: Sequence[str],
        parameters: Sequence[Tensor | None] | None,
    ) -> Stages:
        """Collect checked arguments; an activation whose parameter is left out gets its initial one."""
        betas: list[Tensor | None] = [None] * len(weights) if parameters is None else list(parameters)
        for i, name in enumerate(activations):
            if betas[i] is None and registry.get(name).has_parameter:
                betas[i] = x.new_full((), registry.LIPSWISH_INITIAL_BETA)
        return cls(tuple(activations), (*weights, *biases, *betas))

    def need_gradient(self, *others: Tensor) -> bool:
        """Whether autograd will ask for a gradient of this branch or of `others`."""
        return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (*others, *self.tensors))


def apart(tensors: Sequence[Tensor | None]) -> tuple[Any, Any, Any]:
    """Return weights, biases and betas from their flat list."""
    n = len(tensors) // 3
    return tensors[:n], tensors[n : 2 * n], tensors[2 * n :]


RawBranch = tuple[list[Tensor], list[Tensor], list[Tensor], list[int | None]]


def raw(activations: Sequence[str], tensors: Sequence[Tensor | None]) -> RawBranch:
    """Return weights, biases, betas and ids as the raw ops take them: a missing tensor is one without elements."""
    none = tensors[0].new_empty(0)  # type: ignore[union-attr]
    weights, biases, betas = apart([none if t is None else t for t in tensors])
    return weights, biases, betas, [registry.get(name).kernel_id for name in activations]


def split_gradients(packed: Tensor, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the gradients of `tensors` from the packed result of branch_backward (per stage: weight, bias, beta)."""
    n = len(tensors) // 3
    order = [i for stage in range(n) for i in (stage, n + stage, 2 * n + stage) if tensors[i] is not None]
    found = [cast(Tensor, tensors[i]) for i in order]
    gradients: list[Tensor | None] = [None] * len(tensors)
    for i, gradient in zip(order, unpack(packed, found), strict=True):
        gradients[i] = gradient
    return gradients
