"""Scale weights down to a target spectral norm, all layers in one kernel call, with the gradient through sigma."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _library, _spectral_checks, reference
from .._autograd import apply, differentiable_gradients, wants_graph
from .._backend import kernels_serve
from .._packing import unpack
from .._torch_private import by_vmap
from .._tracing import constants, under_transforms
from ..geometry import ConvGeometry
from .spectral_norm import flat_geometry, same_kind


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

    Args:
        weights: one tensor per layer, as in `spectral_norm`.
        sigmas: [layers], the norms, taken as values.
        us: left vectors.
        vs: right vectors.
        geometry: None for a matrix, else the ConvGeometry of the convolution.
        coeff: target norm, one for all or one per layer.
        sigma_gradient: False: sigma is a constant of the gradient.

    Returns:
        The normalised weights, one tensor per layer; differentiable in the weights (a second time by the reference).

    Raises:
        ValueError: a shape, device or range does not fit.
        TypeError: a dtype does not fit.
    """
    _spectral_checks.check_spectral(weights, us, vs, geometry)
    coeffs = _spectral_checks.check_coeff(coeff, len(weights))
    if not same_kind(weights) or not kernels_serve(weights[0]) or under_transforms():
        return reference.spectral_normalize(weights, sigmas, us, vs, geometry, coeffs, sigma_gradient)
    if tuple(sigmas.shape) != (len(weights),):
        raise ValueError(
            f"sigmas must have shape ({len(weights)},), one per weight, got {tuple(sigmas.shape)}; "
            f"pass those of spectral_norm."
        )
    limits = constants(coeffs, weights[0])
    if torch.is_grad_enabled() and any(w.requires_grad for w in weights):
        settings = (tuple(geometry), sigma_gradient)
        return list(apply(_SpectralNormalize, settings, sigmas, limits, *us, *vs, *weights))
    return _forward(sigmas, limits, weights)


def _forward(sigmas: Tensor, limits: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    return unpack(torch.ops.iresnet_fast.spectral_normalize(weights, sigmas, limits), weights)


class _SpectralNormalize(torch.autograd.Function):
    @staticmethod
    def forward(
        settings: tuple[tuple[ConvGeometry | None, ...], bool], sigmas: Tensor, limits: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(_forward(sigmas, limits, tensors[2 * len(tensors) // 3 :]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.settings = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    @by_vmap
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sigmas, limits, *tensors = ctx.saved_tensors
        n = len(grads)
        us, vs, weights = tensors[:n], tensors[n : 2 * n], tensors[2 * n :]
        geometry, sigma_gradient = ctx.settings
        if wants_graph():

            def normalized(*weights: Tensor) -> tuple[Tensor, ...]:
                coeffs = limits.tolist()
                return tuple(reference.spectral_normalize(weights, sigmas, us, vs, geometry, coeffs, sigma_gradient))

            return (None,) * (3 + 2 * n) + tuple(
                differentiable_gradients(normalized, weights, grads, ctx.needs_input_grad[3 + 2 * n :])
            )
        packed = torch.ops.iresnet_fast.spectral_normalize_backward(
            grads, weights, us, vs, sigmas, limits, flat_geometry(weights, geometry), sigma_gradient
        )
        return (None,) * (3 + 2 * n) + tuple(unpack(packed, weights))


@_library.register_fake("spectral_normalize")
def _spectral_normalize_fake(weights: list[Tensor], sigmas: Tensor, coeffs: Tensor) -> Tensor:
    return weights[0].new_empty(sum(w.numel() for w in weights))


@_library.register_fake("spectral_normalize_backward")
def _spectral_normalize_backward_fake(
    grads: list[Tensor],
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    sigmas: Tensor,
    coeffs: Tensor,
    geometry: list[int],
    through_sigma: bool,
) -> Tensor:
    return weights[0].new_empty(sum(w.numel() for w in weights))
