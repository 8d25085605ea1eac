"""A part of a chain as a step of `ops.residual_flow`, if a call of it does nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._backend import why_no_kernels
from .._lowering import lowered
from .._steps import Normalize, Rearrange, Residual, Step
from .._torch_private import has_compiled_call, has_hooks
from .._traces import kept_maps_of, maps_for_kernels
from ..estimators import Exact
from ..ops.residual_logdet_exact import is_native
from ._branch import Branch
from ._call import Call
from ._draws import Request
from ._exact_terms import exact_terms_of
from ._inputs import check_branch_input
from ._paths import why_autograd
from .actnorm import ActNorm
from .block import Estimator, InvertibleResidualBlock
from .flatten import Flatten
from .permutation import Permutation
from .squeeze import Squeeze


class AsStep(NamedTuple):
    """A part as a step.

    Attributes:
        step: what it does.
        tensors: those of the step.
        output: of the shape, dtype and device of what comes out; its numbers are not those.
        request: for the probe and the coefficients of a series.
    """

    step: Step
    tensors: Sequence[Tensor | None]
    output: Tensor
    request: Request | None = None


def as_step(part: nn.Module, place: int, x: Tensor, context: Any, call: Call) -> AsStep | None:
    """Return a part as a step; None: it must be called, which also says what is wrong if something is.

    Args:
        part: of a chain.
        place: of the part in the chain.
        x: of the shape, dtype and device of what it would be called with.
        context: of the chain.
        call: of the chain.
    """
    kind = type(part)
    make = _MAKERS.get(kind.forward)
    if make is None or kind.__call__ is not nn.Module.__call__ or "forward" in part.__dict__:
        return None
    if has_hooks(part) or has_compiled_call(part):
        return None
    return make(part, place, x, context, call)


def _actnorm(part: ActNorm, place: int, x: Tensor, context: Any, call: Call) -> AsStep | None:
    if part.context_features or not part.is_known_to_be_initialized():
        return None
    tensors = part.bias, part.log_scale
    if x.dim() not in (2, 4) or not _are_plain(tensors, x) or any(t.shape != x.shape[1:2] for t in tensors):
        return None
    return AsStep(Normalize(), tensors, x)


def _residual(block: InvertibleResidualBlock, place: int, x: Tensor, context: Any, call: Call) -> AsStep | None:
    branch, estimator = block.branch, block.estimator if call.logdet else None
    if why_autograd(branch) is not None or not _has_step(estimator, x) or not _takes(branch, x):
        return None
    assert isinstance(branch, Branch)  # else autograd would be the way
    if why_no_kernels(x, branch.activation_names()) is not None:  # before a network of a context is called
        return None
    stages = lowered(*branch.as_stages(x, context if branch.takes_context else None))
    weights, biases, activations, betas, factors = stages
    given = [t for t in (*weights, *biases, *factors) if t is not None]
    if not _are_plain(given, x):
        return None
    own = (*weights, *biases, *betas, *factors)
    if estimator is None:
        return AsStep(Residual(activations, "none"), own, x)
    if isinstance(estimator, Exact):
        return AsStep(Residual(activations, "exact"), own, x)
    if call.survey is not None:
        return None  # the op returns sums over the blocks of one estimate
    exact = exact_terms_of(estimator, block.training, stages, x)
    if exact.control or exact.n > len(exact.places):
        return None  # the op for a block alone makes more calls of it
    places, maps = maps_for_kernels(exact.places, weights, x.shape[2:], kept_maps_of)
    request = Request(estimator, block.training, place, x)
    return AsStep(Residual(activations, "series", places), (*own, *maps), x, request)


def _rearrangement(
    part: Squeeze | Flatten | Permutation, place: int, x: Tensor, context: Any, call: Call
) -> AsStep | None:
    event = x.shape[1:]
    if len(event) not in (1, 3):
        return None
    places = torch.arange(event.numel(), device=x.device).view(1, *event)
    try:
        moved, _ = part.forward(places)
    except ValueError:
        return None
    shape = tuple(moved.shape[1:])
    output = x if shape == event else x.new_empty(()).expand(x.shape[0], *shape)
    return AsStep(Rearrange(shape), (moved.flatten(),), output)


_MAKERS: dict[Callable[..., Any], Callable[..., AsStep | None]] = {
    ActNorm.forward: _actnorm,
    InvertibleResidualBlock.forward: _residual,
    Flatten.forward: _rearrangement,
    Permutation.forward: _rearrangement,
    Squeeze.forward: _rearrangement,
}


def _has_step(estimator: Estimator | None, x: Tensor) -> bool:
    """Whether the log-determinant is one that the op computes."""
    if isinstance(estimator, Exact):
        return is_native(x)
    return estimator is None or (estimator.gradient == "neumann" and getattr(estimator, "tol", None) is None)


def _takes(branch: nn.Module, x: Tensor) -> bool:
    try:
        check_branch_input(branch, x, "x")
    except (TypeError, ValueError):
        return False
    return True


def _are_plain(tensors: Sequence[Tensor], x: Tensor) -> bool:
    """Whether tensors are of no subclass, such as those that processes share, and of the kind of x."""
    return all(
        type(tensor) in (Tensor, nn.Parameter) and tensor.dtype == x.dtype and tensor.device == x.device
        for tensor in tensors
    )
