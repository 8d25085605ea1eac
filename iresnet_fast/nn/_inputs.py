"""What a branch takes: checked by itself and by the block around it, which speaks of its own argument."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .._inputs import check_floating, check_same_kind, check_samples, check_shape


def check_layer_input(layer: nn.Module, x: Tensor, name: str = "x", owner: str = "branch") -> None:
    """Raise unless x is what a linear layer or a convolution takes: [B, in] or [B, in, H, W], its dtype and device."""
    like: Any = layer.bias if layer.bias is not None else layer.weight  # a parametrised weight is computed when read
    check_same_kind(x, like, name, owner)
    width: Any = getattr(layer, "in_features", None)
    shape = x.shape
    if width is not None:
        if len(shape) != 2 or shape[1] != width:
            check_shape(x, (width,), name, owner)
    elif len(shape) != 4 or shape[1] != layer.in_channels:
        check_shape(x, (layer.in_channels, None, None), name, owner)  # type: ignore[arg-type]  # a convolution's


def check_branch_input(branch: nn.Module, x: Tensor, name: str) -> None:
    """Raise unless x can be the input of a branch; one of other modules is taken to have the dtype of its parameters.

    Branches of this package say what they take by a method `check_input(x, name)`.
    """
    known = getattr(branch, "check_input", None)
    if known is not None:
        known(x, name)
        return
    check_samples(x, name)
    like = next(branch.parameters(), None)
    if like is None or not like.is_floating_point():
        check_floating(x, name)
    else:
        check_same_kind(x, like, name, "branch")
