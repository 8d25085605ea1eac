"""What rounding in float64 can do to a sum, a scaling or a few operations, in the direction that keeps a bound true."""

from __future__ import annotations

import math

import torch
from torch import Tensor

UNIT = 2.0**-53  # the unit roundoff u of float64: every operation is right up to a factor 1 + d, |d| <= u


def product_up(*factors: float) -> float:
    """Return at least the product of factors that are not negative; 0 if one is 0, even beside infinity."""
    if 0.0 in factors:
        return 0.0
    product = 1.0
    for factor in factors:
        product = math.nextafter(product * factor, math.inf)
    return product


def gamma(n: int) -> float:
    """Return gamma_n = n u / (1 - n u): the error of n roundings in a row, and of a dot product of n terms.

    |fl(<x, y>) - <x, y>| <= gamma_n <|x|, |y|> for any order of summation, with or without fused multiply-add (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1). That is the only thing assumed of a matrix product;
    Strassen's scheme and emulated float64, which torch does not use by default, are not covered.
    """
    return n * UNIT / (1.0 - n * UNIT)


def up(x: Tensor) -> Tensor:
    """Return x after at most six roundings, none of a difference, so large that they cannot have made it too small."""
    return x * (1.0 + 8.0 * UNIT)


def down(x: Tensor) -> Tensor:
    """Return x after at most six roundings, none of a difference, so small that they cannot have made it too large."""
    return x * (1.0 - 8.0 * UNIT)


def power_of_two(exponent: Tensor) -> Tensor:
    """Return 2**exponent in float64, exactly, for integers in [-1022, 1023]; `torch.ldexp` works in float32."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def scaled(x: Tensor, exponent: Tensor) -> Tensor:
    """Return x 2**exponent, exact but for what leaves the range of normal numbers: off by at most 2**-1073 then.

    In two steps, since 2**exponent itself may leave the range.
    """
    half = exponent >> 1
    return x * power_of_two(half) * power_of_two(exponent - half)


def scaled_up(x: Tensor, exponent: Tensor) -> Tensor:
    """Return at least x 2**exponent, also among the subnormal numbers; 0 stays 0."""
    y = scaled(x, exponent)
    return torch.where(x > 0.0, torch.nextafter(y, torch.full_like(y, math.inf)), y)


def scaled_down(x: Tensor, exponent: Tensor) -> Tensor:
    """Return at most x 2**exponent for x >= 0, also among the subnormal numbers."""
    y = scaled(x, exponent)
    return torch.nextafter(y, torch.zeros_like(y))


def exponent_of(x: Tensor) -> Tensor:
    """Return e with |x| 2**-e in [1/2, 1); 0 for 0."""
    exponent: Tensor = torch.frexp(x).exponent
    return exponent


def frobenius(matrices: Tensor) -> Tensor:
    """Return an upper bound [...] of the Frobenius norms of [..., m, n], real or complex."""
    n_terms = matrices.shape[-2] * matrices.shape[-1]
    norms: Tensor = torch.linalg.vector_norm(matrices, dim=(-2, -1))
    return norms * (1.0 + gamma(n_terms + 16))
