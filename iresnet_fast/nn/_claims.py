"""Whether weights are as small as whoever makes them says: their operator norms, against what was claimed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..geometry import ConvGeometry

# What a norm may be above its claim, relatively: parametrizations orthogonalise in finite precision.
SLACK = 1e-4
# The norm is found from below. So many steps find that of any weight that a claim was wrong about by much.
_STEPS = 200
_TOL = 0.1 * SLACK


@torch.no_grad()
def check_claims(weights: Sequence[Tensor], norms: Sequence[float], image_size: tuple[int, ...]) -> None:
    """Raise ValueError if the operator norm of a weight is above its claim, by more than the slack for rounding.

    Args:
        weights: [out, in] or [out, in, k, k] each.
        norms: what was claimed of each.
        image_size: (height, width) of the images; empty for matrices.
    """
    weights = [weight.detach() for weight in weights]
    places = [geometry_of(weight, image_size) for weight in weights]
    shapes = [_sides(weight, place) for weight, place in zip(weights, places, strict=True)]
    # Vectors of zeros are ignored: the iteration starts from random ones of its own.
    us, vs = ([weight.new_zeros(pair[i]) for weight, pair in zip(weights, shapes, strict=True)] for i in (0, 1))
    shorter = [min(v, u, key=Tensor.numel) for u, v in zip(us, vs, strict=True)]
    found = ops.lanczos_norm(weights, us, vs, shorter, places, _STEPS, _TOL).sigmas.tolist()
    for i, (weight, norm, actual) in enumerate(zip(weights, norms, found, strict=True)):
        if not actual <= norm * (1.0 + SLACK):
            advice = f"pass norm={actual:.4g} or more, or a parametrization that keeps it"
            if not actual < float("inf"):
                advice = "the weight has NaN or infinity"
            elif weight.dim() == 4:
                advice += "; an orthogonal kernel, or orthogonal slices of one, make no orthogonal convolution"
            raise ValueError(
                f"the weight of layers[{i}] must have an operator norm of at most {norm:g}, as the branch was told, "
                f"got {actual:.6g}; {advice}."
            )


def geometry_of(weight: Tensor, image_size: tuple[int, ...]) -> ConvGeometry | None:
    """Return where a weight acts that keeps the size of images; None for matrices, and kernels of one pixel."""
    if weight.dim() == 2 or weight.shape[2:] == (1, 1):
        return None
    k = weight.shape[2]
    return ConvGeometry((image_size[0], image_size[1]), padding=(k // 2, k // 2))


def _sides(weight: Tensor, place: ConvGeometry | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of the left and of the right vectors."""
    if place is None:
        return (weight.shape[0],), (weight.shape[1],)
    return place.vector_shapes(weight.shape)
