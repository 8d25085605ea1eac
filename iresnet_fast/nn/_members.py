"""The norms of weights that a vmap has stacked, as of the models of an ensemble: of each member by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._layer import Norm, SpectralLayer, as_dtype, plain
from ._norms import settle
from ._operators import LOW_PRECISION, Operators


def is_stacked(weight: Tensor) -> bool:
    """Whether a vmap has wrapped the weight, so that it stands for several."""
    return plain(weight).dim() != weight.dim()


def norms_of_members(layers: Sequence[SpectralLayer], weights: Sequence[Tensor]) -> list[Norm]:
    """Return sigma, u and v of weights like those of the layers, constants of every derivative.

    They are found from nothing but the weights, as outside training. Nothing is recorded: no layer has so many norms.
    """
    return [
        _NormOfMember.apply(layer, weight)  # type: ignore[no-untyped-call]
        for layer, weight in zip(layers, weights, strict=True)
    ]


class _NormOfMember(torch.autograd.Function):
    @staticmethod
    def forward(layer: SpectralLayer, weight: Tensor) -> Norm:
        dtype = torch.float32 if weight.dtype in LOW_PRECISION else weight.dtype
        u, v = (torch.zeros(vector.shape, dtype=dtype, device=weight.device) for vector in (layer.u, layer.v))
        companion = torch.zeros_like(min(v, u, key=torch.Tensor.numel))
        operator = Operators([as_dtype(weight, dtype)], [u], [v], [companion], [layer.geometry])
        found = settle(operator, layer.strict)
        norm = (found.sigmas[0], found.us[0], found.vs[0])
        return tuple(as_dtype(value, weight.dtype) for value in norm)  # type: ignore[return-value]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Norm) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, None]:
        return None, None

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> tuple[None, None, None]:
        return None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[None, int], layer: SpectralLayer, weight: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, int, int]]:
        members = [_NormOfMember.apply(layer, member) for member in weight.unbind(in_dims[1])]  # type: ignore[no-untyped-call]
        return tuple(torch.stack(values) for values in zip(*members, strict=True)), (0, 0, 0)
