"""Upper bounds of the norm of a linear map that rounding cannot break: Gram iteration, and eigenvalues with a proof.

Everything is computed in float64 by torch's matrix products and LAPACK, on the device of the weight. A kernel of our
own would have nothing to add: the sums are long, dense and in float64, which is what those libraries are best at.

**Gram iteration** (Delattre et al., arXiv 2305.16173, 2402.00240). G_0 = A, G_{k+1} = G_k^T G_k, hence |A| =
|G_k|^(1/2^k) <= |G_k|_F^(1/2^k), too large by at most r^(1/2^(k+1)) for rank r: 1.5 % for r = 2048 after 8 iterations.
With rounding: let H_k = 2^-e_k G_k, exactly, with |H_k|_F < 1, and G_{k+1} = fl(H_k^T H_k) for products of m terms.
Entry by entry |G_{k+1} - H_k^T H_k| <= gamma_m |H_k|^T |H_k|, of Frobenius norm at most gamma_m |H_k|_F^2 =: d_k, so

    |G_k| = 2^e_k |H_k| <= 2^e_k sqrt(|G_{k+1}| + d_k).

From |G_n| <= |G_n|_F this is evaluated backwards to k = 0, each operation rounded upwards. What underflows, at most
2^-1022 in each of the terms, is far below the slack in gamma, since |H_k|_F is at least 1/2.

**Eigenvalues.** For a small side the largest eigenvalue of G = fl(A^T A) is cheaper than eight products and exact to
1e-9, but LAPACK promises no constant. So it only proposes s, and a Cholesky factorisation of s I - G proves it: if that
runs to its end, the smallest eigenvalue of s I - G is at least -gamma_{n+1} / (1 - gamma_{n+1}) tr(s I - G), whatever
the order of its sums (Rump, Verification of positive definiteness, BIT 46, 2006). If not, Gram iteration is asked.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import ConvGeometry
from ._operators import LARGEST_SIDE, Blocks, Operator, check
from ._rounding import UNIT, down, exponent_of, frobenius, gamma, scaled, scaled_down, scaled_up, up


class Norm(NamedTuple):
    """The norm of a linear map, and where it is attained.

    Attributes:
        lower: [] in float64, never above the norm.
        upper: [] in float64, never below it; infinite if the weight is not finite.
        u: unit vector with A v = sigma u, [out], or [out, oh, ow] for a convolution, in float64.
        v: unit vector, [in], or [in, h, w].
    """

    lower: Tensor
    upper: Tensor
    u: Tensor
    v: Tensor


@torch.no_grad()
def norm(weight: Tensor, geometry: ConvGeometry | None = None, padding_mode: str = "zeros") -> Norm:
    """Return the norm of a linear map of a small side, with its singular vectors, from eigenvalues.

    lower and upper differ by some 1e-9 of them at most. It waits for the device.

    Args:
        weight: [out, in], or [out, in / groups, kh, kw], of any floating point dtype: all are exact in float64.
        geometry: where the convolution acts; None for a matrix, which may come as [out, in, 1, 1].
        padding_mode: "zeros" or "circular".

    Raises:
        ValueError: the arguments do not describe a linear map, or it is a k x k convolution too large to be written
            out: above 2048 on its smaller side, or 2^23 numbers in all.
    """
    operator, exponent, finite = prepared(weight, geometry, padding_mode)
    if not operator.is_explicit():
        raise ValueError(
            f"weight must describe an operator with a side of at most {LARGEST_SIDE}, got {operator.sides}; use "
            f"norm_bounds."
        )
    blocks = operator.explicit()
    tall = blocks.matrices.shape[-2] >= blocks.matrices.shape[-1]
    a = blocks.matrices if tall else blocks.matrices.mT
    size, gram = frobenius(a), a.mT @ a
    values, vectors = torch.linalg.eigh(gram)
    upper = _root(_proved(gram, values[:, -1].amax(), 8.0 * gram.shape[-1] ** 2 * UNIT), a, size, blocks.error)
    best = values[:, -1].argmax()
    right = vectors[best, :, -1]
    left = a[best] @ right
    length = torch.linalg.vector_norm(left)
    # |A x| >= |fl(A x)| - gamma |A|_F |x|, and x is a unit vector up to the rounding of its own norm.
    attained = length * (1.0 - gamma(a.shape[-2] + 8)) - gamma(a.shape[-1] + 8) * size[best] - up(blocks.error)
    lower = attained.clamp(min=0.0) / (torch.linalg.vector_norm(right) * (1.0 + gamma(a.shape[-1] + 8)))
    left = left / length.clamp(min=torch.finfo(torch.float64).tiny)
    u, v = (left, right) if tall else (right, left)
    return Norm(
        torch.where(finite, scaled_down(down(lower), exponent), 0.0),
        torch.where(finite, scaled_up(upper, exponent), math.inf),
        *operator.vectors(best, u, v),
    )


@torch.no_grad()
def upper_bound(
    weight: Tensor,
    geometry: ConvGeometry | None = None,
    padding_mode: str = "zeros",
    n_iterations: int = 8,
    largest_side: int = LARGEST_SIDE,
) -> Tensor:
    """Return an upper bound [] of the norm of a linear map by Gram iteration in float64, with no wait for the device.

    Within 2 % of the norm after 8 iterations, but for a convolution with zero padding too large to be written out: it
    is bounded by the one on a torus, which has up to 8 % more on images of some pixels and less the larger they are.

    Args:
        weight: [out, in], or [out, in / groups, kh, kw], of any floating point dtype: all are exact in float64.
        geometry: where the convolution acts; None for a matrix, which may come as [out, in, 1, 1].
        padding_mode: "zeros" or "circular".
        n_iterations: products of a Gram matrix with itself, the first of them of the operator.
        largest_side: a k x k convolution with a smaller side above it is bounded on the torus, which costs much less.

    Returns:
        the bound; infinite if a weight is not finite. In another dtype it must be rounded upwards.

    Raises:
        ValueError: the arguments do not describe a linear map.
    """
    operator, exponent, finite = prepared(weight, geometry, padding_mode)
    is_explicit = operator.is_explicit(largest_side) and (operator.is_pointwise or not operator.is_torus)
    bound = gram_iteration(operator.explicit(), n_iterations) if is_explicit else on_torus(operator, n_iterations)
    return torch.where(finite, scaled_up(bound, exponent), math.inf)


def on_torus(operator: Operator, n_iterations: int) -> Tensor:
    """Return an upper bound [] of the norm of the map from that on the torus, by Gram iteration."""
    return torch.stack([gram_iteration(part, n_iterations) for part in operator.torus()]).amax()


def gram_iteration(blocks: Blocks, n_iterations: int) -> Tensor:
    """Return an upper bound [] of the norm of the map that the matrices stand for, by Gram iteration."""
    a = blocks.matrices
    a = a if a.shape[-2] >= a.shape[-1] else a.mH
    # A complex product is made of real ones of twice the length; 8 covers also those from three real products.
    length, safety = (2, 8.0) if a.is_complex() else (1, 1.0)
    steps = []
    for _ in range(n_iterations):
        size = frobenius(a)
        exponent = exponent_of(size)
        a, size = scaled(a, -exponent[:, None, None]), scaled(size, -exponent)
        steps.append((exponent, safety * gamma(length * a.shape[-2] + 8) * size * size))
        a = a.mH @ a
    bound = frobenius(a)
    for exponent, error in reversed(steps):
        bound = scaled(up((bound + error).sqrt()), exponent)
    return up(up(bound.amax() + blocks.error) * blocks.factor)


def prepared(weight: Tensor, geometry: ConvGeometry | None, padding_mode: str) -> tuple[Operator, Tensor, Tensor]:
    """Return the map with its weight in float64 and below 1, the exponent of what divided it, and whether it is finite.

    A weight that is not finite is replaced by zeros.
    """
    check(weight, geometry, padding_mode)
    weight = weight.detach().to(torch.float64)
    finite = weight.isfinite().all()
    weight = torch.where(finite, weight, 0.0)
    exponent = exponent_of(weight.abs().amax())
    return Operator(scaled(weight, -exponent), geometry, padding_mode), exponent, finite


def proved(blocks: Blocks, norm: Tensor) -> Tensor:
    """Return an upper bound [] of the norm of the matrices, 0.1 % above `norm` [] if the norm is not larger."""
    a = blocks.matrices if blocks.matrices.shape[-2] >= blocks.matrices.shape[-1] else blocks.matrices.mT
    return _root(_proved(a.mT @ a, norm * norm, 2e-3), a, frobenius(a), blocks.error)


def _proved(gram: Tensor, largest: Tensor, margin: float) -> Tensor:
    """Return an upper bound [] of the eigenvalues of all matrices [b, n, n], given what seems to be the largest."""
    n = gram.shape[-1]
    shift = largest * (1.0 + margin)
    rest = -gram
    rest.diagonal(dim1=-2, dim2=-1).add_(shift)
    _, failed = torch.linalg.cholesky_ex(rest)
    if bool(failed.any()):
        return gram_iteration(Blocks(gram, torch.zeros_like(shift), 1.0), 8)
    # tr(shift I - gram) <= n shift; 4 for the subtraction and for triangular solves by inverted blocks.
    return up(shift * (1.0 + 4.0 * n * gamma(n + 1)))


def _root(largest: Tensor, a: Tensor, size: Tensor, error: Tensor) -> Tensor:
    """Return the bound [] of the norm of A that one of the eigenvalues of fl(A^T A) gives; |A|_F <= size [b]."""
    return up(up((largest + (gamma(a.shape[-2] + 8) * size * size).amax()).sqrt()) + error)
