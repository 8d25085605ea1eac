"""The error of an inverse, from one evaluation of the branch, with the rounding of that evaluation counted."""

from __future__ import annotations

import torch
from torch import Tensor

from iresnet_fast.reference.series import sample_norm


def certified_error(x: Tensor, z: Tensor, gx: Tensor, rounding: Tensor, lipschitz: float) -> tuple[Tensor, Tensor]:
    """Return a bound of |x - x*| for the solution x* of x* + g(x*) = z, and its share that is rounding, [B] each.

    Args:
        x: [B, *event], exact numbers.
        z: as x.
        gx: g(x) as it was evaluated, in the dtype of x.
        rounding: [B], a bound of the distance of gx to g(x).
        lipschitz: Lipschitz constant of g.
    """
    eps, event_ndim = torch.finfo(x.dtype).eps, x.dim() - 1
    change = z - x
    residual = sample_norm(change - gx, event_ndim)
    # Either subtraction is off by half an eps of its result, and a sum of d squares with its root by (d + 2) / 2 eps.
    rounding = rounding + eps * sample_norm(change, event_ndim) + (2.0 + 0.5 * x[:1].numel()) * eps * residual
    return (residual + rounding) / (1.0 - lipschitz), rounding / (1.0 - lipschitz)
