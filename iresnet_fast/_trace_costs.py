"""What tr J and tr J^2 of a branch cost, in multiplications for a sample, and the cheapest way to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from . import activations as registry
from ._traces import Places, chain_products, places_at, products, spacing


class Link(NamedTuple):
    """Stages that no derivative separates, as one linear map: D of the first, then the maps of all of them.

    Attributes:
        stages: their numbers, in the order in which they are applied; none: the identity.
        n_in: channels that the map takes.
        n_out: channels that it returns.
        side: of its kernel, 1 if it is pointwise.
    """

    stages: tuple[int, ...]
    n_in: int
    n_out: int
    side: int

    @property
    def size(self) -> int:
        """How many numbers its weight has."""
        return self.n_in * self.n_out * self.side**2


class Ring(NamedTuple):
    """A product of derivatives and maps with the traces of the powers of J, whose inner maps are pointwise.

    A trace stays what it is if the first map becomes the last one, and so on, and if the product is transposed.

    Attributes:
        links: at least two. Only the first and the last may have a kernel.
        transposed: whether the product is that of the transposed maps, in the other order, as the links are.
        has_first: whether the first link has a derivative in front of it.
    """

    links: tuple[Link, ...]
    transposed: bool
    has_first: bool

    @property
    def by_regions(self) -> bool:
        """Whether tr J is a sum over pixels of <D_2, map D_1>, with one map for all pixels far from the borders."""
        return len(self.links) == 3 and not self.has_first

    def products(self, n_terms: int, n_pixels: int) -> int:
        """Return how many multiplications the traces take for a sample."""
        first, *inner, last = self.links
        if n_terms == 1 and self.by_regions:
            return inner[0].size * n_pixels
        sides = [min(first.side, last.side)] * 2 if n_terms == 1 else [first.side, last.side]
        columns = sides[0] ** 2 * first.n_in
        count = columns * (first.n_out + sum(link.size for link in inner))
        if n_terms == 1:
            return (count + columns * last.n_in) * n_pixels
        pairs = (first.side + last.side - 1) ** 2 * first.n_in**2
        return (count + columns * last.size + pairs) * n_pixels


class Way(NamedTuple):
    """How traces are computed.

    Attributes:
        products: how many multiplications that takes for a sample.
        places: of the closed forms, of as many terms as have one.
        ring: of the products at each pixel, for all terms; None: by closed forms, and by probes where there is none.
    """

    products: int
    places: Places
    ring: Ring | None


def cheapest(
    weights: Sequence[Tensor],
    activations: Sequence[str],
    factors: Sequence[Tensor | None],
    image_size: Sequence[int],
    n_terms: int,
    differentiable: bool,
) -> Way:
    """Return the cheapest way to the values of the first traces of stages, lowered to what kernels know.

    Args:
        weights: of the stages.
        activations: likewise.
        factors: likewise.
        image_size: [] or [H, W].
        n_terms: 1 or 2.
        differentiable: whether a gradient is wanted, which not every way has.
    """
    n_pixels = math.prod(image_size)
    places = places_at(weights, activations, factors)[:n_terms]
    kernels = [weight.shape[2:] for weight in weights]
    count = sum(products(place, weights, n_pixels) for place in places)
    for k in range(len(places) + 1, n_terms + 1):
        n_probes = weights[0].shape[1] * math.prod(spacing(kernels, image_size, k))
        count += n_probes * k * chain_products(weights, n_pixels)
    ways = [Way(count, places, None)]
    if not differentiable and all(registry.get(name).kernel_id is not None for name in activations):
        for ring in rings_of(weights, activations, factors):
            ways.append(Way(ring.products(n_terms, n_pixels), places, ring))
    return min(ways, key=lambda way: way.products)  # the first of equals


def rings_of(weights: Sequence[Tensor], activations: Sequence[str], factors: Sequence[Tensor | None]) -> list[Ring]:
    """Return the products at a pixel that have the traces of J; none where a kernel lies between two others.

    Args:
        weights: of elementwise stages.
        activations: likewise.
        factors: likewise.
    """
    has_d = [name != "identity" or factor is not None for name, factor in zip(activations, factors, strict=True)]
    links = _joined(
        [Link((i,), w.shape[1], w.shape[0], w.shape[-1] if w.dim() == 4 else 1) for i, w in enumerate(weights)], has_d
    )
    rings = []
    for start in range(len(links)):
        turned = links[start:] + links[:start]
        if len(turned) == 1:
            turned = [*turned, Link((), turned[0].n_out, turned[0].n_out, 1)]
        has_first = has_d[turned[0].stages[0]]
        if all(link.side == 1 for link in turned[1:-1]):
            back = (Link(link.stages, link.n_out, link.n_in, link.side) for link in reversed(turned))
            rings += [Ring(tuple(turned), False, has_first), Ring(tuple(back), True, has_first)]
    return rings


def _joined(links: list[Link], has_d: Sequence[bool]) -> list[Link]:
    """Return fewer links, where no derivative lies between two maps, around the ring; two kernels stay apart.

    Of one map after another with a kernel each, the border of the image that lies between them would be lost.
    """
    at = 0
    while at < len(links) > 1:
        before, link = links[at - 1], links[at]
        if has_d[link.stages[0]] or 1 not in (before.side, link.side):
            at += 1
            continue
        side = max(before.side, link.side)
        links[at - 1] = Link(before.stages + link.stages, before.n_in, link.n_out, side)
        del links[at]
    return links
