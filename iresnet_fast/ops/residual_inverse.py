"""The inverse of a residual block by fixed point, on the compiled kernels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks, _library, reference
from .._autocast import widen
from .._autograd import apply, wants_graph
from .._backend import kernels_serve
from .._inputs import check_tensor
from .._precision import FULL_PRECISION
from .._torch_private import by_vmap
from .._tracing import may_read, under_transforms
from ..reference.fixed_point import Settings, enough_terms
from ..reference.implicit import Contraction, gradients_of, implicit_inverse
from ..reference.residual_inverse import contraction_of
from ..reference.series import sample_norm
from ._stages import Stages, is_per_sample, raw, split_gradients

_Outputs = tuple[Tensor, Tensor, Tensor]  # x, iterations, residual
_Settings = tuple[tuple[str, ...], float, float, int, bool]  # activations and the last arguments, in their order


def residual_inverse(
    z: Tensor,  # [B, d] or [B, C, H, W]
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    lipschitz: float,
    tol: float = 1e-5,
    max_iterations: int = 1000,
    parameters: Sequence[Tensor | None] | None = None,
    accelerate: bool = True,
    factors: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve x + g(x) = z by x <- z - g(x) from x = z, each sample until residual / (1 - lipschitz) is at most `tol`.

    That bounds |x - x*| but for rounding (i-ResNet, arXiv 1811.00995, section 2); `inverse_error` gives a bound that
    counts it. The iteration is accelerated by Anderson's method, window 5, safeguarded: a sample takes at most one
    evaluation more than the contraction guarantees (docs/mathematics.md, 5). Converged samples are frozen; a sample
    stops unconverged, which its residual tells, at `max_iterations`, at a NaN, or when three evaluations in a row, ten
    if plain, brought no better residual (the floor of rounding, or no contraction). Gradients to z and all tensors of
    the stages by the implicit function theorem, of any order, to the relative tolerance `tol`.

    The products are full float32 whatever TF32 and autocast allow: narrower operands would hold every residual above
    some 1e-3 of z, and no error near `tol` could be certified.

    On a GPU, a branch too wide to stay on chip takes a few launches an iteration. They are enqueued 16 iterations at a
    time, and before the third piece and every later one the call waits for the last but one: it ends at most 32
    iterations after its last sample. A CUDA graph cannot wait, and records the smaller of `max_iterations` and
    ceil(log eps / log lipschitz) iterations of such a branch (one more if accelerated), after which the residual of a
    contraction is the rounding of the first one (float32: 153 iterations for a constant of 0.9, 1588 for 0.99). A
    sample for which they were too few is seen by its residual, as always. The terms of the backward pass are enqueued
    in pieces too; a graph records as many as `lipschitz` and `tol` call for.

    Args:
        z: [B, d] or [B, C, H, W].
        weights: L tensors, [out, in] (dense) or [out, in, k, k] (convolution, odd k, stride 1, zero padding k // 2).
        biases: L tensors, [out], [B, out] or, for images, [B, out, H, W], or None each.
        activations: L names, each applied before its linear map.
        lipschitz: Lipschitz constant of the branch, in [0, 1).
        tol: bound on the Euclidean error of a sample, in the units of z.
        max_iterations: at most so many updates of x.
        parameters: None, or L entries, each None or the activation's learnable scalar.
        accelerate: False: the plain iteration.
        factors: None, or L entries, each None or a tensor [B, in], for images also [B, in, H, W], that multiplies what
            the activation returns: masks, multiplicative contexts.

    Returns:
        x, iterations [B] int64 (updates of x), residual [B] = |z - x - g(x)| as rounded; the last two without gradient.

    Raises:
        ValueError: a shape, device, name or range does not fit.
        TypeError: a dtype differs from that of z.
    """
    check_tensor(z, "z")
    z, weights, biases, parameters, factors = widen(z, weights, biases, parameters, factors)
    _checks.check_branch(z, weights, biases, activations, parameters, factors, name="z")
    _checks.check_lipschitz(lipschitz)
    _checks.check_tolerance(tol)
    _checks.check_count("max_iterations", max_iterations, 0)
    looked_at = under_transforms()
    if not kernels_serve(z, activations) or (looked_at and is_per_sample(biases, factors)):
        return reference.residual_inverse(
            z, weights, biases, activations, lipschitz, tol, max_iterations, parameters, accelerate, factors
        )
    stages = Stages.of(z, weights, biases, activations, parameters, factors)
    settings = (stages.activations, float(lipschitz), float(tol), max_iterations, bool(accelerate))
    if looked_at:
        return implicit_inverse(_contraction(settings), z, *stages.tensors)
    if stages.need_gradient(z):
        result: _Outputs = apply(_ResidualInverse, settings, z, *stages.tensors)
        return result
    return _forward(settings, z, stages.tensors)


