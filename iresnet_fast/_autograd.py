"""What every autograd.Function of the package needs: a quick call, and a backward pass that can be differentiated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._torch_private import apply_function
from ._tracing import is_eager


def apply(function: Any, *arguments: Any) -> Any:
    """Call an autograd.Function whose forward has no defaults: its own `apply` looks for them in every call."""
    return apply_function(function, arguments) if is_eager() else function.apply(*arguments)


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
