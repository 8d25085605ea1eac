"""Blocks of a residual flow, and what stands between them, in one call of the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks, _library, reference
from .. import activations as registry
from .._autocast import widen
from .._autograd import apply, differentiable_gradients, wants_graph
from .._backend import kernels_serve
from .._flow_checks import check_steps
from .._inputs import check_floating, check_samples
from .._packing import unpack
from .._steps import Rearrange, Residual, Step
from .._torch_private import by_vmap
from .._tracing import under_transforms
from ._program import Precisions, Program, build_program, program_of, shapes_of
from ._transformed import Kernel, transformed

_Settings = tuple[tuple[Step, ...], Program, int, bool]  # steps, their program, tensors among the draws, keep


def residual_flow(
    x: Tensor,  # [B, d] or [B, C, H, W]
    steps: Sequence[Step],
    tensors: Sequence[Tensor | None],
    draws: Sequence[tuple[Tensor, Tensor]] = (),
) -> tuple[Tensor, Tensor]:
    """Return what the steps make of x one after the other, and the log-determinant [B] of them all.

    One call of the kernels and one node of the graph. z and gradients are the numbers of the steps called one by one.
    Without gradients the memory of two events per sample serves all steps.

    Args:
        x: [B, d] or [B, C, H, W].
        steps: Normalize, Rearrange and Residual of `iresnet_fast._steps`, in order.
        tensors: those of all steps in one list, as each step says; None for a bias or a parameter that is not there.
        draws: of each Residual with a series, in order: its probe, [B, *event] or [m, B, *event], and its coefficients,
            [n] or [B, n], as `residual_logdet` takes them.

    Returns:
        z [B, *event], logdet [B]. Differentiable in x and the tensors (a second time through the reference).

    Raises:
        ValueError: a shape, device, name or number of entries does not fit; the sentence names the step.
        TypeError: a dtype differs from that of x, or a step is none.
    """
    check_floating(x)
    check_samples(x)
    if torch.compiler.is_compiling():
        x, tensors, draws = _widened(x, tensors, draws)
        check_steps(x, steps, tensors, draws)
        return _flow(x, steps, tensors, draws)
    try:
        x, tensors, draws = _widened(x, tensors, draws)
        return _flow(x, steps, tensors, draws)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        refused = error
    # The raw op refuses all that the checks do. They take as long as a small flow, so they run only to say why.
    check_steps(x, steps, tensors, draws)
    raise refused


def _widened(
    x: Tensor, tensors: Sequence[Tensor | None], draws: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Sequence[Tensor | None], Sequence[tuple[Tensor, Tensor]]]:
    """Return the arguments; under autocast, narrower numbers become float32."""
    x, tensors, probes = widen(x, tensors, [probe for probe, _ in draws])
    return x, tensors, [(probe, coefficients) for probe, (_, coefficients) in zip(probes, draws, strict=True)]


def _flow(
    x: Tensor, steps: Sequence[Step], tensors: Sequence[Tensor | None], draws: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    build = build_program if torch.compiler.is_compiling() else program_of
    program = build(tuple(steps), x.dim(), Precisions.of(x))
    looked_at = under_transforms()
    if (
        not kernels_serve(x, program.activations)
        or not program.is_elementwise
        or (program.has_exact and x.is_cuda)
        or (looked_at and any(t is not None and t.dim() > 1 for t in map(tensors.__getitem__, program.per_sample)))
    ):
        check_steps(x, steps, tensors, draws)
        return reference.residual_flow(x, steps, tensors, draws)
    given = [t for probe, coefficients in draws for t in (probe, _checks.check_coefficients(coefficients, x))]
    tensors = list(tensors)
    for place in program.parameters:
        if tensors[place] is None:
            tensors[place] = x.new_full((), registry.LIPSWISH_INITIAL_BETA)
    if looked_at:
        return _transformed(x, tuple(steps), program, tensors, given)
    if torch.is_grad_enabled() and (x.requires_grad or any(t is not None and t.requires_grad for t in tensors)):
        # A compiled graph would have to know how much is kept, which depends on threads, instruction set and GPU.
        settings: _Settings = (tuple(steps), program, len(given), not torch.compiler.is_compiling())
        z, logdet, *_ = apply(_ResidualFlow, settings, *given, x, *tensors)
    else:
        z, logdet, *_ = _forward(program, x, tensors, given, save=False, keep=False)
    return z, logdet


def _pairs(draws: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(draws[::2], draws[1::2], strict=True))


def _raw(x: Tensor, tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """Return the tensors as the raw ops take them: a missing one is one without elements."""
    none = x.new_empty(0)
    return [none if tensor is None else tensor for tensor in tensors]


def _forward(
    program: Program, x: Tensor, tensors: Sequence[Tensor | None], draws: Sequence[Tensor], save: bool, keep: bool
) -> tuple[Tensor, ...]:
    z, logdet, saved, kept = torch.ops.iresnet_fast.residual_flow(
        x, _raw(x, tensors), draws, program.numbers, save, keep
    )
    return z, logdet, saved, *kept


class _ResidualFlow(torch.autograd.Function):
    @staticmethod
    def forward(settings: _Settings, *tensors: Any) -> tuple[Tensor, ...]:
        _, program, n_draws, keep = settings
        x, *others = tensors[n_draws:]
        return _forward(program, x, others, tensors[:n_draws], True, keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.settings, *tensors = inputs
        z, logdet, *saved = output
        ctx.mark_non_differentiable(*saved, *(() if ctx.settings[1].has_logdet else (logdet,)))
        ctx.set_materialize_grads(False)
        ctx.n_saved = len(saved)
        ctx.save_for_backward(z if ctx.settings[1].ends_with_normalize else None, *saved, *tensors)

    @staticmethod
    @by_vmap
    def backward(ctx: Any, grad_z: Tensor | None, grad_logdet: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        steps, program, n_draws, _keep = ctx.settings
        z, *rest = ctx.saved_tensors
        (saved, *kept), tensors = rest[: ctx.n_saved], rest[ctx.n_saved :]
        draws, (x, *tensors) = tensors[:n_draws], tensors[n_draws:]
        needed = ctx.needs_input_grad[1 + n_draws :]
        none = (None,) * (1 + n_draws)
        if grad_z is None and grad_logdet is None:
            return (*none, *[None] * len(needed))
        if wants_graph():

            def flow_of(x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
                return reference.residual_flow(x, steps, tensors, _pairs(draws))

            return (*none, *differentiable_gradients(flow_of, (x, *tensors), (grad_z, grad_logdet), needed))
        grad_x, packed = torch.ops.iresnet_fast.residual_flow_backward(
            x, z, _raw(x, tensors), draws, program.numbers, saved, kept, grad_z, grad_logdet, needed[0]
        )
        return (*none, grad_x if needed[0] else None, *_split_gradients(packed, program, tensors))


def _split_gradients(packed: Tensor, program: Program, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the gradients of the tensors from the packed result of the kernels."""
    places = [place for place in program.packed if tensors[place] is not None]
    gradients: list[Tensor | None] = [None] * len(tensors)
    pieces = unpack(packed, [tensors[place] for place in places])  # type: ignore[misc]  # none of them is None
    for place, gradient in zip(places, pieces, strict=True):
        gradients[place] = gradient
    return gradients


