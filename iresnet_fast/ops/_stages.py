"""From the arguments users pass to those of the raw ops, and back for gradients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _library
from .. import activations as registry

_KERNEL_DTYPES = (torch.float32, torch.float64)
_INITIAL_BETA = 0.5

_told: set[str] = set()


def kernels_serve(tensor: Tensor, activations: Sequence[str] = ()) -> bool:
    """Whether the compiled kernels serve this tensor and these activations; says once why not if they could not."""
    if _library.backend() != "kernels":
        return False
    missing = [name for name in activations if registry.get(name).kernel_id is None]
    if missing:
        reason = f"activation {missing[0]!r} has no kernel"
    elif tensor.device.type != "cpu":
        reason = f"there are no kernels for device {tensor.device.type!r}"
    elif tensor.dtype not in _KERNEL_DTYPES:
        reason = f"there are no kernels for {tensor.dtype}"
    else:
        return True
    if not torch.compiler.is_compiling() and reason not in _told:
        _told.add(reason)
        warnings.warn(f"iresnet_fast: {reason}; the plain-torch reference serves it, slower.", stacklevel=4)
    return False


class Stages(NamedTuple):
    """A branch as an autograd.Function takes it: names apart, all tensors in one flat list."""

    activations: tuple[int, ...]  # kernel ids
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
        ids, betas = [], []
        for i, name in enumerate(activations):
            entry = registry.get(name)
            assert entry.kernel_id is not None
            ids.append(entry.kernel_id)
            beta = None if parameters is None else parameters[i]
            betas.append(x.new_full((), _INITIAL_BETA) if beta is None and entry.has_parameter else beta)
        return cls(tuple(ids), (*weights, *biases, *betas))

    def need_gradient(self, *others: Tensor) -> bool:
        """Whether autograd will ask for a gradient of this branch or of `others`."""
        return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (*others, *self.tensors))


RawBranch = tuple[list[Tensor], list[Tensor], list[Tensor], list[int]]


def raw(activations: Sequence[int], tensors: Sequence[Tensor | None]) -> RawBranch:
    """Return weights, biases, betas and ids as the raw ops take them: a missing tensor is one without elements."""
    n = len(activations)
    none = tensors[0].new_empty(0)  # type: ignore[union-attr]
    filled = [none if t is None else t for t in tensors]
    return filled[:n], filled[n : 2 * n], filled[2 * n :], list(activations)


def split_gradients(packed: Tensor, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the gradients of `tensors` from the packed result of branch_backward (per stage: weight, bias, beta)."""
    n = len(tensors) // 3
    gradients: list[Tensor | None] = [None] * len(tensors)
    offset = 0
    for stage in range(n):
        for i in (stage, n + stage, 2 * n + stage):
            tensor = tensors[i]
            if tensor is not None:
                gradients[i] = packed[offset : offset + tensor.numel()].view(tensor.shape)
                offset += tensor.numel()
    return gradients
