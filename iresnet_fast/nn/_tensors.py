"""The weight of a layer as it is now, whoever makes it: a parameter, pruning, a parametrisation, or many processes."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from ._hooks import make_tensors
from ._layer import SpectralLayer


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weight that a call of the layer would use now; afterwards its bias is that of such a call too."""
    make_tensors(layer)
    return gathered(layer.weight)  # type: ignore[arg-type]


def bias_of(layer: nn.Module) -> Tensor | None:
    """Return the bias, after `weight_of`."""
    bias: Any = layer.bias
    return None if bias is None else gathered(bias)


def own_weight(layer: SpectralLayer) -> Tensor | None:
    """Return the weight if it is a parameter, all of it here; None: something makes it."""
    weight = layer._parameters.get("weight")
    return None if weight is None or is_sharded(weight) else weight


def can_take(layer: SpectralLayer) -> bool:
    """Whether the weight can be taken before the layer, and modules around it, are called."""
    if layer.may_remake_tensors():
        return False
    weight = layer._parameters.get("weight")
    return not (any(map(is_sharded, layer.parameters())) if weight is None else is_sharded(weight))


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a part of the tensor, a DTensor."""
    if type(tensor) is Tensor or type(tensor) is nn.Parameter:
        return False
    loaded = sys.modules.get("torch.distributed.tensor")  # its import is slow, and without it there is none
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def gathered(tensor: Tensor) -> Tensor:
    """Return a tensor with all its parts; the gradient of a part is the mean over the processes, as of fully_shard."""
    if not is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import DTensor, Partial

    assert isinstance(tensor, DTensor)
    whole: Tensor = tensor.full_tensor(grad_placements=[Partial("avg") for _ in tensor.placements])
    return whole
