"""A bound of the Lipschitz constant of a whole branch, at most the product of those of its layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks
from .. import activations as registry
from .._inputs import check_tensor
from . import _lipsdp
from ._rounding import product_up, scaled
from .bounds import Bounds, norm_bounds

# Inputs and hidden units together. The matrix of the inequality has so many rows, and its factorisation, like the
# eigenvalues on the way to it, takes their third power: 2 s for 1300 on one core.
_LARGEST = 2048
# Above so many the descent, 25 times the cost, is left out.
_LARGEST_IMPROVED = 600


@torch.no_grad()
def branch_bound(
    weights: Sequence[Tensor],
    activations: Sequence[str],
    norms: Sequence[float] | None = None,
    n_steps: int = 20,
) -> Bounds:
    """Return a bound of the Lipschitz constant of stages of an activation followed by a dense layer.

    The relaxation LipSDP, which knows that no unit can have its largest slope in one direction and its least in
    another: ECLipsE-Fast (arXiv 2404.04375) and closed forms with other multipliers, then a descent over these, and a
    proof of what comes out, so that rounding cannot make it too small. Stages without an activation within the branch,
    and activations that mix channels, such as MaxMin, whose slopes are not those of units, divide the branch into
    parts: the product of their bounds is taken. It is never above the product of the norms, times the constants of the
    activations, which is all that is taken of branches of more than 2048 inputs and hidden units.

    Args:
        weights: [out, in] each, as they are used, of any floating point dtype.
        activations: one name of `iresnet_fast.activations` per weight, each applied before it.
        norms: upper bounds of the norms of the weights, if they are known.
        n_steps: of the descent, 5 to 20 times the cost of the closed forms; 0: these alone. Branches of more than 600
            inputs and hidden units take none.

    Returns:
        bounds with 0 as the lower one; method "product" or "LipSDP".

    Raises:
        ValueError: the weights do not form a chain, or the name of an activation is unknown.
    """
    _checks.check_list("weights", weights, "tensors")
    _checks.check_list("activations", activations, "names")
    entries = [registry.get(name) for name in activations]
    _check(weights, entries)
    norms = [norm_bounds(weight).upper for weight in weights] if norms is None else norms
    stages = list(zip(weights, entries, norms, strict=True))
    product = product_up(*norms, *(entry.lipschitz for entry in entries))
    if product == 0.0 or not product < math.inf:
        return Bounds(0.0, product, "product")
    first, parts = 0, []
    for i in range(1, len(stages) + 1):
        if i == len(stages) or not entries[i].elementwise or entries[i].least_slope == entries[i].lipschitz:
            parts.append(_part_bound(stages[first:i], n_steps))
            first = i
    found = product_up(*parts)
    return Bounds(0.0, found, "LipSDP") if found < product else Bounds(0.0, product, "product")


def branch_scale(weights: Sequence[Tensor], activations: Sequence[str], target: float, n_steps: int = 0) -> float:
    """Return the factor by which the last weight must be multiplied for the branch bound to be `target`.

    Above 1 where the branch has slack, below 1 where it exceeds the target. The bound is linear in the last weight;
    computed anew it may differ by 1e-6. Multiplying a weight in float32 rounds it by another 6e-8: multiply in float64,
    or let `target` be that much smaller.

    Args:
        weights: [out, in] each, of any norms.
        activations: one name per weight, each applied before it.
        target: Lipschitz constant that the branch may have.
        n_steps: as for `branch_bound`; 0 is for training, where the factor is needed at every step.

    Returns:
        the factor; 1 if the bound is 0, 0 if it is infinite, as where a weight is not finite.

    Raises:
        ValueError: the target is not positive and finite, or as for `branch_bound`.
    """
    if not 0.0 < target < math.inf:
        raise ValueError(f"target must be positive and finite, got {target}; pass the constant the branch may have.")
    bound = branch_bound(weights, activations, n_steps=n_steps).upper
    return 1.0 if bound == 0.0 else target / bound * (1.0 - 2.0**-50)


def _part_bound(part: Sequence[tuple[Tensor, registry.Activation, float]], n_steps: int) -> float:
    """Return a bound of stages of which only the first may have no activation, or one that mixes channels."""
    # An activation before the first layer acts on a ball, where its constant is all that counts.
    constant = part[0][1].lipschitz
    product = product_up(*(norm for *_, norm in part), *(entry.lipschitz for _, entry, _ in part))
    size = sum(weight.shape[1] for weight, *_ in part)
    if len(part) == 1 or size > _LARGEST:
        return product
    stages, total = [], 0
    for weight, entry, norm in part:
        # The bound is linear in every weight: with norms near 1 all numbers on the way are in range.
        exponent = math.frexp(norm)[1]
        total += exponent
        near_one = scaled(weight.detach().to(torch.float64), torch.tensor(-exponent, device=weight.device))
        stages.append(_lipsdp.Stage(near_one, math.ldexp(norm, -exponent), entry.least_slope, entry.lipschitz))
    bound = _lipsdp.bound(stages, n_steps if size <= _LARGEST_IMPROVED else 0)
    return min(product, product_up(_ldexp_up(bound, total), constant))


def _ldexp_up(x: float, exponent: int) -> float:
    """Return at least x 2**exponent, infinite where that is out of range."""
    try:
        return math.nextafter(math.ldexp(x, exponent), math.inf)
    except OverflowError:
        return math.inf


def _check(weights: Sequence[Tensor], entries: Sequence[registry.Activation]) -> None:
    if len(weights) == 0 or len(entries) != len(weights):
        raise ValueError(
            f"activations must have one name per weight and there must be a weight, got {len(entries)} names for "
            f"{len(weights)} weights; use 'identity' where there is none."
        )
    for i, weight in enumerate(weights):
        check_tensor(weight, f"weights[{i}]")
        inputs = weights[i - 1].shape[0] * entries[i].expansion if i else None
        if weight.dim() != 2 or (inputs is not None and weight.shape[1] != inputs):
            raise ValueError(
                f"weights[{i}] must have shape [out, {'in' if inputs is None else inputs}], got "
                f"{tuple(weight.shape)}; change it."
            )
