"""The exact log-determinant of a residual block from its Jacobian, on the compiled kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import _checks, _library, reference
from .._autocast import widen
from .._autograd import apply, differentiable_gradients, wants_graph
from .._backend import kernels_serve
from .._determinants import inverses, log_abs_det, narrowest_stage
from .._inputs import check_tensor
from .._precision import precision_of
from .._torch_private import by_vmap
from .._tracing import under_transforms
from ..reference.branch import linearize
from ._stages import Stages, apart, is_per_sample, raw, split_gradients
from ._transformed import Kernel, transformed

# By device and dimensions of x: numbers of an event up to which the kernel is never slower than a composition of other
# ops. LAPACK factorises one larger matrix sooner, and images fill fewer lanes with their samples.
_LARGEST_NATIVE = {("cpu", 2): 128, ("cpu", 4): 16}

# Multiplications of all samples that a smaller matrix must save: its derivatives take a dozen calls of torch.
_LEAST_SAVED = 1 << 21

_Outputs = tuple[Tensor, Tensor, Tensor]  # z, logdet, kept for the backward pass
_Settings = tuple[tuple[str, ...], int]  # activations, precision


def residual_logdet_exact(
    x: Tensor,  # [B, d] or [B, C, H, W]
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    parameters: Sequence[Tensor | None] | None = None,
    factors: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return z = x + g(x) and log|det(I + J)|, J = dg/dx, per sample, exactly.

    Takes d products with J^T and B d^2 numbers for events of size d: meant for d up to about 256. If a dense branch has
    a stage of h < d numbers, it is h products and B h^2 numbers, since det(I_d + P Q) = det(I_h + Q P). The gradient is
    trace((I + J)^-1 dJ).

    Args:
        x: [B, d] or [B, C, H, W].
        weights: L tensors, [out, in] (dense) or [out, in, k, k] (convolution, odd k, stride 1, zero padding k // 2).
        biases: L tensors, [out], [B, out] or, for images, [B, out, H, W], or None each.
        activations: L names, each applied before its linear map.
        parameters: None, or L entries, each None or the activation's learnable scalar.
        factors: None, or L entries, each None or a tensor [B, in], for images also [B, in, H, W], that multiplies what
            the activation returns: masks, multiplicative contexts.

    Returns:
        z, logdet [B]. Differentiable in x and all tensors of the stages (a second time through the reference).

    Raises:
        ValueError: a shape, device, name or number of entries does not fit.
        TypeError: a dtype differs from that of x.
    """
    check_tensor(x)
    x, weights, biases, parameters, factors = widen(x, weights, biases, parameters, factors)
    _checks.check_branch(x, weights, biases, activations, parameters, factors)
    looked_at = under_transforms()
    if not kernels_serve(x, activations) or (looked_at and is_per_sample(biases, factors)):
        return reference.residual_logdet_exact(x, weights, biases, activations, parameters, factors)
    stages = Stages.of(x, weights, biases, activations, parameters, factors)
    at, saved = narrowest_stage(stages.tensors[: len(stages.activations)])  # type: ignore[arg-type]  # none is None
    if at > 0 and not looked_at and saved * x.shape[0] >= _LEAST_SAVED:
        return _from_stage(at, x, stages)
    settings = (stages.activations, precision_of(x))
    if looked_at:
        kernel = Kernel(
            lambda x, *tensors: _forward(settings, x, tensors, False)[:2], partial(_twin, stages.activations)
        )
        z, logdet = transformed(kernel, x, *stages.tensors)
        return z, logdet
    if stages.need_gradient(x):
        outputs: _Outputs = apply(_ResidualLogdetExact, settings, x, *stages.tensors)
    else:
        outputs = _forward(settings, x, stages.tensors, False)
    return outputs[0], outputs[1]


def _from_stage(at: int, x: Tensor, stages: Stages) -> tuple[Tensor, Tensor]:
    """Return z and the log-determinant of the product that begins at a stage (see `narrowest_stage`).

    The kernels take it as a branch of identities whose factors are the derivatives of the stages.
    """
    with torch.autocast(x.device.type, enabled=False):
        weights, biases, betas, factors = apart(stages.tensors)
        gx, derivatives = linearize(x, weights, biases, stages.activations, betas, factors)
        weights, derivatives = [*weights[at:], *weights[:at]], [*derivatives[at:], *derivatives[:at]]
        zeros, n = x.new_zeros(x.shape[0], weights[0].shape[1]), len(weights)
        logdet = residual_logdet_exact(zeros, weights, [None] * n, ["identity"] * n, factors=derivatives)[1]
    return x + gx, logdet


