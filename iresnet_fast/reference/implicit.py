"""The inverse of x + g(x) as an implicit function that torch can transform: of any order, batched, in any nesting.

x(z, theta) solves x + g(x, theta) = z, so its differential is (I + J)^-1 (dz - dg), dg that of g at a fixed x. A linear
solve with I + J or its transpose is an implicit function too: from (I + M) u = r follows du = (I + M)^-1 (dr - dM u).
The rules of the two functions below are written with the two functions, so that all derivatives follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from iresnet_fast._autograd import differentiable_gradients, tangents_of
from iresnet_fast._torch_private import alive, by_vmap, forward_levels, is_traced, vjp
from iresnet_fast.reference.fixed_point import Settings, iterate, solve_by_series

Solution = tuple[Tensor, Tensor, Tensor]  # x, iterations, residual


@dataclass(frozen=True)
class Contraction:
    """A map g(x, *tensors) of samples, and how x + g(x) = z is solved.

    Attributes:
        g: acts on each sample by itself; it closes over no tensor that a transform may have wrapped.
        settings: of the iteration.
        kernel: solves for (z, *tensors), of samples that share the tensors; None: by evaluations of g.
    """

    g: Callable[..., Tensor]
    settings: Settings
    kernel: Callable[..., Solution] | None = None

    def batched(self, size: int, dims: Sequence[int | None]) -> Contraction:
        """Return the map of the samples of a vmap of this size together, its tensors batched in these dimensions."""
        if self.kernel is not None and all(dim is None for dim in dims):
            return self
        g = torch.func.vmap(self.g, (0, *dims), randomness="different")

        def together(x: Tensor, *tensors: Tensor) -> Tensor:
            return g(unfold(x, size), *tensors).flatten(0, 1)

        return replace(self, g=together, kernel=None, settings=self.settings._replace(compact=False))


def implicit_inverse(contraction: Contraction, z: Tensor, *tensors: Tensor | None) -> Solution:
    """Return x with x + g(x, *tensors) = z, iterations and residual as `fixed_point.inverse_of` does.

    x is differentiable in z and the tensors any number of times, each linear solve to the relative tolerance `tol`.

    Raises:
        RuntimeError: there is forward-mode differentiation inside forward-mode differentiation.
    """
    if forward_levels() > 1:  # torch 2.13 gets the tangent of the tangent of an autograd.Function wrong
        raise RuntimeError(
            "the inverse of a residual block must be differentiated at most once in forward mode, got jvp or jacfwd "
            "inside another; use reverse mode for one of them, as torch.func.hessian does."
        )
    x, iterations, residual = _Inverse.apply(contraction, z, *tensors)  # type: ignore[no-untyped-call]
    return x, iterations, residual


def gradients_of(
    contraction: Contraction, x: Tensor, grad_x: Tensor, tensors: Sequence[Tensor | None], needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of z and of the tensors that need one, from that of x; differentiable likewise."""
    u = solve(contraction, True, x, grad_x, *tensors)
    if not any(needed):
        return u, *(None for _ in tensors)
    return u, *differentiable_gradients(contraction.g, (x, *tensors), (-u,), (False, *needed))[1:]


def solve(contraction: Contraction, transposed: bool, x: Tensor, right: Tensor, *tensors: Tensor | None) -> Tensor:
    """Return u with (I + J) u = right, J = dg/dx at x, or with J transposed; differentiable likewise."""
    result: Tensor = _Solve.apply(contraction, transposed, *alive((x, right, *tensors)))  # type: ignore[no-untyped-call]
    return result


