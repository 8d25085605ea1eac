"""The log-determinant and its Neumann gradient by the explicit formula: no graph, no double backward, plain torch.

The primal and the tangents share one product per stage, and so do the two kinds of cotangent in backward:

    tangent    t_0 = v,           t_{i+1} = A_i D_i t_i
    cotangent  r_L = gl y / m,    r_i = D_i A_i^T r_{i+1}
    backward   s_L = gz,          s_i = D_i A_i^T s_{i+1} + E_i t_i (A_i^T r_{i+1})
    dA_i = wgrad([h_i, D_i t_i], [s_{i+1}, r_{i+1}]),    db_i = sum s_{i+1},    dx = gz + s_0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from iresnet_fast import _checks
from iresnet_fast import activations as registry
from iresnet_fast.reference.branch import (
    activate,
    linear_weight_gradient,
    spread,
    stacked_linear,
    stacked_transpose,
    vector_jacobian_product,
)
from iresnet_fast.reference.series import over_events, sample_dot, signed_coefficients


def residual_logdet_explicit(
    x: Tensor,  # [B, d] or [B, C, H, W]
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    probe: Tensor,
    coefficients: Tensor | Sequence[float],
    parameters: Sequence[Tensor | None] | None = None,
    factors: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `residual_logdet(..., gradient="neumann")` returns, without autograd: the fastest plain torch form.

    The value and the gradient are the same numbers up to rounding. Memory is independent of the number of terms.
    Compiles under torch.compile(fullgraph=True). Differentiable once.

    Args:
        x: [B, d] or [B, C, H, W].
        weights: L tensors, [out, in] (dense) or [out, in, k, k] (convolution, odd k, stride 1, zero padding k // 2).
        biases: L tensors, [out], [B, out] or [B, out, H, W], or None each.
        activations: L names of elementwise activations (not "maxmin"), each applied before its linear map.
        probe: v, the shape of x, or [m, *x.shape] for m probes whose estimates are averaged.
        coefficients: q_k, [n] or [B, n]; ones for a truncation.
        parameters: None, or L entries, each None or the activation's learnable scalar.
        factors: None, or L entries, each None or a tensor [B, in] or [B, in, H, W] that multiplies what the activation
            returns.

    Returns:
        z, logdet [B].

    Raises:
        ValueError: a shape, device or name does not fit, or an activation is not elementwise.
        TypeError: a dtype differs from that of x.
    """
    _checks.check_branch(x, weights, biases, activations, parameters, factors)
    _checks.check_probe(probe, x)
    c = signed_coefficients(_checks.check_coefficients(coefficients, x).detach())
    v = probe.detach() if probe.dim() > x.dim() else probe.detach().unsqueeze(0)
    none = (None,) * len(weights)
    tensors = (*weights, *biases, *(parameters or none), *(factors or none))
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *tensors)):
        z, logdet, *_ = _ExplicitLogdet.apply(x, v, c, tuple(activations), *tensors)  # type: ignore[no-untyped-call]
        return z, logdet
    with torch.no_grad():
        z, logdet = _walk(x, v, c, activations, tensors, keep=False)[:2]
    return z, logdet


def _walk(
    x: Tensor,
    v: Tensor,  # [m, B, *event]
    c: Tensor,  # [n, B or 1], (-1)^k q_{k+1}
    activations: Sequence[str],
    tensors: Sequence[Tensor | None],
    keep: bool,
) -> tuple[Tensor, ...]:
    """Return z, logdet, y and, to `keep` for backward, the tensors of each stage as `_stage_tensors` reads them."""
    n_stages, event_ndim = len(activations), x.dim() - 1
    weights, biases, parameters, factors = _split(tensors, n_stages)
    a, t = x, v
    derivatives, kept = [], []
    for i, name in enumerate(activations):
        activation = registry.get(name)
        factor = factors[i]
        f = None if factor is None else spread(factor, x.dim())
        h, d = activate(name, a, parameters[i], factor)
        stacked = torch.cat((h.unsqueeze(0), t if d is None else t * d))
        derivatives.append(d)
        if keep:
            kept.append(stacked)
            if d is not None:
                kept.append(d)
            if not activation.piecewise_linear and activation.second_derivative is not None:
                # phi and phi' themselves, where a factor hides them, are computed again.
                curvature = activation.second_derivative(a, parameters[i], *((h, d) if f is None else ()))
                kept.append((curvature if f is None else curvature * f) * t)
            if activation.parameter_derivatives is not None:
                of_value, of_derivative = activation.parameter_derivatives(a, parameters[i])
                if f is not None:
                    of_value, of_derivative = of_value * f, of_derivative * f
                kept += [of_value, of_derivative * t]
            if f is not None:
                kept.append(_without_factor(activation, a, parameters[i], t))
        out = stacked_linear(stacked, weights[i])
        a, t = out[0], out[1:]
        bias = biases[i]
        if bias is not None:
            shape = (-1, *[1] * (event_ndim - 1))
            a = a.add_(bias.view(shape) if bias.dim() == 1 else spread(bias, a.dim()))
    # <w_k, v> = <w_{k-1}, J v>, and t is J v now: the chain stops one product earlier.
    w, y = v, over_events(c[0], x) * v
    value = c[0] * sample_dot(w, t, event_ndim)
    for k in range(1, c.shape[0]):
        w = vector_jacobian_product(w, weights, derivatives)
        value = value + c[k] / (k + 1) * sample_dot(w, t, event_ndim)
        if keep:
            y = y.addcmul_(over_events(c[k], x), w)
    return x + a, value.mean(0), y, *kept


