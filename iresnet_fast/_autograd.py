"""What every autograd.Function of the package needs: a quick call, and derivatives that can be differentiated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ._torch_private import alive, apply_function, vjp
from ._tracing import is_eager, under_transforms


def apply(function: Any, *arguments: Any) -> Any:
    """Call an autograd.Function whose forward has no defaults: its own `apply` looks for them in every call."""
    return apply_function(function, arguments) if is_eager() else function.apply(*arguments)


def wants_graph() -> bool:
    """Whether a backward pass must itself be one that torch can differentiate or vectorise (create_graph, vmap)."""
    return (torch.is_grad_enabled() or under_transforms()) and not torch.compiler.is_compiling()


def differentiable_gradients(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of the inputs that need one through `function`, a reference; differentiable in all."""
    inputs, grads = alive(inputs), alive(grads)
    places = [i for i, need in enumerate(needed) if need]
    if not places or all(grad is None for grad in grads):
        return [None] * len(needed)

    def used(*some: Tensor) -> tuple[Tensor, ...]:
        outputs = function(*_replaced(inputs, places, some))
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple(output for output, grad in zip(outputs, grads, strict=False) if grad is not None)

    pullback = vjp(used, *(inputs[i] for i in places))[1]
    found = iter(pullback(tuple(grad for grad in grads if grad is not None)))
    return [next(found) if need else None for need in needed]


def tangents_of(
    function: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Tensor | None], tangents: Sequence[Any]
) -> tuple[Tensor, ...]:
    """Return the tangents of the results of `function`, a reference, for those of its inputs, None where there is none.

    The pullback is linear, and the pullback of a linear map is its transpose. That, unlike torch.func.jvp, can be had
    inside a level of torch.autograd.forward_ad.
    """
    inputs, tangents = alive(inputs), alive(tangents)
    places = [i for i, tangent in enumerate(tangents) if tangent is not None]

    def outputs_of(*some: Tensor) -> tuple[Tensor, ...]:
        outputs = function(*_replaced(inputs, places, some))
        return (outputs,) if isinstance(outputs, Tensor) else outputs

    outputs, pullback = vjp(outputs_of, *(inputs[i] for i in places))
    transpose = vjp(pullback, tuple(torch.zeros_like(output) for output in outputs))[1]
    (found,) = transpose(tuple(tangents[i] for i in places))
    return cast("tuple[Tensor, ...]", found)


def _replaced(inputs: Sequence[Tensor | None], places: Sequence[int], others: Sequence[Tensor]) -> list[Tensor | None]:
    result = list(inputs)
    for i, other in zip(places, others, strict=True):
        result[i] = other
    return result
