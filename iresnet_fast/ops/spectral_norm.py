"""The spectral norms of all layers of a model in one kernel call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks, _library, _spectral_checks, reference
from .._backend import kernels_serve
from .._packing import unpack
from ..geometry import ConvGeometry


@torch.no_grad()
def spectral_norm(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    geometry: Sequence[ConvGeometry | None],
    n_iterations: int = 1,
    tol: float | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Estimate the largest singular value of every layer by power iteration, from below.

    One iteration: v <- A^T u / |A^T u|, u <- A v / |A v|, sigma = <u, A v>, with A the operator on its real input size
    (Gouk et al., arXiv 1804.04368, algorithm 2), not the reshaped weight. With no iteration, sigma = <u, A v> of the
    vectors given.

    Args:
        weights: one tensor per layer, [out, in] (or [out, in, 1, 1]) for a matrix, [out, in / groups, kh, kw] for a
            convolution.
        us: left vectors, [out] or [out, oh, ow].
        vs: right vectors, [in] or [in, h, w].
        geometry: None for a matrix, else the ConvGeometry of the convolution.
        n_iterations: number of iterations, the maximum if `tol` is given.
        tol: stop a layer when |sigma - previous sigma| <= tol * sigma (previous: 0 at first); None: run all iterations.

    Returns:
        sigmas [layers], us, vs (new tensors), iterations [layers] int64. No gradient. A zero weight has sigma 0 and
        keeps its u, v.

    Raises:
        ValueError: a shape, device or range does not fit.
        TypeError: a dtype does not fit.
    """
    _spectral_checks.check_spectral(weights, us, vs, geometry)
    _checks.check_count("n_iterations", n_iterations, 0)
    if tol is not None:
        _checks.check_tolerance(tol)
    if not same_kind(weights) or not kernels_serve(weights[0]):
        return reference.spectral_norm(weights, us, vs, geometry, n_iterations, tol)
    sigmas, iterations, packed = torch.ops.iresnet_fast.spectral_norm(
        weights, us, vs, flat_geometry(weights, geometry), n_iterations, -1.0 if tol is None else tol
    )
    vectors = unpack(packed, [*us, *vs])
    return sigmas, vectors[: len(weights)], vectors[len(weights) :], iterations


def same_kind(weights: Sequence[Tensor]) -> bool:
    """Whether there are weights, all of one dtype and device, as one kernel call needs."""
    return len({(w.dtype, w.device) for w in weights}) == 1


def flat_geometry(weights: Sequence[Tensor], geometry: Sequence[ConvGeometry | None]) -> list[int]:
    """Return the ten numbers per layer that the raw ops take."""
    numbers: list[int] = []
    for weight, place in zip(weights, geometry, strict=True):
        if place is None:
            numbers += [0, 0, 1, 1, 0, 0, 1, 1, 1, weight.shape[1]]
        else:
            numbers += [*place.image_size, *place.stride, *place.padding, *place.dilation, place.groups]
            numbers.append(weight.shape[1] * place.groups)
    return numbers


@_library.register_fake("spectral_norm")
def _spectral_norm_fake(
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    geometry: list[int],
    max_iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    like, layers = weights[0], len(weights)
    count = sum(t.numel() for t in (*us, *vs))
    return like.new_empty(layers), like.new_empty(layers, dtype=torch.int64), like.new_empty(count)
