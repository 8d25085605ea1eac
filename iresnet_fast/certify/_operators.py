"""Linear maps as matrices: the map itself, or matrices on a torus that bound it, one for each frequency."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import ConvGeometry
from ._rounding import UNIT, frobenius, gamma

# Above these, the operator of a k x k convolution is not written out: a side of 2048 takes a second on one core, and a
# matrix of 2**23 numbers is 64 MiB.
LARGEST_SIDE = 2048
_LARGEST_MATRIX = 2**23
# So many complex numbers of the torus at a time, 64 MiB.
_CHUNK = 2**22


class Blocks(NamedTuple):
    """Matrices the largest norm of which, plus `error`, times `factor`, is at least the norm of a linear map.

    Attributes:
        matrices: [b, m, n] in float64 or complex128.
        error: bound [] of the Frobenius norm of what rounding did to any of them, 0 where it did nothing.
        factor: above 1 where the map may write the same output twice.
    """

    matrices: Tensor
    error: Tensor
    factor: float


class Operator:
    """A dense layer or a convolution that `check` has passed: its sizes, and the matrices that bound its norm.

    Args:
        weight: [out, in], or [out, in / groups, kh, kw] for a convolution, in float64.
        geometry: where the convolution acts; None for a matrix, which may come as [out, in, 1, 1].
        padding_mode: "zeros" or "circular": what is beyond the borders of the image, as far as the padding goes.
    """

    def __init__(self, weight: Tensor, geometry: ConvGeometry | None, padding_mode: str) -> None:
        """Take the map; the arguments are those of the class."""
        self.circular = padding_mode == "circular"
        self.is_matrix = geometry is None
        if geometry is None:
            weight, geometry = weight.reshape(weight.shape[0], -1, 1, 1), ConvGeometry((1, 1))
        self.geometry = geometry
        kernel = (weight.shape[2], weight.shape[3])
        self.output_size = geometry.output_size(kernel)
        self.weight = weight.reshape(geometry.groups, -1, *weight.shape[1:])  # [groups, out, in, kh, kw]
        self.axes = (self._axis(0), self._axis(1))
        if not (self.is_matrix or all(bool(axis.selection(torch.device("cpu")).any()) for axis in self.axes)):
            self.weight = torch.zeros_like(self.weight)  # it sees nothing but padding

    def _axis(self, i: int) -> _Axis:
        size, stride, padding, dilation, _ = self.geometry
        kernel = self.weight.shape[3 + i]
        return _Axis(size[i], self.output_size[i], kernel, stride[i], padding[i], dilation[i], self.circular)

    @cached_property
    def is_pointwise(self) -> bool:
        """Whether every output pixel sees one input pixel, and no two the same: the norm is that of the matrices."""
        return self.is_matrix or (self.weight.shape[3:] == (1, 1) and all(axis.multiplicity == 1 for axis in self.axes))

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of a block of the explicit operator: a group, and for a pointwise map a pixel of it."""
        _, rows, columns, *_ = self.weight.shape
        if self.is_pointwise:
            return rows, columns
        return rows * math.prod(self.output_size), columns * math.prod(self.geometry.image_size)

    def is_explicit(self, largest_side: int = LARGEST_SIDE) -> bool:
        """Whether the operator is pointwise, or small enough to be written out."""
        return self.is_pointwise or (min(self.sides) <= largest_side and math.prod(self.sides) <= _LARGEST_MATRIX)

    @property
    def is_torus(self) -> bool:
        """Whether the operator is a convolution on a torus: the matrices of its frequencies have its norm exactly."""
        return self.circular and all(axis.is_whole for axis in self.axes)

    def selections(self) -> tuple[Tensor, Tensor]:
        """Return for both dimensions the input pixels [k, out, in] that each tap sends to each output pixel, 0 or 1."""
        rows, columns = (axis.selection(self.weight.device) for axis in self.axes)
        return rows, columns

    def explicit(self) -> Blocks:
        """Return the operator itself, one block for each group."""
        nothing = self.weight.new_zeros(())
        if self.is_pointwise:
            return Blocks(self.weight[..., 0, 0], nothing, 1.0)
        # Products with 0 and 1, and sums with at most one term that is not zero, are exact.
        matrices = self._expanded(self.weight)
        if any(axis.overlaps for axis in self.axes):  # several taps meet in one pixel of a small torus
            n_terms = self.weight.shape[3] + self.weight.shape[4]
            return Blocks(matrices, 2.0 * gamma(n_terms) * frobenius(self._expanded(self.weight.abs())).amax(), 1.0)
        return Blocks(matrices, nothing, 1.0)

    def apply(self, v: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return A v of v [groups, in, h, w] (h = w = 1 if pointwise), with `weight` in place of that of the map.

        Each number is a sum of in kh kw products; picking out what the taps see is exact.
        """
        weight = self.weight if weight is None else weight
        if self.is_pointwise:
            return torch.einsum("goi,giyx->goyx", weight[..., 0, 0], v)
        rows, columns = self.selections()
        if weight.shape[1] < weight.shape[2]:  # pixels are moved in the fewer channels
            taps = torch.einsum("goiab,giyx->goabyx", weight, v)
            return torch.einsum("goayq,apy->gopq", torch.einsum("goabyx,bqx->goayq", taps, columns), rows)
        seen = torch.einsum("giybq,apy->giabpq", torch.einsum("giyx,bqx->giybq", v, columns), rows)
        return torch.einsum("goiab,giabpq->gopq", weight, seen)

    def transposed(self, u: Tensor) -> Tensor:
        """Return A^T u of u [groups, out, oh, ow]."""
        if self.is_pointwise:
            return torch.einsum("goi,goyx->giyx", self.weight[..., 0, 0], u)
        rows, columns = self.selections()
        if self.weight.shape[1] < self.weight.shape[2]:
            sent = torch.einsum("gobpx,apy->goabyx", torch.einsum("gopq,bqx->gobpx", u, columns), rows)
            return torch.einsum("goiab,goabyx->giyx", self.weight, sent)
        taps = torch.einsum("goiab,gopq->giabpq", self.weight, u)
        return torch.einsum("giybq,bqx->giyx", torch.einsum("giabpq,apy->giybq", taps, rows), columns)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape that `apply` takes."""
        return self.weight.shape[0], self.weight.shape[2], *((1, 1) if self.is_pointwise else self.geometry.image_size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape that `apply` returns."""
        return self.weight.shape[0], self.weight.shape[1], *((1, 1) if self.is_pointwise else self.output_size)

    def vectors(self, block: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors of one block of `explicit` as those of the map."""
        full = []
        for vector, pixels, place in zip((u, v), (self.output_size, self.geometry.image_size), (0, 1), strict=True):
            groups = vector.new_zeros(self.weight.shape[0], vector.numel(), *(pixels if self.is_pointwise else ()))
            if self.is_matrix:
                groups[0, :, 0, 0] = vector
            elif self.is_pointwise:
                row, column = (axis.meeting()[place] for axis in self.axes)
                groups[block, :, row, column] = vector
            else:
                groups[block] = vector
            full.append(groups.reshape(-1) if self.is_matrix else groups.reshape(-1, *pixels))
        return full[0], full[1]

    def _expanded(self, weight: Tensor) -> Tensor:
        operator: Tensor = torch.einsum("goiab,apy,bqx->gopqiyx", weight, *self.selections())
        return operator.reshape(-1, *self.sides)

    def torus(self) -> Iterator[Blocks]:
        """Yield the matrices of the frequencies of a torus, some at a time: one of two that are conjugate.

        A convolution with zero padding is P T E: E puts the image on a torus so large that nothing comes round, T is
        the convolution there, P takes the outputs at every `stride`-th pixel. E and P have norm 1, so it is at most
        max over the coarse frequencies of |[K(f_1) .. K(f_s)]| / sqrt(s), where K is the transfer matrix of the kernel
        and f_1 .. f_s are the s frequencies that the stride folds into one.
        """
        groups, out, in_, kh, kw = self.weight.shape
        vertical, horizontal = self.axes
        folds = vertical.folds * horizontal.folds
        factor = math.sqrt(vertical.multiplicity * horizontal.multiplicity) * (1.0 + 8.0 * UNIT)
        # The phases are off by less than 32 u (the angle below 2 pi by 16, sine and cosine by a few), the sums over
        # taps by gamma of their length, both twice and with a factor of 2 for complex arithmetic.
        error = 8.0 * (kh + kw + 128) * UNIT * frobenius(self.weight.abs().sum((-2, -1))).amax()
        right = horizontal.phases(torch.arange(horizontal.coarse // 2 + 1), self.weight.device)
        per_row = groups * out * in_ * folds * right.shape[1]
        n_rows = max(1, _CHUNK // per_row)
        for first in range(0, vertical.coarse, n_rows):
            rows = torch.arange(first, min(first + n_rows, vertical.coarse))
            left = vertical.phases(rows, self.weight.device)
            narrow = torch.einsum("goiab,bdm->goiadm", self.weight.to(right.dtype), right)
            transfer = torch.einsum("goiadm,acl->gcdolmi", narrow, left)
            yield Blocks(transfer.reshape(-1, out, folds * in_) / math.sqrt(folds), error, factor)


@dataclass(frozen=True)
class _Axis:
    """One of the two dimensions of a convolution."""

    size: int
    output_size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    circular: bool

    @cached_property
    def positions(self) -> Tensor:
        """Return where on the input, continued beyond its borders, every tap is for every output pixel, [k, out]."""
        starts = torch.arange(self.output_size) * self.stride - self.padding
        return starts + torch.arange(self.kernel).unsqueeze(1) * self.dilation

    def selection(self, device: torch.device) -> Tensor:
        positions = self.positions
        if self.circular:
            positions = positions % self.size
        pixels = torch.arange(self.size)
        return (positions.unsqueeze(-1) == pixels).to(device=device, dtype=torch.float64)

    def meeting(self) -> tuple[int, int]:
        """Return an output pixel and the input pixel that the first tap sends to it; 0 and 0 if there are none."""
        pairs = self.selection(torch.device("cpu"))[0].nonzero()
        return (int(pairs[0, 0]), int(pairs[0, 1])) if len(pairs) else (0, 0)

    @property
    def overlaps(self) -> bool:
        """Whether two taps may see the same pixel."""
        return self.circular and self.dilation * (self.kernel - 1) >= self.size

    @cached_property
    def n(self) -> int:
        """The size of the torus."""
        if self.circular:
            return self.size
        # What lies outside the image on one side may come round to what lies outside it on the other, not further.
        positions = self.positions
        beyond = max(self.padding, int(positions.max()) - self.size + 1)
        n = max(self.size + beyond, (self.output_size - 1) * self.stride + 1)
        return -(-n // self.stride) * self.stride

    @property
    def folds(self) -> int:
        """Number of frequencies that the stride folds into one; 1 where the stride does not fit round the torus."""
        return self.stride if self.n % self.stride == 0 else 1

    @property
    def coarse(self) -> int:
        return self.n // self.folds

    @cached_property
    def multiplicity(self) -> int:
        """How often one output pixel of the torus is written: more than once if circular padding goes round it."""
        places = self.positions[0] % self.n
        return int(places.bincount().max())

    @property
    def is_whole(self) -> bool:
        """Whether the outputs are those of the torus, each once."""
        return self.multiplicity == 1 and self.output_size == self.coarse

    def phases(self, frequencies: Tensor, device: torch.device) -> Tensor:
        """Return exp(2 pi i a f / n) [k, frequencies, folds] of every tap a at the frequencies f folded into these."""
        folded = frequencies.unsqueeze(1) + self.coarse * torch.arange(self.folds)
        turns = (torch.arange(self.kernel).view(-1, 1, 1) * self.dilation * folded) % self.n
        angles = turns.to(device=device, dtype=torch.float64) * (2.0 * math.pi / self.n)
        return torch.polar(torch.ones_like(angles), angles)


def check(weight: Tensor, geometry: ConvGeometry | None, padding_mode: str) -> None:
    """Raise ValueError unless these describe a linear map."""
    if padding_mode not in ("zeros", "circular"):
        raise ValueError(f"padding_mode must be 'zeros' or 'circular', got {padding_mode!r}; pad before the layer.")
    shape = tuple(weight.shape)
    if weight.numel() == 0 or not weight.is_floating_point():
        raise ValueError(f"weight must hold floating point numbers, got {weight.dtype} of shape {shape}; pass some.")
    if geometry is None:
        if weight.dim() != 2 and not (weight.dim() == 4 and shape[2:] == (1, 1)):
            raise ValueError(
                f"weight must have shape [out, in] or [out, in, 1, 1] without a geometry, got {shape}; pass the "
                f"ConvGeometry of the convolution."
            )
        return
    if weight.dim() != 4:
        raise ValueError(f"weight must have shape [out, in / groups, kh, kw] with a geometry, got {shape}; reshape it.")
    if geometry.groups < 1 or shape[0] % geometry.groups:
        raise ValueError(f"groups must divide the {shape[0]} outputs of weight, got {geometry.groups}; change it.")
    if min(*geometry.image_size, *geometry.stride, *geometry.dilation) < 1 or min(geometry.padding) < 0:
        raise ValueError(f"geometry must have positive sizes and no negative padding, got {geometry}; change it.")
    if min(geometry.output_size((shape[2], shape[3]))) < 1:
        raise ValueError(
            f"geometry must leave at least one output pixel to a kernel {shape[2:]}, got {geometry}; increase the "
            f"image size or the padding."
        )
