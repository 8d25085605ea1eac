"""The parts of a chain: those in a row that one op can compute are one call of it, all others are called.

What runs together is found in every call, since anybody may hang a hook on a part, replace it or change its estimator
between two of them: nothing about it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _library, ops
from .._backend import why_no_kernels
from .._steps import Rearrange, Step
from .._torch_private import has_fsdp_modules, has_hooks_of_all_modules, is_traced, saved_tensor_hooks
from .._tracing import under_transforms
from ._as_step import AsStep, as_step
from ._call import Call, apply_part
from ._draws import draw_all
from ._transform import total_logdet


def forward_of(parts: Sequence[nn.Module], x: Tensor, context: Any, call: Call) -> tuple[Tensor, Tensor]:
    """Return what the parts of a chain make of x one after the other, and the log-determinant [B] of them all."""
    joins = _may_join(x)
    logdets = []
    first = 0
    while first < len(parts):
        run = _run_from(first, parts, x, context, call) if joins else None
        if run:
            x, logdet = _forward_of_run(run, x, call)
            first += len(run)
        else:
            x, logdet = apply_part(parts[first], x, context, call.part(first))
            first += 1
        logdets.append(logdet)
    return x, total_logdet(logdets, x)


def _may_join(x: Tensor) -> bool:
    """Whether parts may be computed without calling them one by one, as far as it is not a matter of the parts.

    Where saved tensors are packed, every part saves its own: a checkpoint compares what its two calls save, and which
    parts run together may change between them, as the first batch initialises an ActNorm.
    """
    return not (
        torch.compiler.is_compiling()
        or type(x) not in (Tensor, nn.Parameter)
        or under_transforms()
        or is_traced()
        or has_hooks_of_all_modules()
        or has_fsdp_modules()
        or saved_tensor_hooks() is not None
        or _library.backend() != "kernels"
        or why_no_kernels(x) is not None
    )


def _run_from(first: int, parts: Sequence[nn.Module], x: Tensor, context: Any, call: Call) -> list[AsStep]:
    """Return the longest run from a part on: it begins and ends with one that computes, not with a rearrangement."""
    run: list[AsStep] = []
    for place in range(first, len(parts)):
        found = as_step(parts[place], place, x, context, call)
        if found is None or (not run and isinstance(found.step, Rearrange)):
            break
        run.append(found)
        x = found.output
    while run and isinstance(run[-1].step, Rearrange):
        run.pop()
    return run


def _forward_of_run(run: Sequence[AsStep], x: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    steps: tuple[Step, ...] = tuple(found.step for found in run)
    tensors = [tensor for found in run for tensor in found.tensors]
    requests = [found.request for found in run if found.request is not None]
    return ops.residual_flow(x, steps, tensors, draw_all(requests, call))
