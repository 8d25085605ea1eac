"""Scale weights down to a target spectral norm, with the gradient through sigma."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

from iresnet_fast import _spectral_checks
from iresnet_fast._torch_private import constant
from iresnet_fast._tracing import under_transforms
from iresnet_fast.geometry import ConvGeometry


def spectral_normalize(
    weights: Sequence[Tensor],
    sigmas: Tensor,
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    geometry: Sequence[ConvGeometry | None],
    coeff: float | Sequence[float],
    sigma_gradient: bool = True,
) -> list[Tensor]:
    """Return W / max(1, sigma / coeff) for every layer (Gouk et al., arXiv 1804.04368, equation 18).

    The gradient takes sigma = <u, A v> with u and v constant, so d sigma / dW is the weight gradient of A at input v
    and output gradient u.

    Arguments, results and errors: those of `iresnet_fast.ops.spectral_normalize`.
    """
    _spectral_checks.check_spectral(weights, us, vs, geometry)
    coeffs = _spectral_checks.check_coeff(coeff, len(weights))
    if tuple(sigmas.shape) != (len(weights),):
        raise ValueError(
            f"sigmas must have shape ({len(weights)},), one per weight, got {tuple(sigmas.shape)}; "
            f"pass those of spectral_norm."
        )
    sigmas = constant(sigmas)
    result = []
    for i, weight in enumerate(weights):
        sigma = sigmas[i]
        if sigma_gradient and ((weight.requires_grad and torch.is_grad_enabled()) or under_transforms()):
            live = (weight * _sigma_gradient(constant(weight), constant(us[i]), constant(vs[i]), geometry[i])).sum()
            sigma = sigma + (live - constant(live))
        result.append(weight / (sigma / coeffs[i]).clamp(min=1.0))
    return result


def _sigma_gradient(weight: Tensor, u: Tensor, v: Tensor, place: ConvGeometry | None) -> Tensor:
    if place is None:
        return torch.outer(u, v).view(weight.shape)
    gradient: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        v[None], list(weight.shape), u[None], place.stride, place.padding, place.dilation, place.groups
    )
    return gradient
