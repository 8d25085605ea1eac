"""What the package takes from torch's private modules, for want of a public way; each with its reason.

`tests/test_torch_private.py` holds every function to what it promises, so that a new torch which renames or changes
one fails there, by name.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.nn.modules import module as _modules

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


def outside_compiled_graphs(function: _Function) -> _Function:
    """Make torch.compile break its graph before a function, and leave alone what it calls.

    The public `torch.compiler.disable` imports the whole compiler when it decorates; here whoever compiles has done so.
    """
    alone: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*arguments)
        if not alone:
            alone.append(torch.compiler.disable(function))  # type: ignore[no-untyped-call]
        return alone[0](*arguments)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    return cast(_Function, call)


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether a call of the module, or of any module, does more than its forward: hooks before, after or on gradients.

    No public function says so.
    """
    return bool(
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or has_hooks_of_all_modules()
    )


def has_hooks_of_all_modules() -> bool:
    """Whether there are hooks of every module, as of torch.nn.modules.module.register_module_forward_hook."""
    return bool(
        _modules._global_forward_pre_hooks
        or _modules._global_forward_hooks
        or _modules._global_backward_hooks
        or _modules._global_backward_pre_hooks
    )


def is_in_fsdp_forward(module: torch.nn.Module) -> bool:
    """Whether a module that fully_shard has sharded is in its forward, or in a method that counts as one.

    FSDPModule has no public method that says so; running the hooks of forward again inside it would free the
    parameters when the inner call ends.
    """
    return bool(module._get_fsdp_state()._training_state.name == "FORWARD")  # type: ignore[operator]


def sharded_parameter_of(parameter: Tensor) -> Tensor | None:
    """Return the part that fully_shard keeps of a parameter it has gathered; None if it is no such parameter.

    What is written to the gathered one is lost when it is freed, and no public way leads from one to the other.
    """
    if "torch.distributed.fsdp" not in sys.modules:
        return None
    states: Any = sys.modules["torch.distributed._composable_state"]
    for reference in list(states._module_state_mapping.values()):
        state = reference()
        groups = getattr(state, "_fsdp_param_groups", None)  # torch 2.11 has one or none
        for group in [getattr(state, "_fsdp_param_group", None)] if groups is None else groups:
            for known in () if group is None else group.fsdp_params:
                if getattr(known, "_unsharded_param", None) is parameter:
                    return cast(Tensor, known.sharded_param)
    return None
