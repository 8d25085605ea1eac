"""The explicit formula of reference.residual_logdet_explicit by hand, for what that function does not take.

Stages of MaxMin, whose derivative is a permutation of each pair, of CLipSwish, which doubles the channels, and linear
maps that are one block for each of several nodes: products with the zeros between the blocks are left out, as is the
identity matrix after a mask. This is the fastest plain torch that was found for each, without autograd inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from branch_cases import BranchProblem
from torch import Tensor

from iresnet_fast import activations as registry

Stage = tuple[Any, Any]  # an activation and a linear map
PAIR_SCALE = 1.0 / registry.CLIPSWISH_SCALE


class Elementwise:
    """phi(a), times a factor that gets no gradient."""

    def __init__(self, name: str, factor: Tensor | None) -> None:
        self.entry, self.factor = registry.get(name), factor
        self.is_identity = name == "identity"

    def value(self, a: Tensor, beta: Tensor | None) -> tuple[Tensor, Any]:
        """Return h and what the other methods take: a, D and beta."""
        h = self.entry.value(a, beta)
        d = None if self.is_identity else self.entry.derivative(a, beta, h)
        if self.factor is not None:
            h, d = h * self.factor, self.factor if d is None else d * self.factor
        return h, (a, d, beta)

    def push(self, state: Any, t: Tensor) -> Tensor:
        """Return D t."""
        return t if state[1] is None else t * state[1]

    pull = push

    def bend(self, state: Any, t: Tensor, r: Tensor) -> Tensor | None:
        """Return E t r, summed over probes; None if E is zero."""
        if self.entry.piecewise_linear:
            return None
        a, _, beta = state
        e = self.entry.second_derivative(a, beta)
        if self.factor is not None:
            e = e * self.factor
        return (t * r).sum(0) * e

    def of_beta(self, state: Any, t: Tensor, s: Tensor, r: Tensor) -> Tensor | None:
        """Return the gradient of beta, None without one."""
        return None


class MaxMin:
    """The larger of each pair of channels before the smaller; an odd last channel stays."""

    def value(self, a: Tensor, beta: None) -> tuple[Tensor, Any]:
        pairs = a.shape[1] // 2 * 2
        swap = (a[:, 0:pairs:2] < a[:, 1:pairs:2]).repeat_interleave(2, 1)
        places = torch.arange(a.shape[1])
        source = places.repeat(len(a), 1)
        source[:, :pairs] = torch.where(swap, places[:pairs] ^ 1, places[:pairs])
        return a.gather(1, source), source

    def push(self, state: Tensor, t: Tensor) -> Tensor:
        """Return the permuted t: the permutation is its own inverse and transpose."""
        return t.gather(2, state.expand(t.shape))

    pull = push

    def bend(self, state: Any, t: Tensor, r: Tensor) -> None:
        return None

    def of_beta(self, state: Any, t: Tensor, s: Tensor, r: Tensor) -> None:
        return None


class CLipSwish:
    """[LipSwish(a), LipSwish(-a)] / 1.004."""

    def __init__(self) -> None:
        self.entry = registry.get("lipswish")

    def value(self, a: Tensor, beta: Tensor | None) -> tuple[Tensor, Any]:
        both = torch.cat((a, -a), 1)
        d = self.entry.derivative(both, beta) * PAIR_SCALE
        d[:, a.shape[1] :].neg_()
        return self.entry.value(both, beta) * PAIR_SCALE, (both, d, beta)

    def push(self, state: Any, t: Tensor) -> Tensor:
        return torch.cat((t, t), 2) * state[1]

    def pull(self, state: Any, w: Tensor) -> Tensor:
        upper, lower = (w * state[1]).chunk(2, 2)
        return upper + lower

    def bend(self, state: Any, t: Tensor, r: Tensor) -> Tensor:
        e = self.entry.second_derivative(state[0], state[2]) * PAIR_SCALE
        upper, lower = ((torch.cat((t, t), 2) * r).sum(0) * e).chunk(2, 1)
        return upper + lower

    def of_beta(self, state: Any, t: Tensor, s: Tensor, r: Tensor) -> Tensor:
        of_value, of_derivative = self.entry.parameter_derivatives(state[0], state[2])
        return ((s * of_value).sum() + (r * of_derivative * torch.cat((t, -t), 2)).sum()).view(1) * PAIR_SCALE


class Matrix:
    """The linear map of a weight [out, in]."""

    def apply(self, h: Tensor, weight: Tensor) -> Tensor:
        return h @ weight.t()

    def transpose(self, r: Tensor, weight: Tensor) -> Tensor:
        return r @ weight

    def gradient(self, h: Tensor, r: Tensor) -> Tensor:
        return r.flatten(0, 1).t() @ h.flatten(0, 1)


class Blocks:
    """One row for each node, of its own units: a weight [nodes, units]."""

    def apply(self, h: Tensor, weight: Tensor) -> Tensor:
        return torch.einsum("mbnu,nu->mbn", h.unflatten(2, weight.shape), weight)

    def transpose(self, r: Tensor, weight: Tensor) -> Tensor:
        return (r.unsqueeze(3) * weight).flatten(2)

    def gradient(self, h: Tensor, r: Tensor) -> Tensor:
        return torch.einsum("mbnu,mbn->nu", h.unflatten(2, (r.shape[2], -1)), r)


class Same:
    """No linear map: the stage only multiplies by its factor."""

    def apply(self, h: Tensor, weight: None) -> Tensor:
        return h

    def transpose(self, r: Tensor, weight: None) -> Tensor:
        return r


def by_hand(problem: BranchProblem) -> tuple[list[Stage], list[Tensor | None]]:
    """Return the stages of a dense problem as this file takes them, and their weights, biases and parameters."""
    phis = [
        MaxMin() if name == "maxmin" else CLipSwish() if name == "clipswish" else Elementwise(name, factor)
        for name, factor in zip(problem.activations, problem.factors, strict=True)
    ]
    maps: list[Any] = [Matrix() for _ in phis]
    weights: list[Tensor | None] = list(problem.weights)
    if problem.nodes is not None:
        maps[-2:] = Blocks(), Same()
        weights[-2:] = blocks_of(problem.weights[-2], problem.nodes).requires_grad_(), None
    return list(zip(phis, maps, strict=True)), [*weights, *problem.biases, *problem.parameters]


def blocks_of(weight: Tensor, nodes: int) -> Tensor:
    """Return the blocks [nodes, units] of a block-diagonal matrix [nodes, nodes * units]."""
    return weight.detach().view(nodes, nodes, -1).diagonal().t().contiguous()


class ExplicitByHand(torch.autograd.Function):
    """z and the log-determinant of x, a probe [1, B, d], coefficients with their signs, stages and their tensors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor, c: list[float], stages: list[Stage], *tensors: Tensor | None) -> Any:
        z, logdet, ctx.y, ctx.kept = walk(x, v, c, stages, tensors, keep=True)
        ctx.stages, ctx.tensors = stages, tensors
        return z, logdet

    @staticmethod
    def backward(ctx: Any, gz: Tensor, gl: Tensor) -> Any:
        n, tensors = len(ctx.stages), ctx.tensors
        grads: list[Tensor | None] = [None] * len(tensors)
        sr = torch.cat((gz.unsqueeze(0), gl.view(1, -1, 1) * ctx.y))
        for i in reversed(range(n)):
            (phi, linear), (state, t, stacked) = ctx.stages[i], ctx.kept[i]
            weight, bias, beta = tensors[i], tensors[n + i], tensors[2 * n + i]
            if weight is not None:
                grads[i] = linear.gradient(stacked, sr)
            if bias is not None:
                grads[n + i] = sr[0].sum(0) if bias.dim() == 1 else sr[0]
            sr = linear.transpose(sr, weight)
            if beta is not None:
                grads[2 * n + i] = phi.of_beta(state, t, sr[0], sr[1:])
            bend = phi.bend(state, t, sr[1:])
            sr = phi.pull(state, sr)
            if bend is not None:
                sr[0].add_(bend)
        return gz + sr[0], None, None, None, *grads


