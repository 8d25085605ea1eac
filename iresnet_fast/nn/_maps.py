"""The spectral layers of a branch of our own making, normalised in one call and ready to apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ._chain import Layer
from ._inputs import check_layer_input
from ._layer import SpectralLayer
from ._tensors import bias_of
from .conv import SpectralConv2d
from .linear import SpectralLinear
from .spectral import effective_weights

Map = Callable[[Tensor], Tensor]


def maps_of(layers: Sequence[nn.Module], x: Tensor) -> list[Map]:
    """Return the layers as maps of fresh normalised weights, for images of the size of x; those with hooks as they are.

    Raises:
        ValueError: x does not fit the first layer.
    """
    check_layer_input(layers[0], x)
    passed_by = [layer for layer in layers if isinstance(layer, SpectralLayer) and layer.why_no_kernels() is None]
    size = x.shape[2:] if x.dim() == 4 else None
    weights = dict(zip(passed_by, effective_weights(passed_by, size), strict=True)) if passed_by else {}
    maps: list[Map] = []
    for layer in layers:
        known = isinstance(layer, (SpectralLinear, SpectralConv2d)) and layer in weights
        maps.append(partial(_apply, layer, weights[layer], bias_of(layer)) if known else layer)  # type: ignore[arg-type,index]
    return maps


def _apply(layer: Layer, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    if isinstance(layer, SpectralLinear):
        return F.linear(x, weight, bias)
    output: Tensor = layer._conv_forward(x, weight, bias)
    return output
