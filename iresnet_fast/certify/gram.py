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

from .. import _checks
from ..geometry import ConvGeometry
from ._operators import LARGEST_SIDE, Operator, check
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
        ValueError: the arguments do not describe a linear map, or it is a k x k convolution with more than 2048 inputs
            and outputs.
    """
    operator, exponent, finite = prepared(weight, geometry, padding_mode)
    if not operator.is_explicit():
        raise ValueError(
            f"weight must describe an operator with a side of at most {LARGEST_SIDE}, got {operator.sides}; use "
            f"norm_bounds."
        )
    matrices, error = operator.gram()
    values, vectors = torch.linalg.eigh(matrices)
    n = matrices.shape[-1]
    largest = _proved(matrices, values[:, -1].amax(), 8.0 * n * n * UNIT)
    shape = operator.input_shape if operator.acts_on_fewer else operator.output_shape
    best = values[:, -1].argmax()
    near = matrices.new_zeros(len(matrices), n)
    near[best] = vectors[best, :, -1]
    near = near.view(shape)
    v = near if operator.acts_on_fewer else operator.transposed(near)
    v = v / torch.linalg.vector_norm(v).clamp(min=UNIT)
    u = operator.apply(v)
    u = u / torch.linalg.vector_norm(u).clamp(min=UNIT)
    return Norm(
        torch.where(finite, scaled_down(attained(operator, v), exponent), 0.0),
        torch.where(finite, scaled_up(up((largest + error).sqrt()), exponent), math.inf),
        *operator.vectors(u, v),
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

    Within 2 % of the norm after 8 iterations, but for a convolution with zero padding on a large image: it is bounded
    by the one on a torus, which has more, see `norm_bounds`.

    Args:
        weight: [out, in], or [out, in / groups, kh, kw], of any floating point dtype: all are exact in float64.
        geometry: where the convolution acts; None for a matrix, which may come as [out, in, 1, 1].
        padding_mode: "zeros" or "circular".
        n_iterations: products of a Gram matrix with itself, the first of them of the operator.
        largest_side: a k x k convolution with more inputs and outputs is bounded on the torus, which costs much less.

    Returns:
        the bound; infinite if a weight is not finite. In another dtype it must be rounded upwards.

    Raises:
        ValueError: the arguments do not describe a linear map, or n_iterations is not positive.
        TypeError: n_iterations is not an integer.
    """
    _checks.check_count("n_iterations", n_iterations, 1)
    operator, exponent, finite = prepared(weight, geometry, padding_mode)
    if operator.is_explicit(largest_side) and (operator.is_pointwise or not operator.is_torus):
        matrices, error = operator.gram()
        bound = up((gram_iteration(matrices, n_iterations - 1) + error).sqrt())
    else:
        bound = on_torus(operator, n_iterations)
    return torch.where(finite, scaled_up(bound, exponent), math.inf)


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


def attained(operator: Operator, v: Tensor) -> Tensor:
    """Return at most |A v| / |v| [] for an input v of `operator.apply`: a lower bound of the norm.

    Each number of A v is a sum of k products, off by at most gamma_k times that of the absolute values, |A| |v|.
    """
    n_terms = operator.weight[0, 0].numel()
    product = operator.apply(v)
    absolute = torch.linalg.vector_norm(operator.apply(v.abs(), operator.weight.abs()))
    reached = torch.linalg.vector_norm(product) * (1.0 - gamma(product.numel() + 16))
    reached = reached - 2.0 * gamma(n_terms + 4) * absolute * (1.0 + gamma(product.numel() + 16))
    length = torch.linalg.vector_norm(v).clamp(min=UNIT) * (1.0 + gamma(v.numel() + 16))
    return down(reached.clamp(min=0.0) / length)


def proved(operator: Operator, norm: Tensor) -> Tensor:
    """Return an upper bound [] of the norm of the map, 0.1 % above `norm` [] if its norm is not larger."""
    matrices, error = operator.gram()
    return up((_proved(matrices, norm * norm, 2e-3) + error).sqrt())


def on_torus(operator: Operator, n_iterations: int) -> Tensor:
    """Return an upper bound [] of the norm of the map from the best of its tori, by Gram iteration."""
    bounds = []
    for torus in operator.tori():
        parts = [up(up(gram_iteration(part.matrices, n_iterations) + part.error) * part.factor) for part in torus]
        bounds.append(torch.stack(parts).amax())
    return torch.stack(bounds).amin()


def gram_iteration(matrices: Tensor, n_iterations: int) -> Tensor:
    """Return an upper bound [] of the norms of matrices [b, m, n], real or complex."""
    a = matrices if matrices.shape[-2] >= matrices.shape[-1] else matrices.mH
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
    return bound.amax()


def _proved(matrices: Tensor, largest: Tensor, margin: float) -> Tensor:
    """Return an upper bound [] of the eigenvalues of Gram matrices [b, n, n], given what seems to be the largest."""
    n = matrices.shape[-1]
    shift = largest * (1.0 + margin)
    rest = -matrices
    rest.diagonal(dim1=-2, dim2=-1).add_(shift)
    _, failed = torch.linalg.cholesky_ex(rest)
    if bool(failed.any()):
        return gram_iteration(matrices, 8)
    # tr(shift I - G) <= n shift; 4 for the subtraction and for triangular solves by inverted blocks.
    return up(shift * (1.0 + 4.0 * n * gamma(n + 1)))