def walk(
    x: Tensor, v: Tensor, c: list[float], stages: list[Stage], tensors: Sequence[Tensor | None], keep: bool = False
) -> tuple[Tensor, Tensor, Tensor, list[Any]]:
    """Return z, the log-determinant, the Neumann vectors and what the backward pass takes of every stage."""
    n, a, t = len(stages), x, v
    kept = []
    for i, (phi, linear) in enumerate(stages):
        bias = tensors[n + i]
        h, state = phi.value(a, tensors[2 * n + i])
        stacked = torch.cat((h.unsqueeze(0), phi.push(state, t)))
        kept.append((state, t, stacked) if keep else (state,))
        out = linear.apply(stacked, tensors[i])
        a, t = out[0], out[1:]
        if bias is not None:
            a = a + bias
    w, y = v, c[0] * v
    value = c[0] * (w * t).sum(2)
    for k in range(1, len(c)):
        for i in reversed(range(n)):
            w = stages[i][0].pull(kept[i][0], stages[i][1].transpose(w, tensors[i]))
        value = value + c[k] / (k + 1) * (w * t).sum(2)
        if keep:
            y = y + c[k] * w
    return x + a, value.mean(0), y, kept


def residual_logdet_by_hand(
    x: Tensor, v: Tensor, c: list[float], stages: list[Stage], tensors: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Return z and the log-determinant, differentiable once."""
    if not torch.is_grad_enabled():
        return walk(x, v, c, stages, tensors)[:2]
    return ExplicitByHand.apply(x, v, c, stages, *tensors)
