"""The spectral norm of linear maps and convolutions by power iteration on the operator itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from iresnet_fast import _checks, _spectral_checks
from iresnet_fast.geometry import ConvGeometry


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

    Arguments, results and errors: those of `iresnet_fast.ops.spectral_norm`.
    """
    _spectral_checks.check_spectral(weights, us, vs, geometry)
    _checks.check_count("n_iterations", n_iterations, 0)
    if tol is not None:
        _checks.check_tolerance(tol)
    if not weights:
        return torch.empty(0), [], [], torch.empty(0, dtype=torch.int64)
    layers = [
        _norm(weight, place, u, v, n_iterations, tol)
        for weight, u, v, place in zip(weights, us, vs, geometry, strict=True)
    ]
    sigmas, new_us, new_vs, counts = zip(*layers, strict=True)
    if tol is None:  # filled in on the device: a copy from the host cannot be captured in a CUDA graph
        iterations = torch.full((len(weights),), n_iterations, dtype=torch.int64, device=weights[0].device)
    else:
        iterations = torch.tensor(counts, dtype=torch.int64, device=weights[0].device)
    return torch.stack(sigmas), list(new_us), list(new_vs), iterations


def _norm(
    weight: Tensor, place: ConvGeometry | None, u: Tensor, v: Tensor, n_iterations: int, tol: float | None
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return sigma, u, v and the iterations of one layer, by its weight divided by a power of two, near 1 in size.

    So squares of its products neither overflow nor underflow.
    """
    scale = power_of_two(weight)
    sigma, u, v, count = _iterate(*operator(weight / scale, place), u, v, n_iterations, tol)
    return sigma * scale, u, v, count


def power_of_two(weight: Tensor) -> Tensor:
    """Return the power of two, [], that is at most the largest magnitude, over half of it; 1 if that is 0 or infinite.

    It stays on the device: reading it could not be captured in a CUDA graph.
    """
    if weight.numel() == 0:
        return weight.new_ones(())
    largest = weight.detach().abs().amax()
    # float16 has no power of two for its own smallest numbers, and torch no frexp for bfloat16 on all devices.
    wide = largest if largest.dtype == torch.float64 else largest.float()
    exponent = torch.frexp(wide).exponent - 1
    one = torch.ones_like(wide)
    scale = torch.where((largest > 0) & largest.isfinite(), torch.ldexp(one, exponent), one)
    return scale.to(weight.dtype)


def _iterate(
    forward: Callable[[Tensor], Tensor],
    transpose: Callable[[Tensor], Tensor],
    u: Tensor,
    v: Tensor,
    n_iterations: int,
    tol: float | None,
) -> tuple[Tensor, Tensor, Tensor, int]:
    if n_iterations == 0:
        return (u * forward(v)).sum(), u.clone(), v.clone(), 0
    previous = 0.0
    for count in range(1, n_iterations + 1):  # noqa: B007 (returned after the loop)
        v = _unit(transpose(u), v)[0]
        u, sigma = _unit(forward(v), u)
        if tol is None:
            continue
        value = float(sigma)
        if abs(value - previous) <= tol * value:
            break
        previous = value
    return sigma, u, v, count


def _unit(a: Tensor, fallback: Tensor) -> tuple[Tensor, Tensor]:
    """Return a / |a|, or `fallback` if a is zero, and |a|."""
    norm = torch.linalg.vector_norm(a)
    return torch.where(norm > 0, a / norm, fallback), norm


def operator(
    weight: Tensor, place: ConvGeometry | None
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return the maps v -> A v and u -> A^T u."""
    if place is None:
        matrix = weight.flatten(1)
        return matrix.mv, matrix.t().mv
    height, width = place.image_size
    full = [
        (out - 1) * stride - 2 * pad + dilation * (kernel - 1) + 1
        for out, stride, pad, dilation, kernel in zip(
            place.output_size((weight.shape[2], weight.shape[3])),
            place.stride,
            place.padding,
            place.dilation,
            weight.shape[2:],
            strict=True,
        )
    ]
    # Rows and columns a strided convolution never reads: without them v would come out smaller than the image.
    rest = (height - full[0], width - full[1])

    def forward(v: Tensor) -> Tensor:
        return F.conv2d(v[None], weight, None, place.stride, place.padding, place.dilation, place.groups)[0]

    def transpose(u: Tensor) -> Tensor:
        return F.conv_transpose2d(
            u[None], weight, None, place.stride, place.padding, rest, place.groups, place.dilation
        )[0]

    return forward, transpose
