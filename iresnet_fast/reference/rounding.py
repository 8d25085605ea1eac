"""How far an evaluation of a branch can be from the branch itself: a bound of its rounding (docs/mathematics.md, 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from iresnet_fast import activations as registry
from iresnet_fast.reference.series import sample_norm

# Of an activation, in eps of its argument and of its value. The kernels' elementary functions are good to 1 unit in the
# last place, and the longest chain of them, LipSwish with its slope, takes six roundings, each by half an eps.
_ACTIVATION = 4.0
# Products of two relative errors, each below 1e-3 in the sizes that a branch has.
_SECOND_ORDER = 1.01


def branch_rounding(
    x: Tensor,  # [B, d] or [B, C, H, W]
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    norms: Sequence[float] | None = None,
    factors: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Return a bound of |computed g(x) - g(x)|, [B], whatever the order in which the products are summed.

    A product of n terms with a matrix A, and its bias b, is off by at most (n + 1) eps / 2 (|A| |h| + |b|), absolute
    values entry by entry (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Norms follow with
    | |A| |_2 <= sqrt(| |A| |_1 | |A| |_inf), the largest sums of a column and of a row, which also bound how A carries
    on the errors of the stages before it, unless `norms` bounds the spectral norms of the stages closer. Activations
    and factors carry them on by their Lipschitz constants and largest numbers.
    """
    eps = torch.finfo(x.dtype).eps
    pixels = math.prod(x.shape[2:])
    size = sample_norm(x, x.dim() - 1)  # of what enters the stage
    error = torch.zeros_like(size)
    for i, (weight, bias, name) in enumerate(zip(weights, biases, activations, strict=True)):
        absolute = weight.detach().abs().to(x.dtype)
        terms = math.prod(weight.shape[1:])
        outputs = tuple(i for i in range(weight.dim()) if i != 1)
        of_absolute = (absolute.flatten(1).sum(1).amax() * absolute.sum(outputs).amax()).sqrt()
        norm = of_absolute if norms is None else of_absolute.clamp(max=norms[i])
        shift = 0.0 if bias is None else _norm_of_bias(bias.detach().to(x.dtype), pixels)
        activation = registry.get(name)
        at_zero = activation.value(x.new_zeros(1, 2), None).abs().amax()
        activated = activation.lipschitz * size + at_zero * (weight.shape[1] * pixels) ** 0.5
        error = activation.lipschitz * error
        if name not in ("identity", "relu", "maxmin"):  # these are exact
            error = error + _ACTIVATION * eps * (size + activated)
        factor = None if factors is None else factors[i]
        if factor is not None:
            most = factor.detach().to(x.dtype).flatten(1).abs().amax(1)
            activated = most * activated
            error = most * error + 0.5 * eps * activated
        error = norm * error + 0.5 * (terms + 1) * eps * (of_absolute * activated + shift)
        size = norm * activated + shift
    return _SECOND_ORDER * error


def _norm_of_bias(bias: Tensor, pixels: int) -> Tensor:
    """Return the norm of a bias once it is spread over the pixels, [B] or [1]."""
    if bias.dim() == 1:
        bias = bias[None]
    return sample_norm(bias, bias.dim() - 1) * (pixels**0.5 if bias.dim() == 2 else 1.0)
