"""The inverse of x + g(x) for any callable g: fixed point with per-sample stopping, gradient by implicit functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from iresnet_fast import _checks
from iresnet_fast._torch_private import by_vmap, constant
from iresnet_fast._tracing import all_are_done, under_transforms
from iresnet_fast.reference.anderson import Anderson
from iresnet_fast.reference.series import over_events, sample_norm

Map = Callable[[Tensor], Tensor]

# A contraction's residual shrinks at every step until rounding stops it: a sample without a better residual for so many
# evaluations has reached that floor (or the branch is no contraction) and will not converge. Accelerated, it shrinks at
# every update but one that is undone, which the next one follows. Also in iresnet_fast/anderson.h.
PATIENCE, ACCELERATED_PATIENCE = 10, 3


def inverse_of(
    g: Map,
    z: Tensor,  # [B, *event]
    lipschitz: float,
    tol: float = 1e-5,
    max_iterations: int = 1000,
    parameters: Sequence[Tensor] = (),
    compact: bool = False,
    accelerate: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve x + g(x) = z by x <- z - g(x) from x = z (i-ResNet, arXiv 1811.00995, algorithm 1), each sample by itself.

    A sample is frozen as soon as residual / (1 - lipschitz) <= tol, which but for rounding bounds its distance to the
    solution, or when its residual is NaN or has not improved for three evaluations, ten if plain (the floor of
    rounding, or no contraction). The gradient solves (I + J)^T u = grad_x by its Neumann series to the relative
    tolerance `tol`, then dz = u and the parameters get -(dg/dtheta)^T u.

    Args:
        g: the branch, any callable with a Lipschitz constant below one that acts on each sample by itself.
        z: [B, *event].
        lipschitz: Lipschitz constant of g, in [0, 1).
        tol: bound on the Euclidean error of a sample.
        max_iterations: at most so many updates of x.
        parameters: the tensors g closes over that shall get a gradient.
        compact: evaluate g only on the samples not yet frozen; g must accept a batch of any size.
        accelerate: by Anderson's method, safeguarded as `Anderson` describes; False: the plain iteration.

    Returns:
        x, iterations [B] int64 (updates of x), residual [B] = |z - x - g(x)|, as rounded.

    Raises:
        ValueError: lipschitz, tol or max_iterations is out of range.
    """
    settings = Settings(lipschitz, tol, max_iterations, compact, accelerate)
    check_settings(settings)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (z, *parameters)):
        x, iterations, residual = _Inverse.apply(g, settings, z, *parameters)  # type: ignore[no-untyped-call]
        return x, iterations, residual
    with torch.no_grad():
        return iterate(g, z, z, settings)


class Settings(NamedTuple):
    """How to iterate, as `inverse_of` describes."""

    lipschitz: float
    tol: float
    max_iterations: int
    compact: bool
    accelerate: bool


def check_settings(settings: Settings) -> None:
    """Check the numbers of the settings."""
    _checks.check_lipschitz(settings.lipschitz)
    _checks.check_tolerance(settings.tol)
    _checks.check_count("max_iterations", settings.max_iterations, 0)