class _ExplicitLogdet(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, v: Tensor, c: Tensor, activations: tuple[str, ...], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        return _walk(x, v, c, activations, tensors, keep=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        activations, tensors = inputs[3], inputs[4:]
        ctx.activations = activations
        ctx.shapes = [None if p is None else tuple(p.shape) for p in tensors]
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors[: len(activations)], *output[2:])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, gz: Tensor | None, gl: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        n_stages = len(ctx.activations)
        weights, y, kept = ctx.saved_tensors[:n_stages], ctx.saved_tensors[n_stages], ctx.saved_tensors[n_stages + 1 :]
        stages = _stage_tensors(ctx.activations, [shape is not None for shape in ctx.shapes[3 * n_stages :]], kept)
        needs_x, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[4:]
        grads: list[Tensor | None] = [None] * (4 * n_stages)
        n_probes = y.shape[0]
        s = torch.zeros_like(y[0]) if gz is None else gz
        r = torch.zeros_like(y) if gl is None else over_events(gl / n_probes, y[0]) * y
        sr = torch.cat((s.unsqueeze(0), r))
        for i in reversed(range(n_stages)):
            stacked, d, curvature, of_value, of_derivative, of_factor = stages[i]
            if needs[i]:
                grads[i] = linear_weight_gradient(stacked.flatten(0, 1), sr.flatten(0, 1), weights[i])
            if needs[n_stages + i]:
                grads[n_stages + i] = _summed_to(sr[0], ctx.shapes[n_stages + i])
            if i == 0 and not needs_x and not needs[2 * n_stages] and not needs[3 * n_stages]:
                break
            sr = stacked_transpose(sr, weights[i])
            if needs[2 * n_stages + i]:
                total = (sr[0] * of_value).sum() + (sr[1:] * of_derivative).sum()
                grads[2 * n_stages + i] = total.view(ctx.shapes[2 * n_stages + i])
            if needs[3 * n_stages + i]:
                grads[3 * n_stages + i] = _summed_to((sr * of_factor).sum(0), ctx.shapes[3 * n_stages + i])
            bend = None if curvature is None else sr[1:] * curvature
            if d is not None:
                sr = sr.mul_(d)
            if bend is not None:
                sr[0].add_(bend[0] if n_probes == 1 else bend.sum(0))
        gx = None
        if needs_x:
            gx = sr[0] if gz is None else gz + sr[0]
        return gx, None, None, None, *grads


def _without_factor(activation: registry.Activation, a: Tensor, parameter: Tensor | None, t: Tensor) -> Tensor:
    """Return [phi, phi' t]: what the gradient of the factor is taken with."""
    assert activation.derivative is not None
    value = activation.value(a, parameter)
    return torch.cat((value.unsqueeze(0), activation.derivative(a, parameter, value) * t))


def _summed_to(gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the gradient [B, C, ...] of what was spread from [C], [B, C] or its own shape."""
    if len(shape) == 1:
        return gradient.transpose(0, 1).flatten(1).sum(1)
    return gradient.flatten(2).sum(2) if len(shape) < gradient.dim() else gradient


def _split(
    tensors: Sequence[Tensor | None], n_stages: int
) -> tuple[list[Tensor], Sequence[Tensor | None], Sequence[Tensor | None], Sequence[Tensor | None]]:
    weights = [t for t in tensors[:n_stages] if t is not None]
    biases, parameters, factors = (tensors[k * n_stages : (k + 1) * n_stages] for k in (1, 2, 3))
    return weights, biases, parameters, factors


def _stage_tensors(
    activations: Sequence[str], have_factors: Sequence[bool], kept: Sequence[Tensor]
) -> list[tuple[Any, ...]]:
    """Return per stage: [h, D t], D, E t, d h/d beta, d D/d beta t, [phi, phi' t]; None for what it does not have."""
    tensors = iter(kept)
    stages = []
    for name, has_factor in zip(activations, have_factors, strict=True):
        activation = registry.get(name)
        stacked = next(tensors)
        d = None if name == "identity" and not has_factor else next(tensors)
        curvature = None if activation.piecewise_linear else next(tensors)
        pair = (None, None) if activation.parameter_derivatives is None else (next(tensors), next(tensors))
        of_factor = next(tensors) if has_factor else None
        stages.append((stacked, d, curvature, *pair, of_factor))
    return stages
