"""The branch g(x) on the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks, _library, reference
from .._autocast import widen
from .._autograd import apply, differentiable_gradients, tangents_of, wants_graph
from .._backend import kernels_serve
from .._inputs import check_tensor
from .._precision import precision_of
from .._torch_private import by_vmap
from .._tracing import under_transforms
from ._stages import Stages, apart, is_per_sample, raw, split_gradients
from ._transformed import Kernel, transformed

_Settings = tuple[tuple[str, ...], int]  # activations, precision


def branch(
    x: Tensor,  # [B, d] or [B, C, H, W]
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    parameters: Sequence[Tensor | None] | None = None,
    factors: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Evaluate the branch g(x).

    Equivalent to: for each stage, `x = linear(factor * activation(x), weight, bias)`.

    Args:
        x: [B, d] or [B, C, H, W].
        weights: L tensors, [out, in] (dense) or [out, in, k, k] (convolution, odd k, stride 1, zero padding k // 2).
        biases: L tensors, [out], [B, out] or, for images, [B, out, H, W], or None each.
        activations: L names, each applied before its linear map.
        parameters: None, or L entries, each None or the activation's learnable scalar.
        factors: None, or L entries, each None or a tensor [B, in], for images also [B, in, H, W], that multiplies what
            the activation returns: masks, multiplicative contexts.

    Returns:
        g(x), the shape of x; differentiable in x and all tensors of the stages (a second time through the reference).

    Raises:
        ValueError: a shape, device, activation or number of entries does not fit.
        TypeError: a dtype differs from that of x, or x is not floating point.
    """
    check_tensor(x)
    x, weights, biases, parameters, factors = widen(x, weights, biases, parameters, factors)
    _checks.check_branch(x, weights, biases, activations, parameters, factors)
    looked_at = under_transforms()
    if not kernels_serve(x, activations) or (looked_at and is_per_sample(biases, factors)):
        return reference.branch(x, weights, biases, activations, parameters, factors)
    stages = Stages.of(x, weights, biases, activations, parameters, factors)
    settings = (stages.activations, precision_of(x))
    if looked_at:
        return transformed(_kernel(settings), x, *stages.tensors)[0]
    if stages.need_gradient(x):
        result: Tensor = apply(_Branch, settings, x, *stages.tensors)
        return result
    return _forward(settings, x, stages.tensors)


def _forward(settings: _Settings, x: Tensor, tensors: Sequence[Tensor | None]) -> Tensor:
    activations, precision = settings
    result: Tensor = torch.ops.iresnet_fast.branch(x, *raw(activations, tensors), precision)
    return result


def _kernel(settings: _Settings) -> Kernel:
    """Return the branch as transforms take it; the tangent pass of the kernels is that of its input."""
    activations, precision = settings

    def twin(x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        weights, biases, betas, factors = apart(tensors)
        return (reference.branch(x, weights, biases, activations, betas, factors),)

    def product(x: Tensor, v: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        powers = torch.ops.iresnet_fast.jacobian_powers(x, *raw(activations, tensors), v, 1, False, precision)
        return (powers[0],)

    def product_twin(x: Tensor, v: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return tangents_of(lambda a: twin(a, *tensors), (x,), (v,))

    def tangent(x: Tensor, v: Tensor, *tensors: Tensor | None) -> Tensor:
        return transformed(Kernel(product, product_twin, axes=(0, 0)), x, v, *tensors)[0]

    return Kernel(lambda x, *tensors: (_forward(settings, x, tensors),), twin, axes=(0,), tangent=tangent)


class _Branch(torch.autograd.Function):
    @staticmethod
    def forward(settings: _Settings, x: Tensor, *tensors: Tensor | None) -> Tensor:
        return _forward(settings, x, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.activations, ctx.precision = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    @by_vmap
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        if wants_graph():

            def branch_of(x: Tensor, *tensors: Tensor | None) -> Tensor:
                weights, biases, betas, factors = apart(tensors)
                return reference.branch(x, weights, biases, ctx.activations, betas, factors)

            return None, *differentiable_gradients(branch_of, (x, *tensors), (grad,), ctx.needs_input_grad[1:])
        grad_x, packed = torch.ops.iresnet_fast.branch_backward(
            x,
            *raw(ctx.activations, tensors),
            grad,
            None,
            None,
            None,
            [],
            [],
            None,
            False,
            ctx.needs_input_grad[1],
            None,
            ctx.precision,
        )
        return None, grad_x if ctx.needs_input_grad[1] else None, *split_gradients(packed, tensors)


@_library.register_fake("branch")
def _branch_fake(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    betas: list[Tensor],
    factors: list[Tensor],
    activations: list[int],
    constants: list[float],
    precision: int,
) -> Tensor:
    return x.new_empty((x.shape[0], weights[-1].shape[0], *x.shape[2:]))


@_library.register_fake("branch_backward")
def _branch_backward_fake(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    betas: list[Tensor],
    factors: list[Tensor],
    activations: list[int],
    constants: list[float],
    grad: Tensor | None,
    tangents: Tensor | None,
    cotangents: Tensor | None,
    weight: Tensor | None,
    maps: list[Tensor],
    stages: list[int],
    coefficients: Tensor | None,
    residual: bool,
    input_gradient: bool,
    kept: Tensor | None,
    precision: int,
) -> tuple[Tensor, Tensor]:
    count = sum(t.numel() for t in (*weights, *biases, *betas, *factors, *maps))
    return x.new_empty(x.shape if input_gradient else 0), x.new_empty(count)
