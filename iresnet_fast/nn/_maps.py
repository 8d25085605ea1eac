"""The spectral layers of a branch of our own making, normalised in one call and ready to apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from .conv import SpectralConv2d
from .linear import SpectralLinear
from .spectral import effective_weights

Layer = SpectralLinear | SpectralConv2d
Map = Callable[[Tensor], Tensor]


def maps_of(layers: Sequence[Layer], x: Tensor) -> list[Map]:
    """Return the layers as maps of fresh normalised weights, for images of the size of x."""
    for layer in layers:
        if isinstance(layer, SpectralConv2d):
            layer.set_image_size(x.shape[2:])
    return [partial(_apply, layer, weight) for layer, weight in zip(layers, effective_weights(layers), strict=True)]


def _apply(layer: Layer, weight: Tensor, x: Tensor) -> Tensor:
    if isinstance(layer, SpectralLinear):
        return F.linear(x, weight, layer.bias)
    output: Tensor = layer._conv_forward(x, weight, layer.bias)
    return output


def inputs_of(layer: Layer) -> int:
    """Return the input channels of a layer."""
    return layer.in_features if isinstance(layer, SpectralLinear) else layer.in_channels


def outputs_of(layer: Layer) -> int:
    """Return the output channels of a layer."""
    return layer.out_features if isinstance(layer, SpectralLinear) else layer.out_channels
