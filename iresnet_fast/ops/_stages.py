"""The stages of a branch: as an autograd.Function takes them, as the raw ops do, and back for gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .. import activations as registry
from .._lowering import lowered
from .._packing import unpack


class Stages(NamedTuple):
    """A branch as an autograd.Function takes it: names apart, all tensors in one flat list."""

    activations: tuple[str, ...]
    tensors: tuple[Tensor | None, ...]  # L weights, L biases, L betas, L factors

    @classmethod
    def of(
        cls,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        activations: Sequence[str],
        parameters: Sequence[Tensor | None] | None,
        factors: Sequence[Tensor | None] | None,
    ) -> Stages:
        """Collect checked arguments as elementwise stages; a parameter that is left out gets its initial value."""
        stages = lowered(weights, biases, activations, parameters, factors)
        betas = stages.parameters
        for i, name in enumerate(stages.activations):
            if betas[i] is None and registry.get(name).has_parameter:
                betas[i] = x.new_full((), registry.LIPSWISH_INITIAL_BETA)
        return cls(tuple(stages.activations), (*stages.weights, *stages.biases, *betas, *stages.factors))

    def need_gradient(self, *others: Tensor) -> bool:
        """Whether autograd will ask for a gradient of this branch or of `others`."""
        return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (*others, *self.tensors))


def is_per_sample(biases: Sequence[Tensor | None], factors: Sequence[Tensor | None] | None) -> bool:
    """Whether a bias or a factor differs from sample to sample, for which a transform would need another axis."""
    return any(t is not None and t.dim() > 1 for t in (*biases, *(factors or ())))


def apart(tensors: Sequence[Tensor | None]) -> tuple[Any, Any, Any, Any]:
    """Return weights, biases, betas and factors from their flat list."""
    n = len(tensors) // 4
    return tensors[:n], tensors[n : 2 * n], tensors[2 * n : 3 * n], tensors[3 * n :]


RawBranch = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], list[int | None], list[float]]


def raw(activations: Sequence[str], tensors: Sequence[Tensor | None]) -> RawBranch:
    """Return the branch as the raw ops take it: a missing tensor is one without elements."""
    none = tensors[0].new_empty(0)  # type: ignore[union-attr]
    entries = [registry.get(name) for name in activations]
    lists = apart([none if t is None else t for t in tensors])
    return *lists, [entry.kernel_id for entry in entries], [entry.constant for entry in entries]


def split_gradients(packed: Tensor, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the gradients of `tensors` from the packed result of branch_backward, in which stage follows stage."""
    n = len(tensors) // 4
    order = [i for stage in range(n) for i in range(stage, 4 * n, n) if tensors[i] is not None]
    found = [cast(Tensor, tensors[i]) for i in order]
    gradients: list[Tensor | None] = [None] * len(tensors)
    for i, gradient in zip(order, unpack(packed, found), strict=True):
        gradients[i] = gradient
    return gradients
