"""The norm of a linear map from both sides."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _checks
from ..geometry import ConvGeometry
from . import gram
from ._operators import Operator
from ._rounding import scaled_down, scaled_up

# Up to this side all eigenvalues cost less than the iterations for the largest one; measured on one core.
_LARGEST_FOR_EIGENVALUES = 256
# Vectors of the Krylov space: the largest of 1000 close eigenvalues is then right to 1e-3 from a random start.
_LANCZOS_STEPS = 40


class Bounds(NamedTuple):
    """A norm or a Lipschitz constant from both sides, whatever rounding did.

    Attributes:
        lower: attained by a vector, or 0 if nothing is known.
        upper: never below; infinite if a weight is not finite.
        method: what gave `upper`.
    """

    lower: float
    upper: float
    method: str


@torch.no_grad()
def norm_bounds(
    weight: Tensor, geometry: ConvGeometry | None = None, padding_mode: str = "zeros", n_iterations: int = 8
) -> Bounds:
    """Return bounds of the norm of a linear map, computed in float64 from its weight alone.

    The methods of the upper bound, where "side" is the smaller one of the operator written out, of a group of it, or of
    the matrix of a 1 x 1 convolution:

    - "eigenvalues", side up to 256: exact to 1e-9.
    - "Cholesky", any matrix, and operators with a side up to 2048: 0.1 % above the lower bound, or what Gram iteration
      gives if that is not enough.
    - "torus", larger convolutions: Gram iteration for each frequency, within 2 % of the norm for circular padding and
      stride 1. Zero padding is bounded by that on a torus, which has more: for 3 x 3 kernels of random numbers 3 % on
      8 x 8 images, 2 % on 12 x 12, and with the square of the image size less.
    - "none": a weight is not finite.

    Args:
        weight: [out, in], or [out, in / groups, kh, kw], of any floating point dtype: all are exact in float64.
        geometry: where the convolution acts; None for a matrix, which may come as [out, in, 1, 1].
        padding_mode: "zeros" or "circular".
        n_iterations: of Gram iteration, where that is used.

    Raises:
        ValueError: the arguments do not describe a linear map, or n_iterations is not positive.
        TypeError: n_iterations is not an integer.
    """
    _checks.check_count("n_iterations", n_iterations, 1)
    operator, exponent, finite = gram.prepared(weight, geometry, padding_mode)
    if not bool(finite):
        return Bounds(0.0, math.inf, "none")
    is_explicit = operator.is_explicit()
    if is_explicit and min(operator.sides) <= _LARGEST_FOR_EIGENVALUES:
        norm = gram.norm(weight, geometry, padding_mode)
        return Bounds(float(norm.lower), float(norm.upper), "eigenvalues")
    lower = gram.attained(operator, leading(operator))
    upper = gram.proved(operator, lower) if is_explicit else gram.on_torus(operator, n_iterations)
    method = "Cholesky" if is_explicit else "torus"
    return Bounds(float(scaled_down(lower, exponent)), float(scaled_up(upper, exponent)), method)


def leading(operator: Operator) -> Tensor:
    """Return about the first right singular vector, by Lanczos' method with full orthogonalisation.

    It is that of A^T A or of A A^T, whichever is smaller.
    """
    is_tall = operator.acts_on_fewer
    shape = operator.input_shape if is_tall else operator.output_shape
    first, second = (operator.apply, operator.transposed) if is_tall else (operator.transposed, operator.apply)
    n = math.prod(shape)
    n_steps = min(n, _LANCZOS_STEPS)
    basis = operator.weight.new_zeros(n_steps, n)
    projected = operator.weight.new_zeros(n_steps, n_steps)
    # A generator of its own: the global one is not touched, and the bounds are the same each time.
    w = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(basis.device)
    for k in range(n_steps):
        length = torch.linalg.vector_norm(w)
        if k and not bool(length > 1e-12 * projected.amax()):
            n_steps = k
            break
        basis[k] = w / length
        w = second(first(basis[k].view(shape))).flatten()
        known = basis[: k + 1]
        projected[k, : k + 1] = known @ w
        w = w - projected[k, : k + 1] @ known
        w = w - (known @ w) @ known  # twice is enough
    vectors = torch.linalg.eigh(projected[:n_steps, :n_steps])[1]  # of the lower triangle
    leading = (vectors[:, -1] @ basis[:n_steps]).view(shape)
    return leading if is_tall else operator.transposed(leading)
