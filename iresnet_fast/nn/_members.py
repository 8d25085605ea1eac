"""The norms of weights that a vmap has stacked, as of the models of an ensemble: of each member by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _norms
from ._layer import Norm, SpectralLayer, as_dtype, plain
from ._operators import LOW_PRECISION, Norms, Operators


def is_stacked(weight: Tensor) -> bool:
    """Whether a vmap has wrapped the weight, so that it stands for several."""
    return plain(weight).dim() != weight.dim()


def norms_of_members(layers: Sequence[SpectralLayer], weights: Sequence[Tensor]) -> list[Norm]:
    """Return sigma, u and v of weights like those of the layers, constants of every derivative.

    They are found as those of a layer are whose weight has changed, from its own vectors. Nothing is recorded: no layer
    has so many norms.
    """
    return [
        _NormOfMember.apply(layer, weight, layer.u, layer.v, layer.companion)  # type: ignore[no-untyped-call]
        for layer, weight in zip(layers, weights, strict=True)
    ]


class _NormOfMember(torch.autograd.Function):
    @staticmethod
    def forward(layer: SpectralLayer, weight: Tensor, *vectors: Tensor) -> Norm:
        dtype = torch.float32 if weight.dtype in LOW_PRECISION else weight.dtype
        # There are no vectors where the layers of an ensemble stand on the meta device.
        u, v, companion = (
            as_dtype(torch.zeros_like(vector, device=weight.device) if vector.is_meta else vector, dtype)
            for vector in vectors
        )
        found = _found(layer, Operators([as_dtype(weight, dtype)], [u], [v], [companion], [layer.geometry]))
        norm = (found.sigmas[0], found.us[0], found.vs[0])
        return tuple(as_dtype(value, weight.dtype) for value in norm)  # type: ignore[return-value]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Norm) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, ...]:
        return (None,) * 5

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> tuple[None, ...]:
        return (None,) * 3

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], layer: SpectralLayer, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        members = [
            _NormOfMember.apply(  # type: ignore[no-untyped-call]
                layer, *(t if dim is None else t.select(dim, i) for t, dim in zip(tensors, in_dims[1:], strict=True))
            )
            for i in range(info.batch_size)
        ]
        return tuple(torch.stack(values) for values in zip(*members, strict=True)), (0, 0, 0)


def _found(layer: SpectralLayer, operators: Operators) -> Norms:
    if layer.training and layer.is_warm and not layer.strict:
        most, tol = _norms.steps_for(operators.companions[0].numel(), layer.n_iterations, layer.tol)
        for steps in (most, _norms.MORE_STEPS):
            norms, missed = _norms.follow(operators, steps, tol)
            if missed is None or not bool(missed.any()):
                return norms
    return _norms.settle(operators, layer.strict)
