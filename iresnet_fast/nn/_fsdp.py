"""Models under torch.distributed.fsdp.fully_shard: all their methods gather parameters, not only forward."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._torch_private import (
    as_fsdp_forward,
    awaits_fsdp_backward,
    end_fsdp_forward,
    is_in_backward,
    is_in_fsdp_forward,
    sharded_parameter_of,
    without_fsdp_hooks,
)
from ._tensors import is_sharded, placed_like

# Methods that use parameters, of all classes here.
_METHODS = (
    "inverse",
    "solve",
    "deferred_inverse",
    "certified_inverse",
    "log_prob",
    "bits_per_dim",
    "sample",
    "sample_and_log_prob",
    "transform_to_noise",
    "reconstruct",
    "interpolate",
    "initialize",
    "features",
    "invert",
    "loss",
)


class Shardable(nn.Module):
    """A module whose methods, once fully_shard has made it an FSDPModule, gather its parameters as forward does.

    FSDP keeps on a module what its call is doing, so that one sharded model must not be used from several threads.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Wrap the methods of the subclass that fully_shard makes."""
        super().__init_subclass__(**options)
        if is_sharded_class(cls):
            cls.__call__ = _calling(cls.__call__)  # type: ignore[method-assign]
            for name in _METHODS:
                if hasattr(cls, name):
                    setattr(cls, name, _gathering(name, getattr(cls, name)))


def _calling(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return `__call__` so that a method which calls its module has the parameters afterwards, in their own dtype."""

    @functools.wraps(plain)
    def call(self: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        if is_in_fsdp_forward(self):
            with without_fsdp_hooks(self):
                return plain(self, *arguments, **keywords)
        return _freeing(self, lambda: plain(self, *arguments, **keywords))

    return call


def _freeing(module: nn.Module, compute: Callable[[], Any]) -> Any:
    """Return what `compute` returns; then nothing stays gathered that no backward pass will free.

    FSDP frees what a call has gathered at its end, or in its backward pass. After a call that has none, as in
    evaluation, or that raises an exception, the next one would take the parameters from before a step of an optimizer.
    """
    has_backward = is_in_backward()  # of a checkpoint, which ends by an exception what it computes again
    try:
        found = compute()
        has_backward |= awaits_fsdp_backward(found)
    finally:
        if not has_backward:
            end_fsdp_forward(module)
    return found


def _gathering(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method as FSDP's own `register_fsdp_forward_method` makes it, which sets it on one instance."""

    @functools.wraps(method)
    def call(self: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        if is_in_fsdp_forward(self):
            return method(self, *arguments, **keywords)
        found = _freeing(self, lambda: as_fsdp_forward(self, method, arguments, keywords))
        return _with_logdet_by_forward(self, found, *arguments, **keywords) if name == "deferred_inverse" else found

    return call


def _with_logdet_by_forward(module: nn.Module, found: Any, z: Tensor, context: Any = None, logdet: bool = True) -> Any:
    """Let the log-determinant of a DeferredInverse come from forward: the parameters it held are freed by now."""
    from ._call import apply_part

    if not logdet:
        return found
    return found._replace(logdet=lambda call: -apply_part(module, found.x, context, call)[1])


def is_sharded_class(cls: type) -> bool:
    """Whether a class is one that fully_shard has made."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # its import is slow, and without it there is none
    return fsdp is not None and issubclass(cls, fsdp.FSDPModule)


def check_not_sharded(branch: nn.Module) -> None:
    """Raise RuntimeError if a branch, or a part of it, is sharded by itself.

    The hooks of fully_shard would take the products with its Jacobian for a backward pass, and free its parameters.
    """
    for name, module in branch.named_modules(prefix="branch"):
        if is_sharded_class(type(module)):
            raise RuntimeError(
                f"{name} must not be sharded by itself where a block takes products with its Jacobian by autograd, got "
                f"a {type(module).__name__}; call fully_shard on the block instead."
            )


def write(parameter: Tensor, values: Tensor) -> None:
    """Write to a parameter, without gradient; also to the part of it that this process keeps under fully_shard."""
    with torch.no_grad():
        part = parameter if is_sharded(parameter) else sharded_parameter_of(parameter)
        if part is not parameter:
            parameter.copy_(values)
        if part is not None:
            part.copy_(placed_like(part, values.to(part.dtype)))
