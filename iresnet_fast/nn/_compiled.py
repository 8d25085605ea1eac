"""Norms under torch.compile: one opaque operation, which looks after the layers whenever the graph runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._packing import unpack
from ._group import SpectralGroup
from ._layer import Norm, SpectralLayer, layer_of, plain
from ._norms import settle
from ._operators import Operators
from ._tensors import own_weight


def traced_norms(layers: Sequence[SpectralLayer], weights: Sequence[Tensor]) -> list[Norm]:
    """Return sigma, u and v of these weights of the layers as values of the graph being traced.

    torch.compile gets an operation that refreshes the layers as eager code would. A program of torch.export stands for
    itself, without layers: it takes the buffers as they are.

    Raises:
        RuntimeError: it is torch.export, and a layer has never been refreshed.
    """
    if torch.compiler.is_exporting():
        for layer in layers:
            if not layer.is_warm:
                raise RuntimeError("sigma must be known before an export, got none; run the model once.")
        return [(layer.sigma, layer.u, layer.v) for layer in layers]
    like = [layer.u for layer in layers] + [layer.v for layer in layers]
    sigmas, packed = torch.ops.iresnet_fast.refreshed_norms(
        [weight.detach() for weight in weights], [layer.handle for layer in layers]
    )
    vectors = unpack(packed, like)
    return list(zip(sigmas.unbind(), vectors[: len(layers)], vectors[len(layers) :], strict=True))


@torch.library.custom_op("iresnet_fast::refreshed_norms", mutates_args=())
def refreshed_norms(weights: list[Tensor], handles: list[int]) -> tuple[Tensor, Tensor]:
    """Return sigmas [layers], and all u and then all v in one tensor, of layers that have these weights now."""
    layers = [layer_of(handle) for handle in handles]
    us: Sequence[Tensor]
    vs: Sequence[Tensor]
    if all(map(_is_of, weights, layers)):
        seen = SpectralGroup.of(layers).refresh(dict(zip(layers, weights, strict=True)))
        sigmas, us, vs = zip(*(seen[layer].norm for layer in layers), strict=True)
        sigma = torch.stack(sigmas)
    else:  # torch.func.functional_call: the layers stand for their shapes only
        sigma, us, vs, _ = settle(Operators.of(layers, weights), any(layer.strict for layer in layers))
    return sigma, torch.cat([vector.flatten() for vector in (*us, *vs)])


def _is_of(weight: Tensor, layer: SpectralLayer) -> bool:
    """Whether it is the weight of the layer; one that pruning or a parametrisation makes is another in every call."""
    own = own_weight(layer)
    return own is None or weight.data_ptr() == plain(own).data_ptr()


@refreshed_norms.register_fake
def _refreshed_norms_fake(weights: list[Tensor], handles: list[int]) -> tuple[Tensor, Tensor]:
    layers = [layer_of(handle) for handle in handles]
    n = sum(layer.u.numel() + layer.v.numel() for layer in layers)
    return weights[0].new_empty(len(layers)), weights[0].new_empty(n)