def _transformed(
    x: Tensor, steps: tuple[Step, ...], program: Program, tensors: Sequence[Tensor | None], draws: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the flow in a transform of torch.func."""
    n = len(draws)
    own_shapes = _dims_of_series(steps, x.dim())
    samples = [
        (draw.expand(x.shape[0], -1) if i % 2 else draw if draw.dim() > own_shapes[i // 2] else draw[None])
        for i, draw in enumerate(draws)
    ]

    def value(*arguments: Tensor | None) -> tuple[Tensor, ...]:
        return _forward(program, arguments[n], arguments[n + 1 :], arguments[:n], False, False)[:2]  # type: ignore[arg-type]

    def twin(*arguments: Tensor | None) -> tuple[Tensor, ...]:
        return reference.residual_flow(arguments[n], steps, arguments[n + 1 :], _pairs(arguments[:n]))  # type: ignore[arg-type]

    z, logdet = transformed(Kernel(value, twin, axes=(*(1, 0) * (n // 2), 0)), *samples, x, *tensors)
    return z, logdet


def _dims_of_series(steps: Sequence[Step], dim: int) -> list[int]:
    """Return how many dimensions comes into each series has, of a flow of x of `dim` of them."""
    dims = []
    for step in steps:
        if isinstance(step, Rearrange):
            dim = 1 + len(step.event_shape)
        elif isinstance(step, Residual) and step.logdet == "series":
            dims.append(dim)
    return dims


@_library.register_fake("residual_flow")
def _residual_flow_fake(
    x: Tensor, tensors: list[Tensor], draws: list[Tensor], program: list[int], save: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    event, saved, n_keeping = shapes_of(program, draws, x)
    return (
        x.new_empty((x.shape[0], *event)),
        x.new_empty(x.shape[0]),
        x.new_empty(saved if save else 0),
        [x.new_empty(torch.library.get_ctx().new_dynamic_size()) for _ in range(n_keeping if keep else 0)],
    )


@_library.register_fake("residual_flow_backward")
def _residual_flow_backward_fake(
    x: Tensor,
    z: Tensor | None,
    tensors: list[Tensor],
    draws: list[Tensor],
    program: list[int],
    saved: Tensor,
    kept: list[Tensor],
    grad_z: Tensor | None,
    grad_logdet: Tensor | None,
    input_gradient: bool,
) -> tuple[Tensor, Tensor]:
    n_parameters = sum(tensor.numel() for tensor in tensors if tensor.dtype == x.dtype)
    return x.new_empty(x.shape if input_gradient else 0), x.new_empty(n_parameters)
