"""What the package takes from torch's private modules, for want of a public way; each with its reason.

`tests/test_torch_private.py` holds every function to what it promises, so that a new torch which renames or changes
one fails there, by name.
"""

from __future__ import annotations

import functools
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch._C._functorch import TransformType, is_legacy_batchedtensor
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad
from torch.nn.modules import module as _modules
from torch.utils._pytree import tree_leaves

_Function = TypeVar("_Function", bound=Callable[..., Any])


def is_transformed() -> bool:
    """Whether a transform of torch.func is at work (vmap, grad, vjp, jvp and those built on them).

    No public function says so. Transforms replace tensors by wrappers, but a call may take none of those, so that its
    arguments do not tell.
    """
    return bool(_are_functorch_transforms_active())


def outside_transforms() -> AbstractContextManager[None]:
    """Compute on plain tensors inside a transform of torch.func: caches must not keep its wrappers.

    torch.func has no way out of a transform.
    """
    return cast(AbstractContextManager[None], torch._C._DisableFuncTorch())


def sees_transforms() -> bool:
    """Whether a transform of torch.func or a level of forward-mode differentiation is at work.

    That is `is_transformed() or forward_levels()` in a tenth of a microsecond, which every call of an op pays.
    """
    return _are_functorch_transforms_active() or forward_ad._current_level >= 0


def forward_levels() -> int:
    """Return how many levels of forward-mode differentiation are at work, by torch.func.jvp or forward_ad.

    The public `forward_ad.unpack_dual` tells of one tensor, and not of one that a transform of torch.func wraps.
    """
    if forward_ad._current_level < 0:
        return 0
    if not is_transformed():
        return 1
    return max(1, sum(level.key() == TransformType.Jvp for level in retrieve_all_functorch_interpreters()))


def is_mapped() -> bool:
    """Whether torch.func.vmap is at work, by itself or within another transform: then a batch is not all samples."""
    return is_transformed() and any(
        level.key() == TransformType.Vmap for level in retrieve_all_functorch_interpreters()
    )


def is_traced() -> bool:
    """Whether torch.func.linearize or torch.fx records the operations, so that no number may be read.

    The public function for this would load the tracer of torch.fx with the package.
    """
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def is_in_backward() -> bool:
    """Whether a backward pass is running in this thread: a checkpoint computes again what it did not keep.

    No public function says so.
    """
    return bool(torch._C._current_graph_task_id() != -1)


def saved_tensor_hooks() -> object:
    """Return what packs the tensors that operations save for backward, as a checkpoint does; None: nothing does.

    No public function says so.
    """
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def vjp(function: Callable[..., Any], *inputs: Any) -> tuple[Any, Callable[..., Any]]:
    """Return what torch.func.vjp does, also where saved tensors are packed, as in a checkpoint, which it refuses.

    What the function saves is then kept as it is. No public function suspends the packing.
    """
    packing: Any = saved_tensor_hooks()
    if packing is None:
        output, pullback, *_ = torch.func.vjp(function, *inputs)
        return output, pullback
    torch._C._autograd._pop_saved_tensors_default_hooks()
    try:
        return vjp(function, *inputs)
    finally:
        torch._C._autograd._push_saved_tensors_default_hooks(*packing)


def constant(tensor: Tensor) -> Tensor:
    """Return a tensor as a constant of every derivative, forward and reverse, inside transforms of torch.func too.

    There the public `Tensor.detach` cuts off the innermost derivative only: the outer ones would go on through it.
    """
    if torch.compiler.is_compiling() or not sees_transforms():
        return tensor.detach()
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
        return tensor.clone()


