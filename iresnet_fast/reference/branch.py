"""A residual branch: stages of an activation followed by a linear map, and the walks over them.

a_0 = x,   h_i = f_i phi_i(a_i),   a_{i+1} = A_i h_i + b_i,   g(x) = a_L
D_i = f_i phi_i'(a_i),   J = A_{L-1} D_{L-1} ... A_0 D_0
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from iresnet_fast import _checks
from iresnet_fast import activations as registry
from iresnet_fast._tracing import under_transforms


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

    Arguments, results and errors: those of `iresnet_fast.ops.branch`.
    """
    _checks.check_branch(x, weights, biases, activations, parameters, factors)
    return evaluate(x, weights, biases, activations, parameters, factors)


def evaluate(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    parameters: Sequence[Tensor | None] | None = None,
    factors: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Evaluate the branch without checking its arguments."""
    for i in range(len(weights)):
        h = registry.get(activations[i]).value(x, None if parameters is None else parameters[i])
        factor = None if factors is None else factors[i]
        if factor is not None:
            h = h * spread(factor, x.dim())
        x = linear(h, weights[i], biases[i])
    return x


def linearize(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    parameters: Sequence[Tensor | None] | None = None,
    factors: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, list[Tensor | None]]:
    """Evaluate the branch and keep D_i of every stage, None for an identity without a factor.

    All activations must be elementwise (`is_elementwise`).
    """
    derivatives: list[Tensor | None] = []
    for i in range(len(weights)):
        parameter = None if parameters is None else parameters[i]
        h, d = activate(activations[i], x, parameter, None if factors is None else factors[i])
        derivatives.append(d)
        x = linear(h, weights[i], biases[i])
    return x, derivatives


def activate(
    name: str, a: Tensor, parameter: Tensor | None, factor: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return f phi(a) and f phi'(a), the latter None if it is one: a product with it is left out."""
    activation = registry.get(name)
    h = activation.value(a, parameter)
    f = None if factor is None else spread(factor, a.dim())
    if name == "identity":
        return (h, None) if f is None else (h * f, f.expand(h.shape))
    if activation.derivative is None:
        raise ValueError(
            f"activations must be elementwise for the explicit formula, got {name!r}; use residual_logdet."
        )
    d = activation.derivative(a, parameter, h)
    return (h, d) if f is None else (h * f, d * f)


def is_elementwise(activations: Sequence[str]) -> bool:
    """Whether every activation has an elementwise derivative."""
    return all(registry.get(name).elementwise for name in activations)


def vector_jacobian_product(
    w: Tensor,  # [m, B, *event]; B may be 1 for vectors common to all samples
    weights: Sequence[Tensor],
    derivatives: Sequence[Tensor | None],
) -> Tensor:
    """Return J^T w for m vectors per sample, J frozen in `derivatives`: no vjp of autograd, differentiable by it."""
    for i in reversed(range(len(weights))):
        w = stacked_transpose(w, weights[i])
        d = derivatives[i]
        if d is not None:
            # In place where no graph records w: it is always the fresh product of a linear map.
            recorded = torch.is_grad_enabled() or under_transforms()
            w = w * d if recorded or w.shape[1] != d.shape[0] else w.mul_(d)
    return w


def spread(t: Tensor, dim: int) -> Tensor:
    """Return numbers per sample and channel, [B, C], so that they meet events of `dim` dimensions with the batch."""
    return t[:, :, None, None] if t.dim() == 2 and dim == 4 else t


def linear(h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply the linear map of one stage: A h + b, with a bias of all samples or of each."""
    if bias is not None and bias.dim() > 1:
        return linear(h, weight) + spread(bias, h.dim())
    if weight.dim() == 2:
        return F.linear(h, weight, bias)
    return F.conv2d(h, weight, bias, padding=weight.shape[-1] // 2)


def linear_transpose(r: Tensor, weight: Tensor) -> Tensor:
    """Apply the transposed linear map of one stage: A^T r."""
    if weight.dim() == 2:
        return r @ weight
    return F.conv_transpose2d(r, weight, padding=weight.shape[-1] // 2)


def linear_weight_gradient(h: Tensor, r: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of <r, A h> by the weight, summed over the batch."""
    if weight.dim() == 2:
        return r.t() @ h
    gradient: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        h, list(weight.shape), r, padding=weight.shape[-1] // 2
    )
    return gradient


def stacked_linear(h: Tensor, weight: Tensor) -> Tensor:
    """Apply A to each of the stacked batches h [m, B, *event] in one call."""
    out = linear(h.flatten(0, 1), weight)
    return out.view(*h.shape[:2], *out.shape[1:])


def stacked_transpose(r: Tensor, weight: Tensor) -> Tensor:
    """Apply A^T to each of the stacked batches r [m, B, *event] in one call."""
    out = linear_transpose(r.flatten(0, 1), weight)
    return out.view(*r.shape[:2], *out.shape[1:])
