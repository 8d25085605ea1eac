"""The spectral norms of all layers of a model by Lanczos iteration, in one kernel call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _library, _spectral_checks, reference
from .._backend import kernels_serve
from .._packing import unpack
from ..geometry import ConvGeometry
from ..reference import LanczosNorms
from .spectral_norm import flat_geometry, same_kind


@torch.no_grad()
def lanczos_norm(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    companions: Sequence[Tensor],
    geometry: Sequence[ConvGeometry | None],
    n_iterations: int = 40,
    tol: float = 3e-4,
    seed: int | Tensor = 0,
) -> LanczosNorms:
    """Estimate the largest singular value of every layer by Lanczos iteration, from below, and its residual.

    Symmetric Lanczos with full orthogonalisation on A^T A, or A A^T where u is the shorter vector, with A the operator
    on its real input size. It starts from the old singular vector, and the more the weight has moved the more from
    the companion and a random vector, so that a singular value which overtakes the largest is found: warm-started power
    iteration finds it late or never. A layer stops when the relative residual |A^T u - sigma v| / sigma, estimated
    after 12, 14, 16, ... steps, is below
    `tol`; after 40 steps the iteration starts anew from the best vector found.

    Args:
        weights: one tensor per layer, [out, in] (or [out, in, 1, 1]) for a matrix, [out, in / groups, kh, kw] for a
            convolution.
        us: left vectors, [out] or [out, oh, ow]. Hints, as all three: of any length, ignored if not finite or zero.
        vs: right vectors, [in] or [in, h, w].
        companions: the companions of the call before, or zeros: shaped like v, like u where that is shorter.
        geometry: None for a matrix, else the ConvGeometry of the convolution.
        n_iterations: the most Lanczos steps, each of two products, as a power iteration; two more products follow.
        tol: relative residual at which a layer stops; 0: take all steps, unless the norm is exact before.
        seed: of the random vector, which depends on seed and element only: an int, or an int64 tensor of one
            element on the device of the weights, which replays of a CUDA graph and compiled code read anew.

    Returns:
        LanczosNorms. sigma is |A v| (|A^T u|) of the vector returned: at most the norm. If sigma is near the norm and
        nowhere else, the norm is at most sigma + residual. A zero weight has sigma and residual 0, one that is not
        finite NaN: both keep their vectors, of unit length, and have a companion of zeros.

    Raises:
        ValueError: a shape, device or range does not fit.
        TypeError: a dtype does not fit.
    """
    _spectral_checks.check_lanczos(weights, us, vs, companions, geometry, n_iterations, tol, seed)
    if not same_kind(weights) or not kernels_serve(weights[0]):
        return reference.lanczos_norm(weights, us, vs, companions, geometry, n_iterations, tol, seed)
    if not isinstance(seed, Tensor):
        seed = torch.full((1,), seed, dtype=torch.int64, device=weights[0].device)
    norms, iterations, packed = torch.ops.iresnet_fast.lanczos_norm(
        weights, us, vs, companions, seed, flat_geometry(weights, geometry), n_iterations, tol
    )
    sigmas, residuals = norms.unbind()
    vectors, layers = unpack(packed, [*us, *vs, *companions]), len(weights)
    return LanczosNorms(
        sigmas, residuals, vectors[:layers], vectors[layers : 2 * layers], vectors[2 * layers :], iterations
    )


@_library.register_fake("lanczos_norm")
def _lanczos_norm_fake(
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    companions: list[Tensor],
    seed: Tensor,
    geometry: list[int],
    max_iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    like, layers = weights[0], len(weights)
    count = sum(t.numel() for t in (*us, *vs, *companions))
    return like.new_empty(2, layers), like.new_empty(layers, dtype=torch.int64), like.new_empty(count)