def alive(tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Return saved tensors, those of a transform that is over replaced by what it had wrapped.

    torch's own operations do so, torch.func.vjp and autograd.Function do not.
    """
    return cast("tuple[Tensor | None, ...]", unwrap_dead_wrappers(tuple(tensors)))


def by_vmap(function: _Function) -> _Function:
    """Let the derivative of an autograd.Function be vectorised by torch.autograd itself.

    `is_grads_batched=True` and `vectorize=True` batch by a mechanism of their own, older than torch.func.vmap, which
    knows no operation but torch's and tells nobody. What it has batched goes through torch.func.vmap.
    """

    @functools.wraps(function)
    def derivative(ctx: Any, *tensors: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(ctx, *tensors)
        for tensor in tensors:
            if _is_batched(tensor):
                break
        else:
            return function(ctx, *tensors)
        sizes: dict[int, int] = {}
        for tensor in tensors:
            sizes |= _batch_sizes(tensor) if _is_batched(tensor) else {}
        levels = sorted(sizes)
        plain = [
            _without_batches(tensor, [(level, sizes[level]) for level in reversed(levels)])
            if _is_batched(tensor)
            else tensor
            for tensor in tensors
        ]
        in_dims = tuple(0 if _is_batched(tensor) else None for tensor in tensors)
        places: list[int] = []

        def vectorised(*tensors: Any) -> tuple[Tensor, ...]:
            result = function(ctx, *tensors)
            outputs = result if isinstance(result, tuple) else (result,)
            places[:] = [i for i, output in enumerate(outputs) if output is not None]
            places.append(len(outputs) if isinstance(result, tuple) else -1)
            return tuple(output for output in outputs if output is not None)

        for _ in levels:
            vectorised = torch.func.vmap(vectorised, in_dims, randomness="different")
        found = vectorised(*plain)
        for level in levels:
            found = tuple(torch._add_batch_dim(output, 0, level) for output in found)
        *places, n = places
        if n < 0:
            return found[0]
        outputs: list[Tensor | None] = [None] * n
        for i, output in zip(places, found, strict=True):
            outputs[i] = output
        return tuple(outputs)

    return cast(_Function, derivative)


def _is_batched(tensor: Tensor | None) -> bool:
    return tensor is not None and is_legacy_batchedtensor(tensor)


def _batch_sizes(tensor: Tensor) -> dict[int, int]:
    """Return the levels at which the older vmap has batched a tensor, with their sizes."""
    sizes = {}
    for level in range(1, 65):  # as many as there can be
        found = torch._remove_batch_dim(tensor, level, 0, 0)
        if found.shape[0] > 0:  # else it was not batched there, and has got a dimension of the size asked for
            sizes[level] = found.shape[0]
            if not _is_batched(found):
                break
    return sizes


def _without_batches(tensor: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Return the tensor with the dimensions of these levels, the last of them first."""
    for level, size in sizes:
        tensor = torch._remove_batch_dim(tensor, level, size, 0)
    return tensor


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
    def call(*arguments: Any, **keywords: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*arguments, **keywords)
        if not alone:
            alone.append(torch.compiler.disable(function))  # type: ignore[no-untyped-call]
        return alone[0](*arguments, **keywords)

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


def has_compiled_call(module: torch.nn.Module) -> bool:
    """Whether `module.compile()` has replaced what a call of the module runs; no public function says so."""
    return module._compiled_call_impl is not None


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


def as_fsdp_forward(module: Any, method: Any, arguments: Any, keywords: Any) -> Any:
    """Call a method of the class of a sharded module between the hooks that FSDP runs before and after forward.

    The public `register_fsdp_forward_method` sets the method on the module, where other threads would find it.
    """
    state = module._get_fsdp_state()
    arguments, keywords = state._pre_forward(module, arguments, keywords)
    return state._post_forward(module, arguments, method(module, *arguments, **keywords))


def awaits_fsdp_backward(found: Any) -> bool:
    """Whether FSDP takes what a forward returned for something that a backward pass may begin at."""
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(found))


@contextmanager
def without_fsdp_hooks(module: Any) -> Iterator[None]:
    """Call a sharded module inside the block without the hooks of FSDP; nothing public tells them from others."""
    state = module._get_fsdp_state()
    before = module._forward_pre_hooks, module._forward_hooks
    handles = state._pre_forward_hook_handle, state._post_forward_hook_handle
    module._forward_pre_hooks, module._forward_hooks = (
        OrderedDict((key, hook) for key, hook in hooks.items() if key != handle.id)
        for hooks, handle in zip(before, handles, strict=True)
    )
    try:
        yield
    finally:
        module._forward_pre_hooks, module._forward_hooks = before


def end_fsdp_forward(module: torch.nn.Module) -> None:
    """Free what a sharded module, and those in it, have gathered, after a forward or in place of the rest of one.

    The public `reshard` does not free it in a forward, the state in which an exception leaves a module.
    """
    for part in module.modules():
        if hasattr(part, "_get_fsdp_state"):
            state: Any = part._get_fsdp_state()  # type: ignore[operator]
            idle = type(state._training_state).IDLE
            state._training_state = idle
            if state._state_ctx.iter_forward_root is state:
                state._state_ctx.iter_forward_root = None
            for group in _fsdp_groups(state):
                group.wait_for_unshard()  # of one that was fetched ahead
                group._training_state = idle
                group.reshard()


@constant_in_compiled_graphs
def has_fsdp_modules() -> bool:
    """Whether this process may hold a module that fully_shard has sharded; every call of a layer asks."""
    states: Any = sys.modules.get("torch.distributed._composable_state")
    return states is not None and bool(states._module_state_mapping.data)


def sharded_parameter_of(parameter: Tensor, idle: bool = False) -> Tensor | None:
    """Return the part that fully_shard keeps of a parameter it has gathered; None if it is no such parameter.

    What is written to the gathered one is lost when it is freed, and no public way leads from one to the other.

    Args:
        parameter: any tensor.
        idle: only if the module that it was gathered for is in no forward now.
    """
    if not has_fsdp_modules():
        return None
    states: Any = sys.modules["torch.distributed._composable_state"]
    for reference in list(states._module_state_mapping.values()):
        for group in _fsdp_groups(reference()):
            if idle and (not group.is_unsharded or group._training_state.name in ("FORWARD", "PRE_BACKWARD")):
                continue
            for known in group.fsdp_params:
                if getattr(known, "_unsharded_param", None) is parameter:
                    return cast(Tensor, known.sharded_param)
    return None


def _fsdp_groups(state: Any) -> list[Any]:
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:  # torch 2.11 has one or none
        groups = [getattr(state, "_fsdp_param_group", None)]
    return [group for group in groups if group is not None]
