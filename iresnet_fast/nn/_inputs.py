"""What a branch takes: checked by itself and by the block around it, which speaks of its own argument."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from .._inputs import check_floating, check_same_kind, check_samples, check_shape, check_tensor, described


def check_layer_input(layer: nn.Module, x: Tensor, name: str = "x", expansion: int = 1) -> None:
    """Raise unless x is what a linear layer or a convolution takes: [B, in] or [B, in, H, W], its dtype and device.

    Args:
        layer: the layer.
        x: its input, but for an activation.
        name: what the caller calls it.
        expansion: how many channels the activation makes of each.
    """
    if isinstance(layer, nn.Linear):
        check_same_kind(x, _a_parameter(layer), name, "branch")
        check_shape(x, (layer.in_features // expansion,), name, "branch")
    elif isinstance(layer, nn.Conv2d):
        check_same_kind(x, _a_parameter(layer), name, "branch")
        check_shape(x, (layer.in_channels // expansion, None, None), name, "branch")
    else:  # somebody has put another one in its place
        check_floating(x, name)
        check_samples(x, name)


def _a_parameter(layer: nn.Module) -> Tensor:
    """Return a parameter; not `layer.weight`, which may be computed whenever it is read."""
    own = layer._parameters
    for name in ("bias", "weight"):
        parameter = own.get(name)
        if parameter is not None:
            return parameter
    return next(layer.parameters())


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
    first = branch[0] if isinstance(branch, nn.Sequential) and len(branch) else branch
    if isinstance(first, nn.Linear) and x.shape[-1] != first.in_features:
        sizes = f"[B, ..., {first.in_features}]"
        raise ValueError(
            f"{name} must have shape {sizes}, got {tuple(x.shape)}; reshape it or build the branch for it."
        )
    if isinstance(first, nn.Conv2d):
        check_shape(x, (first.in_channels, None, None), name, "branch")


def check_branch_output(gx: Tensor, x: Tensor, branch: nn.Module) -> None:
    """Raise unless a branch returned the shape of x: another one could broadcast, and z would be wrong."""
    if not isinstance(gx, Tensor):
        raise TypeError(f"branch must return a tensor, got {described(gx)} from {type(branch).__name__}; change it.")
    if gx.shape != x.shape:
        raise ValueError(
            f"branch must return the shape of its input, {tuple(x.shape)}, got {tuple(gx.shape)} from "
            f"{type(branch).__name__}; change its last layer."
        )


def check_takes_context(branch: nn.Module, x: Tensor, context: Any) -> None:
    """Raise ValueError if there is a context and the forward of the branch has no place for it."""
    if context is None:
        return
    try:
        inspect.signature(branch.forward).bind(x, context)
    except TypeError:
        raise ValueError(
            f"context must be None for a branch that takes none, got one for {type(branch).__name__}; use a "
            f"ConditionalBranch, or give its forward a context."
        ) from None


def check_context(context: Any, network: nn.Module, n: int) -> None:
    """Raise unless a context has a row for each of n samples and fits the network, as far as that is known."""
    first = network[0] if isinstance(network, nn.Sequential) and len(network) else network
    width = first.in_features if isinstance(first, nn.Linear) else None
    if isinstance(context, Tensor) or width is not None:
        check_tensor(context, "context")
        if context.shape[:1] != (n,) or (width is not None and context.shape[-1] != width):
            sizes = "..." if width is None else width
            raise ValueError(
                f"context must have shape [{n}, {sizes}], got {tuple(context.shape)}; pass a row for each sample of x."
            )
    if width is not None:
        check_same_kind(context, next(first.parameters()), "context", "network")


def check_linear_input(layer: nn.Linear, input: Tensor) -> None:
    """Raise unless the input is [..., in_features] of the layer's dtype and device."""
    check_same_kind(input, _a_parameter(layer), "input")
    if input.dim() == 0 or input.shape[-1] != layer.in_features:
        raise ValueError(
            f"input must have shape [..., {layer.in_features}], got {tuple(input.shape)}; reshape it or build the "
            f"layer for it."
        )


def check_image_input(layer: nn.Conv2d, input: Tensor) -> None:
    """Raise unless the input is [B, C, H, W] or [C, H, W] of the layer's dtype and device."""
    check_same_kind(input, _a_parameter(layer), "input")
    if input.dim() not in (3, 4) or input.shape[-3] != layer.in_channels:
        check_shape(input, (layer.in_channels, None, None), "input")
