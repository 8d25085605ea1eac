"""What the package takes from torch's private modules, for want of a public way; each with its reason.

`tests/test_torch_private.py` holds every function to what it promises, so that a new torch which renames or changes
one fails there, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

_Function = TypeVar("_Function", bound=Callable[..., Any])


def is_transformed() -> bool:
    """Whether a transform of torch.func is at work (vmap, grad, vjp, jvp and those built on them).

    No public function says so. Transforms replace tensors by wrappers, but a call may take none of those, so that its
    arguments do not tell.
    """
    return bool(torch._C._are_functorch_transforms_active())


def outside_transforms() -> AbstractContextManager[None]:
    """Compute on plain tensors inside a transform of torch.func: caches must not keep its wrappers.

    torch.func has no way out of a transform.
    """
    return cast(AbstractContextManager[None], torch._C._DisableFuncTorch())


def in_forward_mode() -> bool:
    """Whether forward-mode differentiation is at work: a level of torch.autograd.forward_ad, or torch.func.jvp.

    The public `forward_ad.unpack_dual` tells it of a tensor only, and not of one that a transform of torch.func wraps.
    """
    return forward_ad._current_level >= 0


def constant(tensor: Tensor) -> Tensor:
    """Return a tensor as a constant of every derivative, forward and reverse, inside transforms of torch.func too.

    There the public `Tensor.detach` cuts off the innermost derivative only: the outer ones would go on through it.
    """
    if torch.compiler.is_compiling() or not (is_transformed() or in_forward_mode()):
        return tensor.detach()
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
        return tensor.clone()


def alive(tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Return saved tensors, those of a transform that is over replaced by what it had wrapped.

    torch's own operations do so, torch.func.vjp and autograd.Function do not.
    """
    return cast("tuple[Tensor | None, ...]", unwrap_dead_wrappers(tuple(tensors)))


def apply_function(function: type[torch.autograd.Function], arguments: tuple[Any, ...]) -> Any:
    """Do what `function.apply(*arguments)` does outside transforms, for a forward without default values.

    The public `apply` binds the arguments to the signature of forward, by `inspect`, in every call. As there, a wrapper
    that outlived its transform is replaced by its tensor.
    """
    return super(torch.autograd.Function, function).apply(*unwrap_dead_wrappers(arguments))  # type: ignore[misc]


def copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source to its target, on a GPU in a launch or two for them all.

    The public `Tensor.copy_` takes a launch for each, some hundred for the norms of a model. torch's own optimizers use
    this function.
    """
    torch._foreach_copy_(targets, sources)


def constant_in_compiled_graphs(function: _Function) -> _Function:
    """Make torch.compile call a function while it traces, and take the result for a constant.

    The public `torch.compiler.assume_constant_result` sets the same mark, but imports the whole compiler to do so: a
    second and 70 MB for all who import this package.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