class _Inverse(torch.autograd.Function):
    @staticmethod
    def forward(contraction: Contraction, z: Tensor, *tensors: Tensor | None) -> Solution:
        if contraction.kernel is not None:
            return contraction.kernel(z, *tensors)
        if is_traced():
            raise RuntimeError(
                "the inverse of a residual block in plain torch must read which samples have converged, got a trace by "
                "torch.func.linearize or torch.fx, which reads nothing; use torch.func.jvp."
            )
        with torch.no_grad():
            return iterate(lambda x: contraction.g(x, *tensors), z, z, contraction.settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Solution) -> None:
        ctx.contraction, _, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(output[0], *tensors)
        ctx.save_for_forward(output[0], *tensors)

    @staticmethod
    @by_vmap
    def backward(ctx: Any, grad_x: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        if grad_x is None:
            return (None,) * (2 + len(tensors))
        return None, *gradients_of(ctx.contraction, x, grad_x, tensors, ctx.needs_input_grad[2:])

    @staticmethod
    @by_vmap
    def jvp(ctx: Any, _: None, dz: Tensor | None, *changes: Tensor | None) -> tuple[Tensor, None, None]:
        x, *tensors = ctx.saved_tensors
        right = torch.zeros_like(x) if dz is None else dz
        if any(change is not None for change in changes):
            right = right - tangents_of(ctx.contraction.g, (x, *tensors), (None, *changes))[0]
        return solve(ctx.contraction, False, x, right, *tensors), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], contraction: Contraction, z: Tensor, *tensors: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[int, int, int]]:
        dim, *dims = in_dims[1:]
        together = contraction.batched(info.batch_size, dims)
        found = implicit_inverse(together, fold(z, dim, 0, info.batch_size), *tensors)
        return tuple(unfold(result, info.batch_size, z, dim) for result in found), (0, 0, 0)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        contraction: Contraction, transposed: bool, x: Tensor, right: Tensor, *tensors: Tensor | None
    ) -> Tensor:
        pullback = vjp(lambda a: contraction.g(a, *tensors), x)[1]
        # The pullback is linear, w -> J^T w, and its own pullback is J.
        product = pullback if transposed else vjp(lambda w: pullback(w)[0], torch.zeros_like(right))[1]
        lipschitz, tol = contraction.settings.lipschitz, contraction.settings.tol
        return solve_by_series(lambda w: product(w)[0], right, lipschitz, tol)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.contraction, ctx.transposed, x, _, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, output, *tensors)
        ctx.save_for_forward(x, output, *tensors)

    @staticmethod
    @by_vmap
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        x, u, *tensors = ctx.saved_tensors
        if grad is None:
            return (None,) * (4 + len(tensors))
        w = solve(ctx.contraction, not ctx.transposed, x, grad, *tensors)
        # That of -<w, M u>: M = J^T applied to u, or J^T applied to w.
        left, right = (u, w) if ctx.transposed else (w, u)
        needed = (False, ctx.needs_input_grad[2], *ctx.needs_input_grad[4:])
        gradients = differentiable_gradients(_pullback(ctx.contraction), (left, x, *tensors), (-right,), needed)
        return None, None, gradients[1], w, *gradients[2:]

    @staticmethod
    @by_vmap
    def jvp(ctx: Any, _: None, __: None, dx: Tensor | None, dr: Tensor | None, *changes: Tensor | None) -> Tensor:
        x, u, *tensors = ctx.saved_tensors
        right = torch.zeros_like(u) if dr is None else dr
        if dx is not None or any(change is not None for change in changes):
            product = (_pullback if ctx.transposed else _pushforward)(ctx.contraction)
            right = right - tangents_of(product, (u, x, *tensors), (None, dx, *changes))[0]
        return solve(ctx.contraction, ctx.transposed, x, right, *tensors)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        contraction: Contraction,
        transposed: bool,
        x: Tensor,
        right: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, int]:
        x_dim, right_dim, *dims = in_dims[2:]
        together = contraction.batched(info.batch_size, dims)
        samples = fold(x, x_dim, 0, info.batch_size), fold(right, right_dim, 0, info.batch_size)
        return unfold(solve(together, transposed, *samples, *tensors), info.batch_size, x, x_dim), 0


def _pullback(contraction: Contraction) -> Callable[..., Tensor]:
    """Return (u, x, *tensors) -> J^T u."""

    def product(u: Tensor, x: Tensor, *tensors: Tensor | None) -> Tensor:
        result: Tensor = vjp(lambda a: contraction.g(a, *tensors), x)[1](u)[0]
        return result

    return product


def _pushforward(contraction: Contraction) -> Callable[..., Tensor]:
    """Return (u, x, *tensors) -> J u."""

    def product(u: Tensor, x: Tensor, *tensors: Tensor | None) -> Tensor:
        return tangents_of(lambda a: contraction.g(a, *tensors), (x,), (u,))[0]

    return product


def fold(tensor: Tensor | None, dim: int | None, axis: int, size: int) -> Tensor:
    """Return a tensor of a vmap of this size, its dimension `dim` (None: it has none) before the samples and in one."""
    assert tensor is not None
    if dim is None:
        batched = tensor.unsqueeze(axis).expand(*tensor.shape[:axis], size, *tensor.shape[axis:])
    else:
        batched = tensor.movedim(dim, axis)
    return batched.flatten(axis, axis + 1)


def unfold(tensor: Tensor, size: int, like: Tensor | None = None, dim: int | None = None, axis: int = 0) -> Tensor:
    """Return what `fold` has made into one dimension, the first, as two.

    Args:
        tensor: samples first.
        size: of the vmap.
        like: what was folded, with `dim` and `axis` as there; it tells the number of samples of an empty vmap.
        dim: likewise.
        axis: likewise.
    """
    n = tensor.shape[0] // size if size else 0
    if like is not None:
        n = like.shape[axis if dim is None or axis < dim else axis + 1]
    return tensor.view(size, n, *tensor.shape[1:])
