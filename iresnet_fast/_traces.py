"""tr J and tr J^2 of a branch as sums that are exact and cheap, where its stages allow (docs/mathematics.md, 3a).

With J = A_{L-1} D_{L-1} ... A_0 D_0 and diagonal D, a trace is <D_left, map D_right> or <D_left, map>: the map is made
of weights alone, once for all samples. As an example, of two dense layers after no activation, J = A_1 D_1 A_0 and
tr J = sum_k D_1[k] (A_0 A_1)[k, k].
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import activations as registry
from ._tracing import under_transforms

# The left and the right stage of each trace, that of J first; a right one of -1: the map stands alone.
Places = tuple[tuple[int, int], ...]

MOST_TERMS = 2

# In place of a right stage of -1: the kernels of a CPU make the map from the weights, and need to know its size only.
MADE = -2

# Devices whose kernels do.
_MAKING = ("cpu",)


def places_of(weights: Sequence[Tensor], activations: Sequence[str], factors: Sequence[Tensor | None]) -> Places:
    """Return the stages of the traces that are known in closed form: none, that of J, or those of J and J^2.

    Args:
        weights: of elementwise stages.
        activations: likewise.
        factors: likewise.
    """
    has_d = [name != "identity" or factor is not None for name, factor in zip(activations, factors, strict=True)]
    pointwise = all(weight.dim() == 2 or weight.shape[-1] == 1 for weight in weights)
    n = len(weights)
    if n == 1 and has_d[0]:
        return ((0, -1), (0, 0)) if pointwise else ((0, -1),)
    if n == 2 and has_d == [True, True]:
        return ((1, 0),)
    if n == 2 and has_d == [False, True]:
        return ((1, -1), (1, 1)) if pointwise else ((1, -1),)
    if n == 3 and has_d == [False, True, True] and pointwise:
        return ((2, 1),)
    return ()


def places_at(weights: Sequence[Tensor], activations: Sequence[str], factors: Sequence[Tensor | None]) -> Places:
    """Return what `places_of` does, for stages that may mix channels: of those nothing is known in closed form."""
    elementwise = all(registry.get(name).kernel_id is not None for name in activations)
    return places_of(weights, activations, factors) if elementwise else ()


def products(place: tuple[int, int], weights: Sequence[Tensor], n_pixels: int) -> int:
    """Return how many multiplications a trace takes for a sample."""
    left, right = place
    width = weights[left].shape[1]
    if right < 0:
        return width * n_pixels
    side = 1 if len(weights) != 2 or weights[0].dim() == 2 or left == right else _common_side(weights)
    return width * weights[right].shape[1] * side * side * n_pixels


def chain_products(weights: Sequence[Tensor], n_pixels: int) -> int:
    """Return how many multiplications one product with J takes for a sample."""
    return sum(weight.numel() for weight in weights) * n_pixels


def maps_of(places: Places, weights: Sequence[Tensor], image_size: Sequence[int]) -> list[Tensor]:
    """Return the map of each trace, [C_left, C_right(, k, k)], or [C_left, *image_size] without a right stage.

    Differentiable in the weights.

    Args:
        places: of `places_of`.
        weights: likewise.
        image_size: [] or [H, W].
    """
    if not places:
        return []
    with torch.autocast(weights[0].device.type, enabled=False):
        makers = (_of_power_one, _of_power_two)
        return [make(place, weights, image_size) for make, place in zip(makers, places, strict=False)]


def maps_for_kernels(
    places: Places, weights: Sequence[Tensor], image_size: Sequence[int], make: Callable[..., list[Tensor]]
) -> tuple[Places, list[Tensor]]:
    """Return the places and the maps of traces as the kernels take them; `make` is `maps_of` or `kept_maps_of`.

    On a CPU, where gradients are wanted, a map of two stages that stands alone is left to the kernels: to make it, and
    to hand its gradient on to the weights, takes them less time than to call torch.
    """
    weight = weights[0]
    left = weight.device.type in _MAKING and len(weights) == 2 and places[:1] == ((1, -1),)
    if not left or not (torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)):
        return places, make(places, weights, image_size)
    size = weight.new_empty_strided((weight.shape[0], *image_size), (0,) * (1 + len(image_size)))
    more = maps_of(places, weights, image_size)[1:] if len(places) > 1 else []
    return ((1, MADE), *places[1:]), [size, *more]


def own_maps(
    places: Places, weights: Sequence[Tensor], image_size: Sequence[int], maps: Sequence[Tensor]
) -> tuple[Places, list[Tensor]]:
    """Return the places and maps with those made that `maps_for_kernels` has left to the kernels."""
    if all(right != MADE for _, right in places):
        return places, list(maps)
    first = maps_of(((1, -1),), weights, image_size)
    return ((1, -1), *places[1:]), [*first, *maps[1:]]


def _of_power_one(place: tuple[int, int], weights: Sequence[Tensor], image_size: Sequence[int]) -> Tensor:
    if len(weights) == 1:
        weight = weights[0]
        center = weight if weight.dim() == 2 else weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
        diagonal = center.diagonal().clone()  # no view, which would keep the weight alive
        return diagonal.reshape(-1, *[1] * len(image_size)).expand(-1, *image_size)
    if len(weights) == 3:
        product = torch.mm(weights[0].flatten(1), weights[2].flatten(1)).t()
        return weights[1] * product.reshape(weights[1].shape)
    # A_0 takes pixel p + t to p, and A_1 takes p back to p + t: its tap is -t. Both must have it.
    first, last = weights[0], weights[1].transpose(0, 1)
    if first.dim() == 4:
        side = _common_side(weights)
        first, last = cropped(first, side), cropped(last, side).flip(2, 3)
    both = first * last
    if place[1] >= 0:
        return both
    if not image_size:
        return both.sum(1)
    ones = both.new_ones(1, both.shape[1], *image_size)
    return F.conv2d(ones, both, padding=both.shape[-1] // 2)[0]


def _of_power_two(place: tuple[int, int], weights: Sequence[Tensor], image_size: Sequence[int]) -> Tensor:
    flat = [weight.flatten(1) for weight in weights]
    between = flat[0] if len(weights) == 1 else torch.mm(flat[0], flat[1])
    both = between * between.t()
    return both[:, :, None, None] if image_size else both


def _common_side(weights: Sequence[Tensor]) -> int:
    return min(weights[0].shape[-1], weights[1].shape[-1])


def cropped(weight: Tensor, side: int) -> Tensor:
    """Return the taps of a kernel in the middle of it."""
    margin = (weight.shape[-1] - side) // 2
    return weight[:, :, margin : margin + side, margin : margin + side]


# Of the weights of a branch: the maps that were made of them last, and at which of their versions.
_Entry = tuple[tuple[weakref.ref[Tensor], ...], tuple[int, ...], Places, tuple[int, ...], list[Tensor]]
_last: dict[int, _Entry] = {}


def kept_maps_of(places: Places, weights: Sequence[Tensor], image_size: Sequence[int]) -> list[Tensor]:
    """Return the maps as `maps_of`, and not made again of weights that have not changed.

    For normalised weights, which nobody writes: a write through `.data` to a parameter would not be seen.
    """
    if (
        not places
        or torch.is_inference_mode_enabled()
        or torch.compiler.is_compiling()
        or under_transforms()
        or any(weight.requires_grad or isinstance(weight, nn.Parameter) or weight.is_inference() for weight in weights)
    ):
        return maps_of(places, weights, image_size)
    key, versions, size = id(weights[0]), tuple(weight._version for weight in weights), tuple(image_size)
    entry = _last.get(key)
    if entry is not None and entry[1:4] == (versions, places, size):
        if all(ref() is weight for ref, weight in zip(entry[0], weights, strict=True)):
            return entry[4]
    maps = maps_of(places, weights, image_size)
    first = weakref.ref(weights[0], lambda _: _last.pop(key, None))
    refs = (first, *(weakref.ref(weight) for weight in weights[1:]))
    _last[key] = refs, versions, places, size, maps
    return maps


def coloured_probes(x: Tensor, kernels: Sequence[Sequence[int]], n_terms: int) -> Tensor:
    """Return probes v_j [m, *event] of zeros and ones with sum_j <v_j, J^k v_j> = tr J^k for k <= n_terms.

    Each unit vector is in one of them. Of two in the same, J^k has no entry that connects them: J of convolutions
    reaches as many pixels as the halves of their kernels together, so that pixels of one probe are n_terms times that,
    and one more, apart (probing: Tang and Saad, doi 10.1002/nla.779).

    Args:
        x: [B, *event], for the event, dtype and device.
        kernels: sides of the kernel of each stage, [] if dense.
        n_terms: the largest k.
    """
    d = math.prod(x.shape[1:])
    if x.dim() == 2:
        return torch.eye(d, dtype=x.dtype, device=x.device)
    steps = spacing(kernels, x.shape[2:], n_terms)
    places = torch.arange(d, device=x.device).view(x.shape[1:])
    channel = places // (x.shape[2] * x.shape[3])
    row = places // x.shape[3] % x.shape[2] % steps[0]
    column = places % x.shape[3] % steps[1]
    colour = (channel * steps[0] + row) * steps[1] + column
    m = x.shape[1] * steps[0] * steps[1]
    return (colour == torch.arange(m, device=x.device).view(-1, 1, 1, 1)).to(x.dtype)


def spacing(kernels: Sequence[Sequence[int]], image_size: Sequence[int], n_terms: int) -> list[int]:
    """Return how far apart the pixels of a coloured probe are along each axis of the image; [] if it has none."""
    return [
        min(size, n_terms * sum(kernel[axis] // 2 for kernel in kernels) + 1) for axis, size in enumerate(image_size)
    ]


def split_coefficients(q: Tensor, n_terms: int) -> tuple[Tensor, Tensor]:
    """Return the factors of tr J^k, k <= n_terms, in a log-determinant, and the coefficients of the rest of its series.

    Args:
        q: [n] or [B, n].
        n_terms: at most n.
    """
    first, rest = q[..., :n_terms], q[..., n_terms:]
    k = torch.arange(1, n_terms + 1, device=q.device)
    return first * ((2.0 * (k % 2) - 1.0) / k).to(q.dtype), torch.cat((torch.zeros_like(first), rest), -1)
