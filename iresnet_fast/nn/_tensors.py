"""The weight of a layer as it is now, whoever makes it: a parameter, pruning, a parametrisation, or many processes."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from .._torch_private import has_fsdp_modules, sharded_parameter_of
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
    sources = layer.parameters() if weight is None else (weight,)
    return all(_part_of(source) is None for source in sources)


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a part of the tensor, a DTensor."""
    if type(tensor) is Tensor or type(tensor) is nn.Parameter:
        return False
    loaded = sys.modules.get("torch.distributed.tensor")  # its import is slow, and without it there is none
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def gathered(tensor: Tensor) -> Tensor:
    """Return a tensor with all its parts; the gradient of a part is the mean over the processes, as of fully_shard."""
    part = _part_of(tensor)
    if part is None:
        return tensor
    from torch.distributed.tensor import DTensor, Partial

    assert isinstance(part, DTensor)
    whole: Tensor = part.full_tensor(grad_placements=[Partial("avg") for _ in part.placements])
    return whole


def placed_like(part: Tensor, values: Tensor) -> Tensor:
    """Return values that all processes have whole, shared out as `part` is, if it is."""
    if not is_sharded(part):
        return values
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(part, DTensor)
    mesh = part.device_mesh
    whole = DTensor.from_local(values.to(part.device), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return whole.redistribute(placements=part.placements)


def _part_of(tensor: Tensor) -> Tensor | None:
    """Return the part that this process has of a tensor, None if it has all of it.

    What fully_shard has gathered for a module that is not being called is not for others: it may be older than the last
    step of an optimizer, gradients of it are lost, and the memory is freed before their backward pass.
    """
    if is_sharded(tensor):
        return tensor
    if not has_fsdp_modules() or torch.compiler.is_compiling():
        return None
    return sharded_parameter_of(tensor, idle=True)