def is_native(x: Tensor) -> bool:
    """Whether one kernel does it all; else it is composed of the Jacobian, torch's linear algebra and branch ops."""
    return math.prod(x.shape[1:]) <= _LARGEST_NATIVE.get((x.device.type, x.dim()), -1)


def _forward(settings: _Settings, x: Tensor, tensors: Sequence[Tensor | None], keep: bool) -> _Outputs:
    activations, precision = settings
    branch = raw(activations, tensors)
    if is_native(x):
        outputs: _Outputs = torch.ops.iresnet_fast.residual_logdet_exact(x, *branch, keep)
        return outputs
    jacobian = torch.ops.iresnet_fast.jacobian(x, *branch, precision)
    full = jacobian + torch.eye(jacobian.shape[-1], dtype=x.dtype, device=x.device)
    return x + torch.ops.iresnet_fast.branch(x, *branch, precision), log_abs_det(full), full


def _backward(
    settings: _Settings,
    x: Tensor,
    tensors: Sequence[Tensor | None],
    grad_z: Tensor | None,
    grad_logdet: Tensor | None,
    input_gradient: bool,
    kept: Tensor,
) -> tuple[Tensor, Tensor]:
    activations, precision = settings
    branch = raw(activations, tensors)
    if is_native(x):
        gradients: tuple[Tensor, Tensor] = torch.ops.iresnet_fast.residual_logdet_exact_backward(
            x, *branch, grad_z, grad_logdet, input_gradient, kept
        )
        return gradients
    tangents = cotangents = weight = None
    if grad_logdet is not None:
        # trace(M^-1 dJ) = sum_i <row i of M^-1, dJ e_i>: one pair per basis vector.
        d = kept.shape[-1]
        tangents = torch.eye(d, dtype=x.dtype, device=x.device)[:, None].expand(d, x.shape[0], d)
        tangents = tangents.reshape(d, *x.shape)
        cotangents = inverses(kept).transpose(0, 1).reshape(d, *x.shape)
        weight = grad_logdet * d  # the kernel averages over pairs
    pairs = (tangents, cotangents, weight)
    gradients = torch.ops.iresnet_fast.branch_backward(
        x, *branch, grad_z, *pairs, [], [], None, grad_z is not None, input_gradient, None, precision
    )
    return gradients


def _twin(activations: Sequence[str], x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
    weights, biases, betas, factors = apart(tensors)
    return reference.residual_logdet_exact(x, weights, biases, activations, betas, factors)


class _ResidualLogdetExact(torch.autograd.Function):
    @staticmethod
    def forward(settings: _Settings, x: Tensor, *tensors: Tensor | None) -> _Outputs:
        # A compiled graph would have to know how much is kept, which depends on threads and instruction set.
        return _forward(settings, x, tensors, not torch.compiler.is_compiling())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Outputs) -> None:
        ctx.settings, *tensors = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[2], *tensors)

    @staticmethod
    @by_vmap
    def backward(
        ctx: Any, grad_z: Tensor | None, grad_logdet: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        kept, x, *tensors = ctx.saved_tensors
        if grad_z is None and grad_logdet is None:
            return (None,) * (2 + len(tensors))
        if wants_graph():
            return None, *differentiable_gradients(
                partial(_twin, ctx.settings[0]), (x, *tensors), (grad_z, grad_logdet), ctx.needs_input_grad[1:]
            )
        wanted = ctx.needs_input_grad[1]
        grad_x, packed = _backward(ctx.settings, x, tensors, grad_z, grad_logdet, wanted, kept)
        return None, grad_x if wanted else None, *split_gradients(packed, tensors)


@_library.register_fake("residual_logdet_exact")
def _residual_logdet_exact_fake(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    betas: list[Tensor],
    factors: list[Tensor],
    activations: list[int],
    constants: list[float],
    keep: bool,
) -> _Outputs:
    size = torch.library.get_ctx().new_dynamic_size() if keep else 0
    return x.new_empty(x.shape), x.new_empty(x.shape[0]), x.new_empty(size)


@_library.register_fake("residual_logdet_exact_backward")
def _residual_logdet_exact_backward_fake(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    betas: list[Tensor],
    factors: list[Tensor],
    activations: list[int],
    constants: list[float],
    grad_z: Tensor | None,
    grad_logdet: Tensor | None,
    input_gradient: bool,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor]:
    count = sum(t.numel() for tensors in (weights, biases, betas, factors) for t in tensors)
    return x.new_empty(x.shape if input_gradient else (0,)), x.new_empty(count)


@_library.register_fake("jacobian")
def _jacobian_fake(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    betas: list[Tensor],
    factors: list[Tensor],
    activations: list[int],
    constants: list[float],
    precision: int,
) -> Tensor:
    d = math.prod(x.shape[1:])
    return x.new_empty((x.shape[0], d, d))
