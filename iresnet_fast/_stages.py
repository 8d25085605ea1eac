"""A branch as the stages that kernels take: what one call of it computes, with the numbers of that call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Stages(NamedTuple):
    """The arguments of `iresnet_fast.ops` for a branch, in their order: a -> W_i (f_i phi_i(a)) + b_i for each stage.

    Attributes:
        weights: [out, in] or [out, in, k, k] each, as they are used: normalised, masked.
        biases: [out], [B, out], for images also [B, out, H, W], or None each.
        activations: their names.
        parameters: the scalar of an activation that has one, else None.
        factors: [B, in], for images also [B, in, H, W], or None each; they multiply what the activation returns.
    """

    weights: list[Tensor]
    biases: list[Tensor | None]
    activations: tuple[str, ...]
    parameters: list[Tensor | None]
    factors: list[Tensor | None]


def identity_like(weight: Tensor, n_channels: int) -> Tensor:
    """Return the identity of so many channels as the weight of a stage, of the dimensions of `weight`."""
    eye = torch.eye(n_channels, dtype=weight.dtype, device=weight.device)
    return eye if weight.dim() == 2 else eye[:, :, None, None]