def _forward(settings: _Settings, z: Tensor, tensors: Sequence[Tensor | None]) -> _Outputs:
    activations, lipschitz, tol, max_iterations, accelerate = settings
    result: _Outputs = torch.ops.iresnet_fast.residual_inverse(
        z, *raw(activations, tensors), tol * (1.0 - lipschitz), max_iterations, lipschitz, accelerate, FULL_PRECISION
    )
    return result


def _contraction(settings: _Settings) -> Contraction:
    """Return the branch as transforms take it."""
    activations, lipschitz, tol, max_iterations, accelerate = settings
    return contraction_of(
        activations,
        Settings(lipschitz, tol, max_iterations, True, accelerate),
        lambda z, *tensors: _forward(settings, z, tensors),
    )


class _ResidualInverse(torch.autograd.Function):
    @staticmethod
    def forward(settings: _Settings, z: Tensor, *tensors: Tensor | None) -> _Outputs:
        return _forward(settings, z, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Outputs) -> None:
        ctx.settings, _, *tensors = inputs
        ctx.mark_non_differentiable(output[1], output[2])
        ctx.save_for_backward(output[0], *tensors)

    @staticmethod
    @by_vmap
    def backward(ctx: Any, grad_x: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        if wants_graph():
            needed = ctx.needs_input_grad[2:]
            return None, *gradients_of(_contraction(ctx.settings), x, grad_x, tensors, needed)
        activations, lipschitz, tol, *_ = ctx.settings
        branch = raw(activations, tensors)
        u = _solve_transposed(branch, x, grad_x.detach(), lipschitz, tol)
        _, packed = torch.ops.iresnet_fast.branch_backward(
            x, *branch, u, None, None, None, [], [], None, False, False, None, FULL_PRECISION
        )
        return None, u, *split_gradients(-packed, tensors)


def _solve_transposed(branch: Any, x: Tensor, right: Tensor, lipschitz: float, tol: float) -> Tensor:
    """Solve (I + J)^T u = right: u = sum_k (-1)^k (J^T)^k right is the Neumann vector of the log-determinant's chain.

    What is left out after w_k is at most |w_k| / (1 - lipschitz), so a sample stops when that is below tol |right|.
    """
    tol = max(tol, torch.finfo(x.dtype).eps)  # below rounding there is nothing to gain
    n = enough_terms(lipschitz, tol)
    ones, tail = x.new_ones(n), x.new_full((n,), 1.0 / (1.0 - lipschitz))
    _, _, u, norms, _, _ = torch.ops.iresnet_fast.residual_logdet(
        x, *branch, right[None], ones, [], [], tail, tol, True, True, False, FULL_PRECISION
    )
    if may_read(x):
        # 1.001: the last |w_k| may sit on the bound, to rounding.
        missed = norms[0] / (1.0 - lipschitz) > 1.001 * tol * sample_norm(right, x.dim() - 1)
        if bool(missed.any()):
            warnings.warn(
                f"iresnet_fast: the implicit gradient of residual_inverse did not reach tol = {tol} in {n} terms for "
                f"{int(missed.sum())} samples; the branch is not a contraction with lipschitz = {lipschitz}.",
                RuntimeWarning,
                stacklevel=2,
            )
    return u[0]  # type: ignore[no-any-return]


@_library.register_fake("residual_inverse")
def _residual_inverse_fake(
    z: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    betas: list[Tensor],
    factors: list[Tensor],
    activations: list[int],
    constants: list[float],
    residual_limit: float,
    max_iterations: int,
    lipschitz: float,
    accelerate: bool,
    precision: int,
) -> _Outputs:
    return z.new_empty(z.shape), z.new_empty(z.shape[0], dtype=torch.int64), z.new_empty(z.shape[0])
