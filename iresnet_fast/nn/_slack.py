"""The slack between the product of the norms of a branch and the bound of the whole branch, spent on its last layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch_private import constant
from ..certify import branch_scale


def spend_slack(weights: list[Tensor], activations: Sequence[str], lipschitz: float) -> list[Tensor]:
    """Return the weights, the last of them scaled so that the bound of the branch is `lipschitz`, rounding included."""
    factor = torch.ops.iresnet_fast.branch_factor([constant(w) for w in weights], " ".join(activations), lipschitz)
    return [*weights[:-1], weights[-1] * factor]


@torch.library.custom_op("iresnet_fast::branch_factor", mutates_args=())
def branch_factor(weights: list[Tensor], activations: str, lipschitz: float) -> Tensor:
    """Return `certify.branch_scale` [], a constant of the gradient, as one operation of compiled graphs.

    Args:
        weights: of the stages.
        activations: their names, with blanks between them.
        lipschitz: that the branch may have.
    """
    last = weights[-1]
    # The product with a rounded factor is off by 2 eps of each entry, at most 2 eps sqrt(rank) of the norm.
    margin = 4.0 * torch.finfo(last.dtype).eps * math.sqrt(min(last.shape))
    return last.new_full((), branch_scale(weights, activations.split(), lipschitz * (1.0 - margin)))


@branch_factor.register_fake
def _branch_factor_fake(weights: list[Tensor], activations: str, lipschitz: float) -> Tensor:
    return weights[-1].new_empty(())


@branch_factor.register_vmap
def _branch_factor_of_members(
    info: Any, in_dims: tuple[Any, ...], weights: list[Tensor], activations: str, lipschitz: float
) -> tuple[Tensor, int]:
    members = (
        [w if dim is None else w.select(dim, i) for w, dim in zip(weights, in_dims[0], strict=True)]
        for i in range(info.batch_size)
    )
    return torch.stack([torch.ops.iresnet_fast.branch_factor(member, activations, lipschitz) for member in members]), 0