def iterate(g: Map, z: Tensor, start: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Solve as `inverse_of` does, from x = start, without gradient."""
    lipschitz, tol, max_iterations, compact, accelerate = settings
    threshold = tol * (1.0 - lipschitz)
    accelerate = accelerate and lipschitz > 0.0
    patience = ACCELERATED_PATIENCE if accelerate else PATIENCE
    x = start.clone()
    anderson = Anderson(x, lipschitz) if accelerate else None
    rows = torch.arange(z.shape[0], device=z.device)  # of the samples still iterated
    iterations = torch.zeros_like(rows)
    residual = z.new_zeros(z.shape[0])
    best = torch.full_like(residual, torch.inf)
    waited = torch.zeros_like(rows)  # evaluations since the residual was last the best so far
    for count in range(max_iterations + 1):
        if rows.numel() == 0:
            break
        everyone = rows.numel() == z.shape[0]
        x_rows, z_rows = (x, z) if everyone else (x[rows], z[rows])
        gx = g(x_rows) if compact or everyone else g(x)[rows]
        target = z_rows - gx
        step = target - x_rows
        norm = sample_norm(step, z.dim() - 1)
        undone = torch.zeros_like(norm, dtype=torch.bool)
        if anderson is not None:
            undone = anderson.accept(x_rows, step, norm)
            x[rows], residual[rows] = anderson.x[0], anderson.norm
        else:
            residual[rows] = norm
        iterations[rows] = count
        if count == max_iterations:
            break
        waited[rows] = torch.where(norm < best[rows], 0, waited[rows] + 1)
        best[rows] = torch.minimum(norm, best[rows])
        # `norm > threshold` is false for NaN, which would never get better; that of a step that is undone will.
        going = ((norm > threshold) | undone) & (waited[rows] < patience)
        rows = rows[going]
        if anderson is None:
            x[rows] = target[going]
            continue
        anderson.keep(going)
        # The last evaluation is that of a step which needs no second one.
        x[rows] = anderson.step(undone[going], count + 1 < max_iterations)
    return x, iterations, residual


class _Once(torch.autograd.Function):
    """Hands on a gradient that depends on `sources`; differentiating it is an error, not a wrong number."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, *sources: Tensor | None) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    @by_vmap
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise RuntimeError("residual_inverse is differentiable once, got a second derivative; differentiate x + g(x).")


def differentiable_once(
    gradients: Sequence[Tensor | None], sources: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of a backward pass, such that a second derivative raises."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return tuple(gradients)
    return tuple(None if g is None else _Once.apply(g, *sources) for g in gradients)  # type: ignore[no-untyped-call]


def enough_terms(lipschitz: float, tol: float) -> int:
    """Return how many terms of sum_k (-J)^k right leave out at most tol |right|."""
    return 1 if lipschitz == 0.0 else max(1, math.ceil(math.log(tol * (1.0 - lipschitz)) / math.log(lipschitz)) + 1)


class _Inverse(torch.autograd.Function):
    @staticmethod
    def forward(g: Map, settings: Settings, z: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return iterate(g, z, z, settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.g, ctx.settings = inputs[:2]
        x, iterations, residual = output
        ctx.mark_non_differentiable(iterations, residual)
        # The parameters are saved only for autograd's check that nobody changed them: g holds them itself.
        ctx.save_for_backward(x, *inputs[3:])

    @staticmethod
    @by_vmap
    def backward(ctx: Any, grad_x: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        gradients = _Inverse._gradients(ctx, x, parameters, grad_x.detach())
        return None, None, *differentiable_once(gradients, (grad_x, x, *parameters))

    @staticmethod
    def _gradients(ctx: Any, x: Tensor, parameters: list[Tensor], grad_x: Tensor) -> list[Tensor | None]:
        """Return the gradients of z and of the parameters, without a graph."""
        wanted = [p for p, needed in zip(parameters, ctx.needs_input_grad[3:], strict=True) if needed]
        with torch.enable_grad():
            # A transform, which a backward pass that is vectorised is, lets nobody set requires_grad.
            inner = x.detach() if under_transforms() else x.detach().requires_grad_()
            gx = ctx.g(inner)
        if under_transforms():
            pullback = torch.func.vjp(ctx.g, inner)[1]
        elif not gx.requires_grad:
            return [grad_x, *(None for _ in parameters)]

        def vjp(w: Tensor) -> Tensor:
            if under_transforms():
                return constant(pullback(w)[0])
            product: Tensor = torch.autograd.grad(
                gx, inner, w, retain_graph=True, allow_unused=True, materialize_grads=True
            )[0]
            return product

        u = solve_by_series(vjp, grad_x, ctx.settings.lipschitz, ctx.settings.tol)
        grads = iter(torch.autograd.grad(gx, wanted, -u, allow_unused=True) if wanted and gx.requires_grad else ())
        of_parameters = (next(grads, None) if needed else None for needed in ctx.needs_input_grad[3:])
        return [u if ctx.needs_input_grad[2] else None, *of_parameters]


def solve_by_series(product: Map, right: Tensor, lipschitz: float, tol: float) -> Tensor:
    """Return u = sum_k (-M)^k right, so (I + M) u = right, each sample to the relative tolerance `tol`."""
    event_ndim = right.dim() - 1
    # The terms after w_k sum to at most |w_k| L / (1 - L). Below rounding there is nothing to gain.
    goal = max(tol, torch.finfo(right.dtype).eps) * sample_norm(right, event_ndim)
    ratio = lipschitz / (1.0 - lipschitz)
    u, w = right.clone(), right
    going = sample_norm(w, event_ndim) * ratio > goal
    for _ in range(enough_terms(lipschitz, max(tol, torch.finfo(right.dtype).eps))):
        if all_are_done(going):
            break
        w = -product(w)
        u = torch.where(over_events(going, w), u + w, u)
        going = going & (sample_norm(w, event_ndim) * ratio > goal)
    return u
