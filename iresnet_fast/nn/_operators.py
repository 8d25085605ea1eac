"""The linear maps of some layers as the ops take them, and what is found of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..geometry import ConvGeometry
from ._layer import SpectralLayer, as_dtype

LOW_PRECISION = (torch.float16, torch.bfloat16)


class Operators(NamedTuple):
    """Linear maps of one dtype and device; half precision is iterated in float32."""

    weights: Sequence[Tensor]
    us: Sequence[Tensor]
    vs: Sequence[Tensor]
    companions: Sequence[Tensor]
    geometry: Sequence[ConvGeometry | None]

    @classmethod
    def of(cls, layers: Sequence[SpectralLayer], weights: Sequence[Tensor]) -> Operators:
        """Return the maps of these weights of the layers, with the vectors of the layers."""
        dtype = torch.float32 if weights[0].dtype in LOW_PRECISION else weights[0].dtype
        buffers: list[Any] = [layer._buffers for layer in layers]  # past the slow __getattr__ of modules
        us, vs, companions = ([as_dtype(own[name], dtype) for own in buffers] for name in ("u", "v", "companion"))
        return cls(
            [as_dtype(weight, dtype) for weight in weights], us, vs, companions, [layer.geometry for layer in layers]
        )

    def some(self, indices: Sequence[int]) -> Operators:
        """Return these of the maps."""
        weights, us, vs, companions = ([tensors[i] for i in indices] for tensors in self[:4])
        return Operators(weights, us, vs, companions, [self.geometry[i] for i in indices])

    def vectors(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return u, v and companion of each map."""
        return list(zip(self.us, self.vs, self.companions, strict=True))

    def without_hints(self) -> Operators:
        """Return the maps with vectors of zeros, which leave the start of an iteration to chance."""
        us, vs, companions = ([torch.zeros_like(vector) for vector in vectors] for vectors in self[1:4])
        return Operators(self.weights, us, vs, companions, self.geometry)


class Norms(NamedTuple):
    """What was found of some maps, in tensors that nothing else writes."""

    sigmas: Tensor  # [layers], what the weights are divided by
    us: Sequence[Tensor]
    vs: Sequence[Tensor]
    companions: Sequence[Tensor]
