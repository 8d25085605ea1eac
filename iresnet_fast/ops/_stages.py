"""From the arguments users pass to those of the raw ops, and back for gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .. import _capture, _library
from .. import activations as registry
from .._torch_private import apply_function, constant_in_compiled_graphs, is_transformed

_KERNEL_DTYPES = (torch.float32, torch.float64)

_told: set[str] = set()


def kernels_serve(tensor: Tensor, activations: Sequence[str] = ()) -> bool:
    """Whether the compiled kernels serve this tensor and these activations; says once why not if they could not."""
    if _library.backend() != "kernels":
        return False
    reason = why_no_kernels(tensor, activations)
    if reason is None:
        return True
    if not torch.compiler.is_compiling() and reason not in _told:
        _told.add(reason)
        warnings.warn(f"iresnet_fast: {reason}; the plain-torch reference serves it, slower.", stacklevel=4)
    return False


def why_no_kernels(tensor: Tensor, activations: Sequence[str] = ()) -> str | None:
    """Return why the kernels, loaded as they are, cannot serve this tensor and these activations; None if they can."""
    for name in activations:
        if registry.get(name).kernel_id is None:
            return f"activation {name!r} has no kernel"
    device = tensor.device.type
    if device == "cuda" and not _library.HAS_CUDA:
        return f"the CUDA kernels are unavailable ({_library.CUDA_ERROR})"
    if device not in ("cpu", "cuda"):
        return f"there are no kernels for device {device!r}"
    if tensor.dtype not in _KERNEL_DTYPES:
        return f"there are no kernels for {tensor.dtype}"
    return None


def widen(*arguments: Any) -> Any:
    """Return the arguments (tensors, None, sequences of them); under autocast, narrower numbers become float32.

    So torch.amp.custom_fwd(cast_inputs=torch.float32) treats the inputs of a function. The first must be a tensor.
    """
    device = arguments[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return arguments
    return tuple(_widen(argument) for argument in arguments)


def _widen(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.float() if argument.dtype in (torch.float16, torch.bfloat16) else argument
    return argument if argument is None else [_widen(entry) for entry in argument]


FULL_PRECISION = 0


def precision_of(x: Tensor) -> int:
    """Return how exact the products of a branch on x, [B, d] or [B, C, H, W], must be, as the raw ops take it.

    Float32 tensors on a GPU follow torch's own switches, as torch's own layers do: 2 (operands rounded to bf16) under
    autocast to bfloat16, 1 (TF32) where torch.backends.cudnn allows it for convolutions and torch.backends.cuda.matmul
    for dense branches. All else is 0, exact operands. Kernels take a more exact way where it is faster, and their sums
    are never narrower than float32.
    """
    return _float32_precision(x.dim() == 4) if x.is_cuda and x.dtype == torch.float32 else FULL_PRECISION


@constant_in_compiled_graphs
def _float32_precision(convolutional: bool) -> int:
    if torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16:
        return 2
    # Not `allow_tf32`, which raises where both generations of these switches were used.
    backends: Any = torch.backends  # which has no types for all of them
    switch = backends.cudnn.conv if convolutional else backends.cuda.matmul
    return 1 if switch.fp32_precision == "tf32" else FULL_PRECISION


def constants(values: Sequence[float], like: Tensor) -> Tensor:
    """Return the values with the dtype and on the device of `like`.

    On a GPU they are filled in there: a copy from the host would wait for it, and cannot be captured in a CUDA graph.
    """
    if not like.is_cuda and _capture.of(like) is None:
        return like.new_tensor(values)
    if len(set(values)) == 1:
        return like.new_full((len(values),), values[0])
    return torch.stack([like.new_full((), value) for value in values])


def may_read(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor can be looked at: not while a graph is being compiled or captured."""
    return not torch.compiler.is_compiling() and _capture.of(tensor) is None


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
    """Call an autograd.Function whose forward has no defaults: its own `apply` looks for them in every call."""
    return apply_function(function, arguments) if is_eager() else function.apply(*arguments)


def is_eager() -> bool:
    """Whether neither a compiler nor a transform of torch.func looks on."""
    return not (torch.compiler.is_compiling() or is_transformed())


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
    order = [i for stage in range(n) for i in (stage, n + stage, 2 * n + stage) if tensors[i] is not None]
    found = [cast(Tensor, tensors[i]) for i in order]
    gradients: list[Tensor | None] = [None] * len(tensors)
    for i, gradient in zip(order, unpack(packed, found), strict=True):
        gradients[i] = gradient
    return gradients


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the pieces of a packed tensor in the shapes of `like`."""
    # Not by torch's unflatten_dense_tensors, which gives zeros when the compiler of torch 2.11 traces it.
    pieces = packed.split_with_sizes([tensor.numel() for tensor in like])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, like, strict=True)]
