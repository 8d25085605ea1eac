"""tr J and tr J^2 from the Jacobian itself, pixel by pixel: values only.

Between the first and the last convolution of a branch, pixels do not mix. So at each pixel p the product of what leads
from its surroundings to it, through it, and on to its surroundings is a small matrix,

    K_p = B^T D_{L-1} A_{L-2} ... A_1 D_1 A,    A: [h, k_0^2 C], B: [h, k_L^2 C],

of which library products make many pixels at once, and J is the sum of all K_p D_0 at their places: a band, in which
each pixel meets those that both kernels together reach. A dense branch is the case of one pixel.

Tensors here are [..., H, W, B], samples last: what is done at one offset is done to long runs of numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._stages import Stages, identity_like
from .._trace_costs import Link, Ring
from .._traces import cropped
from ..reference.branch import activate

_WORKSPACE = 1 << 26  # bytes that the products of a slice of samples and lines may take


def local_traces(x: Tensor, stages: Stages, ring: Ring, n_terms: int) -> Tensor:
    """Return tr J^k, k = 1 .. n_terms, of every sample, [B, n_terms], without a gradient.

    Args:
        x: [B, d] or [B, C, H, W].
        stages: elementwise ones, as `lowered` makes them.
        ring: one of `rings_of` the stages.
        n_terms: 1 or 2.
    """
    traces = x.new_empty(x.shape[0], n_terms)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        maps = [_map_of(link, stages.weights, ring.transposed) for link in ring.links]
        height, width = x.shape[2:] if x.dim() == 4 else (1, 1)
        of_lines, of_all = _numbers(ring, n_terms, height, width)
        most = _WORKSPACE // x.element_size()
        n = max(1, most // (of_all + of_lines))
        n_lines = max(1, (most - n * of_all) // (n * of_lines))
        for first in range(0, x.shape[0], n):
            chosen = slice(first, first + n)
            derivatives = _derivatives(x[chosen], of_samples(stages, chosen), ring)
            part = _Slice(maps, derivatives, height, width, x[chosen].shape[0], n_lines)
            if n_terms == 2:
                traces[chosen] = part.of_band()
            else:
                traces[chosen, 0] = part.by_regions() if ring.by_regions else part.of_taps_that_meet()
    return traces


def of_samples(stages: Stages, chosen: slice) -> Stages:
    """Return the stages of some samples."""

    def own(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [t[chosen] if t is not None and t.dim() > 1 else t for t in tensors]

    return stages._replace(biases=own(stages.biases), factors=own(stages.factors))


def _numbers(ring: Ring, n_terms: int, height: int, width: int) -> tuple[int, int]:
    """Return how many numbers the products at a line take, and what is made of them at all pixels, for a sample."""
    first, *_, last = ring.links
    widest = max(link.n_out for link in ring.links[:-1])
    of_all = sum(link.n_in for link in ring.links) + max(link.side**2 * link.n_in for link in ring.links)
    if n_terms == 1:
        columns = min(first.side, last.side) ** 2 * first.n_in
        return 2 * widest * columns * width, (of_all + columns) * height * width
    columns = first.side**2 * first.n_in
    of_all += (first.side + last.side - 1) ** 2 * first.n_in**2
    return (2 * widest + last.side**2 * last.n_out) * columns * width, of_all * height * width


def _map_of(link: Link, weights: Sequence[Tensor], transposed: bool) -> Tensor:
    """Return the product of the maps of a link, [out, in, k, k]."""
    own = [weight if weight.dim() == 4 else weight[:, :, None, None] for weight in weights]
    if not link.stages:
        return identity_like(own[0], link.n_in)
    made = own[link.stages[0]]
    for weight in (own[stage] for stage in link.stages[1:]):
        pointwise = weight.shape[-1] == 1
        made = (
            torch.einsum("oh,hikl->oikl", weight[:, :, 0, 0], made)
            if pointwise
            else torch.einsum("ohkl,hi->oikl", weight, made[:, :, 0, 0])
        )
    return made.transpose(0, 1).flip(2, 3) if transposed else made


def _derivatives(x: Tensor, stages: Stages, ring: Ring) -> list[Tensor | None]:
    """Return the D in front of each link, [C, H, W, B]."""
    found, a = [], _samples_last(x)
    for weight, bias, name, parameter, factor in zip(*stages, strict=True):
        h, d = activate(name, a, parameter, None if factor is None else _samples_last(factor))
        found.append(None if d is None else d[0])
        if len(found) < len(stages.weights):  # nobody asks for the value of the branch
            a = _linear(h[0], weight)[None]
            if bias is not None:
                a.add_(_samples_last(bias if bias.dim() > 1 else bias[None]))
    # In the transposed product the D of a map comes after it, and the last one first, around the ring.
    links = [ring.links[-1], *ring.links[:-1]] if ring.transposed else ring.links
    return [found[link.stages[0]] if link.stages else None for link in links]


def _samples_last(t: Tensor) -> Tensor:
    """Return numbers [B, C] or [B, C, H, W] as [1, C, 1, 1, B] or [1, C, H, W, B]: activations look for channels there.

    Layers of torch would take samples first. Beside their convolutions, products of matrices are several times faster
    for the kernels and the few channels of a branch.
    """
    image = t if t.dim() == 4 else t[:, :, None, None]
    return image.movedim(0, -1).contiguous()[None]


def _linear(h: Tensor, weight: Tensor) -> Tensor:
    """Return the map of a stage, without its bias, of [C, H, W, B]."""
    n_channels, height, width, n = h.shape
    side = weight.shape[-1] if weight.dim() == 4 else 1
    if side > 1:
        margin = side // 2
        padded = F.pad(h, (0, 0, margin, margin, margin, margin))
        offsets = itertools.product(range(side), repeat=2)
        h = torch.stack([padded[:, i : i + height, j : j + width] for i, j in offsets], 1)
    return torch.mm(weight.flatten(1), h.reshape(n_channels * side**2, -1)).view(-1, height, width, n)


class _Slice(NamedTuple):
    """Some samples."""

    maps: list[Tensor]  # [out, in, k, k]
    derivatives: list[Tensor | None]  # [in, H, W, B]
    height: int
    width: int
    n: int
    n_lines: int  # of as many lines products are made at once

    def of_band(self) -> Tensor:
        """Return tr J and tr J^2, [B, 2]."""
        first, last = self.maps[0], self.maps[-1]
        side, more = first.shape[-1], last.shape[-1]
        reach = side // 2 + more // 2
        n_channels, n_offsets = first.shape[1], 2 * reach + 1
        shape = (n_channels, n_offsets, n_offsets, n_channels, self.height, self.width, self.n)
        band = first.new_zeros(shape)  # of pixel q: what it takes from pixel q + offset
        columns = first.permute(0, 2, 3, 1).flatten(1)
        rows = last.permute(2, 3, 0, 1).reshape(-1, last.shape[1])
        for lines in self._lines():
            product = torch.mm(rows, self._through(columns, lines).flatten(1))
            product = product.view(more, more, n_channels, side, side, n_channels, -1, self.width, self.n)
            for i, j in itertools.product(range(more), repeat=2):
                # Pixel p is tap (i, j) of the kernel at q.
                of_p, of_q = _meeting(lines, more // 2 - i, self.height)
                at_p, at_q = _meeting(range(self.width), more // 2 - j, self.width)
                part = product[i, j][..., of_p, at_p, :]
                band[:, i : i + side, j : j + side, :, of_q, at_q].add_(part)
        return torch.stack((self._of_itself(band, reach), self._of_pairs(band, reach)), 1)

    def _of_itself(self, band: Tensor, reach: int) -> Tensor:
        d = self.derivatives[0]
        own = band[:, reach, reach].diagonal(dim1=0, dim2=1).movedim(-1, 0)
        return (own if d is None else own * d).flatten(0, 2).sum(0)

    def _of_pairs(self, band: Tensor, reach: int) -> Tensor:
        """Return the sum of J_ij J_ji, each pair of pixels once."""
        d = self.derivatives[0]
        total = band.new_zeros(self.n)
        for i, j in itertools.product(range(-reach, reach + 1), repeat=2):
            if (i, j) < (0, 0):
                continue
            of_q, of_other = _meeting(range(self.height), i, self.height)
            at_q, at_other = _meeting(range(self.width), j, self.width)
            there = band[:, reach + i, reach + j, :, of_q, at_q]
            back = band[:, reach - i, reach - j, :, of_other, at_other]
            if d is not None:
                there = there * d[:, of_other, at_other]
                back = back * d[:, of_q, at_q]
            count = 1.0 if (i, j) == (0, 0) else 2.0
            total += count * (there * back.transpose(0, 1)).flatten(0, 3).sum(0)
        return total

    def of_taps_that_meet(self) -> Tensor:
        """Return tr J [B]: of the first and of the last kernel only taps that lead there and back count."""
        first, last = _common(self.maps[0], self.maps[-1])
        side, n_channels = first.shape[-1], first.shape[1]
        columns = first.permute(0, 2, 3, 1).flatten(1)
        back = last.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)  # the tap that leads back, [k^2 C, h]
        d = self.derivatives[0]
        total = first.new_zeros(self.n)
        for lines in self._lines():
            own = torch.bmm(back[:, None], self._through(columns, lines).transpose(0, 1))
            own = own.view(side, side, n_channels, -1, self.width, self.n)
            for i, j in itertools.product(range(side), repeat=2):
                of_p, of_q = _meeting(lines, i - side // 2, self.height)
                at_p, at_q = _meeting(range(self.width), j - side // 2, self.width)
                part = own[i, j][:, of_p, at_p]
                total += (part if d is None else part * d[:, of_q, at_q]).flatten(0, 2).sum(0)
        return total

    def by_regions(self) -> Tensor:
        """Return tr J [B] of three maps after no derivative: <D_2, map D_1>, where the map differs at the borders."""
        first, last = _common(self.maps[0], self.maps[-1])
        both = torch.einsum("chkl,gckl->klhg", last.flip(2, 3), first) * self.maps[1][:, :, 0, 0]
        left, right = self.derivatives[2], self.derivatives[1]
        ones = both.new_ones(1, self.height, self.width, self.n)
        left = ones.expand(both.shape[2], -1, -1, -1) if left is None else left
        right = ones.expand(both.shape[3], -1, -1, -1) if right is None else right
        total = both.new_zeros(self.n)
        radius = first.shape[-1] // 2
        for lines, taps in _regions(self.height, radius):
            for places, more in _regions(self.width, radius):
                part = right[:, lines, places]
                mapped = torch.mm(both[taps, more].sum((0, 1)), part.flatten(1)).view(-1, *part.shape[1:])
                total += mapped.mul_(left[:, lines, places]).flatten(0, 2).sum(0)
        return total

    def _lines(self) -> Iterator[range]:
        for start in range(0, self.height, self.n_lines):
            yield range(start, min(start + self.n_lines, self.height))

    def _through(self, columns: Tensor, lines: range) -> Tensor:
        """Return D_{L-1} A_{L-2} ... A_1 D_1 times columns [h, n], at all pixels of some lines, [h, n, pixels]."""
        chosen = slice(lines.start, lines.stop)
        own = [None if d is None else d[:, None, chosen].flatten(2) for d in self.derivatives[1:]]
        n_pixels = len(lines) * self.width * self.n
        product = columns[:, :, None].expand(-1, -1, n_pixels) if own[0] is None else columns[:, :, None] * own[0]
        for linear, d in zip(self.maps[1:-1], own[1:], strict=True):
            product = torch.mm(linear[:, :, 0, 0], product.flatten(1)).view(-1, *product.shape[1:])
            if d is not None:
                product.mul_(d)
        return product


def _meeting(places: range, offset: int, size: int) -> tuple[slice, slice]:
    """Return those of the places from which a step by `offset` stays inside, counted from the first, and where to."""
    start = max(places.start, -offset)
    stop = max(start, min(places.stop, size - offset))
    return slice(start - places.start, stop - places.start), slice(start + offset, stop + offset)


def _regions(size: int, radius: int) -> Iterator[tuple[slice, slice]]:
    """Return runs of pixels along an axis at which the same taps of a kernel lie inside the image, and these taps."""
    taps = [(max(0, radius - at), min(2 * radius + 1, size + radius - at)) for at in range(size)]
    for own, run in itertools.groupby(range(size), key=taps.__getitem__):
        places = list(run)
        yield slice(places[0], places[-1] + 1), slice(*own)


def _common(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Return two kernels without the taps that only the larger one has."""
    side = min(first.shape[-1], last.shape[-1])
    return cropped(first, side), cropped(last, side)
