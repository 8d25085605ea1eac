"""From the arguments users pass to those of the raw ops, and back for gradients."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .. import _library
from .. import activations as registry

_KERNEL_DTYPES = (torch.float32, torch.float64)

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


def apply(function: Any, *arguments: Any) -> Any:
    """Call an autograd.Function, whose own `apply` has no types."""
    return function.apply(*arguments)


_Function = TypeVar("_Function", bound=type[torch.autograd.Function])


def with_signature(function: _Function) -> _Function:
    """Remember the signature of an autograd.Function's forward, which torch otherwise works out in every call."""
    function.forward.__signature__ = inspect.signature(function.forward)  # type: ignore[attr-defined]
    return function


def wants_graph() -> bool:
    """Whether a backward pass must itself be differentiable (create_graph=True, torch.func)."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def differentiable_gradients(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Return the gradients of `inputs` through `function`, a reference, as autograd graphs: for double backward."""
    # Aliases: a path from one input to another through the caller's graph must not count.
    inner = [None if t is None else t.view_as(t) for t in inputs]
    outputs = function(*inner)
    if isinstance(outputs, Tensor):
        outputs = (outputs,)
    used, upstream = zip(*((o, g) for o, g in zip(outputs, grads, strict=False) if g is not None), strict=True)
    wanted = [t for t in inner if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(used, wanted, upstream, create_graph=True, allow_unused=True))
    return [next(found) if t is not None and t.requires_grad else None for t in inner]


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
    gradients: list[Tensor | None] = [None] * len(tensors)
    offset = 0
    for stage in range(n):
        for i in (stage, n + stage, 2 * n + stage):
            tensor = tensors[i]
            if tensor is not None:
                gradients[i] = packed[offset : offset + tensor.numel()].view(tensor.shape)
                offset += tensor.numel()
    return gradients
