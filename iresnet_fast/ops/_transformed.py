"""Kernels inside transforms of torch.func and forward-mode differentiation.

The kernels compute the value, of all samples of a vmap in one call. Derivatives, and the values of weights that differ
from sample to sample of a vmap, are those of the plain-torch twin: the same numbers to rounding, of any order and in
any nesting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._autograd import differentiable_gradients, tangents_of
from .._torch_private import by_vmap, forward_levels
from ..reference.implicit import fold, unfold

_Outputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Kernel:
    """A kernel of some samples and the tensors common to them.

    Attributes:
        value: by the kernels, of plain tensors.
        twin: the same in plain torch.
        axes: of the first arguments, those that differ from sample to sample: where the samples are.
        tangent: of the first argument and its tangent, for one result: its tangent by the kernels; None: by the twin.
    """

    value: Callable[..., _Outputs]
    twin: Callable[..., _Outputs]
    axes: tuple[int, ...] = (0,)
    tangent: Callable[..., Tensor] | None = None


def transformed(kernel: Kernel, *tensors: Tensor | None) -> _Outputs:
    """Return the results of a kernel, samples first in each of them, in any transform."""
    if forward_levels() > 1:  # torch 2.13 gets the tangent of the tangent of an autograd.Function wrong
        return kernel.twin(*tensors)
    result: _Outputs = _Transformed.apply(kernel, *tensors)  # type: ignore[no-untyped-call]
    return result


class _Transformed(torch.autograd.Function):
    @staticmethod
    def forward(kernel: Kernel, *tensors: Tensor | None) -> _Outputs:
        return kernel.value(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Outputs) -> None:
        ctx.kernel = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    @by_vmap
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *differentiable_gradients(ctx.kernel.twin, ctx.saved_tensors, grads, ctx.needs_input_grad[1:])

    @staticmethod
    @by_vmap
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> _Outputs:
        kernel: Kernel = ctx.kernel
        if kernel.tangent is not None and all(tangent is None for tangent in tangents[1:]):
            return (kernel.tangent(ctx.saved_tensors[0], tangents[0], *ctx.saved_tensors[1:]),)
        return tangents_of(kernel.twin, ctx.saved_tensors, tangents)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], kernel: Kernel, *tensors: Tensor | None
    ) -> tuple[_Outputs, tuple[int, ...]]:
        dims, n = in_dims[1:], len(kernel.axes)
        if any(dim is not None for dim in dims[n:]):
            results = torch.func.vmap(kernel.twin, dims)(*tensors)
        else:
            samples = [
                fold(tensor, dim, axis, info.batch_size)
                for tensor, dim, axis in zip(tensors, dims, kernel.axes, strict=False)
            ]
            results = tuple(
                unfold(result, info.batch_size, tensors[0], dims[0], kernel.axes[0])
                for result in transformed(kernel, *samples, *tensors[n:])
            )
        return results, (0,) * len(results)
