"""Linear maps as matrices: the map itself, or matrices on a torus that bound it, one for each frequency."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .._inputs import check_tensor
from ..geometry import ConvGeometry
from ._axis import Axis
from ._rounding import UNIT, frobenius, gamma

# The Gram matrix of a k x k convolution is written out up to this side, whose factorisation takes 0.3 s on one core.
LARGEST_SIDE = 2048
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
        rows, columns = (axis.seeing for axis in self.axes)
        if not all(rows + columns):  # the others do nothing, and no bound should depend on them
            sees = [torch.tensor(seeing, device=weight.device) for seeing in (rows, columns)]
            self.weight = self.weight.where(sees[0].unsqueeze(1) & sees[1], 0.0)

    def _axis(self, i: int) -> Axis:
        size, stride, padding, dilation, _ = self.geometry
        kernel = self.weight.shape[3 + i]
        return Axis(size[i], self.output_size[i], kernel, stride[i], padding[i], dilation[i], self.circular)

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

    @property
    def overlaps(self) -> bool:
        """Whether an output may see the same pixel by several taps."""
        return any(axis.overlaps for axis in self.axes)

    @property
    def acts_on_fewer(self) -> bool:
        """Whether there are no more inputs than outputs, so that A^T A is the smaller Gram matrix."""
        return self.sides[1] <= self.sides[0]

    def is_explicit(self, largest_side: int = LARGEST_SIDE) -> bool:
        """Whether the operator is pointwise, or small enough for its Gram matrix."""
        return self.is_pointwise or min(self.sides) <= largest_side

    @property
    def is_torus(self) -> bool:
        """Whether the operator is a convolution on a torus: the matrices of its frequencies have its norm exactly."""
        return self.circular and all(axis.is_whole for axis in self.axes)

    def selections(self) -> tuple[Tensor, Tensor]:
        """Return for both dimensions the input pixels [k, out, in] that each tap sends to each output pixel, 0 or 1."""
        rows, columns = (axis.selection(self.weight.device) for axis in self.axes)
        return rows, columns

    def gram(self) -> tuple[Tensor, Tensor]:
        """Return A^T A or A A^T, whichever is smaller, of each group, [groups, n, n], and a bound [] of its rounding.

        That of a k x k convolution comes from products of its taps, since each of its numbers is a sum over the pixels
        that two taps share: a fraction of the cost of the operator's own product. A sum of m products is off by
        gamma_m |A|^T |A|, of Frobenius norm at most gamma_m times the square of that of |A|.
        """
        w = self.weight
        _, out, in_, kh, kw = w.shape
        if self.is_pointwise:
            a = w[..., 0, 0] if self.acts_on_fewer else w[..., 0, 0].mT
            return a.mT @ a, (gamma(a.shape[-2] + 8) * frobenius(a).square()).amax()
        rows, columns = self.selections()
        if self.acts_on_fewer:
            n_terms, taps = out, torch.einsum("goiab,gojcd->gijacbd", w, w)
            shared = [torch.einsum("apy,cpz->acyz", e, e) for e in (rows, columns)]
        else:
            n_terms, taps = in_, torch.einsum("goiab,gpicd->gopacbd", w, w)
            shared = [torch.einsum("apy,cqy->acpq", e, e) for e in (rows, columns)]
        lines = torch.einsum("gijacbd,acyz->gijbdyz", taps, shared[0])
        matrices = torch.einsum("gijbdyz,bdxv->giyxjzv", lines, shared[1])
        # Each tap meets each output pixel once at most, and all of them may meet in one number of |A|.
        n_meetings = math.prod(self.output_size) * (kh * kw if self.overlaps else 1)
        size = frobenius(w.flatten(1, 2).flatten(2)) * math.sqrt(n_meetings)
        error = gamma(n_terms * (kh * kw) ** 2 + 8) * size.square() * (1.0 + 8.0 * UNIT)
        n = min(self.sides)
        return matrices.reshape(-1, n, n), error.amax()

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

    def vectors(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return an output and an input of `apply` in the shapes of the map: [out], or [out, oh, ow] and [in, h, w]."""
        if self.is_matrix:
            return u.flatten(), v.flatten()
        if self.is_pointwise:
            (row_out, row_in), (column_out, column_in) = (axis.meeting for axis in self.axes)
            outputs = u.new_zeros(u.numel(), *self.output_size)
            inputs = v.new_zeros(v.numel(), *self.geometry.image_size)
            outputs[:, row_out, column_out], inputs[:, row_in, column_in] = u.flatten(), v.flatten()
            return outputs, inputs
        return u.flatten(0, 1), v.flatten(0, 1)

    def tori(self) -> Iterator[Iterator[Blocks]]:
        """Yield the matrices of every torus that bounds the map, see `torus`."""
        for half_turns in itertools.product(*(axis.half_turns for axis in self.axes)):
            yield self.torus(*half_turns)

    def torus(self, down: int, across: int) -> Iterator[Blocks]:
        """Yield the matrices of the frequencies of a torus, some at a time: one of two that are conjugate.

        A convolution with zero padding is P T E: E puts the image on a torus so large that nothing comes round, T is
        the convolution there, P takes the outputs at every `stride`-th pixel. E and P have norm 1, so it is at most
        max over the coarse frequencies of |[K(f_1) .. K(f_s)]| / sqrt(s), where K is the transfer matrix of the kernel
        and f_1 .. f_s are the s frequencies that the stride folds into one. The torus may be twisted by half turns.
        """
        groups, out, in_, kh, kw = self.weight.shape
        vertical, horizontal = self.axes
        folds = vertical.folds * horizontal.folds
        factor = math.sqrt(vertical.multiplicity * horizontal.multiplicity) * (1.0 + 8.0 * UNIT)
        # The phases are off by less than 32 u (the angle below 2 pi by 16, sine and cosine by a few), the sums over
        # taps by gamma of their length, both twice and with a factor of 2 for complex arithmetic.
        error = 8.0 * (kh + kw + 128) * UNIT * frobenius(self.weight.abs().sum((-2, -1))).amax()
        right = horizontal.phases(0, horizontal.frequencies(across), across, self.weight.device)
        n_rows = max(1, _CHUNK // (groups * out * in_ * folds * right.shape[1]))
        for first in range(0, vertical.coarse, n_rows):
            left = vertical.phases(first, min(first + n_rows, vertical.coarse), down, self.weight.device)
            narrow = torch.einsum("goiab,bdm->goiadm", self.weight.to(right.dtype), right)
            transfer = torch.einsum("goiadm,acl->gcdolmi", narrow, left)
            yield Blocks(transfer.reshape(-1, out, folds * in_) / math.sqrt(folds), error, factor)


def check(weight: Tensor, geometry: ConvGeometry | None, padding_mode: str) -> None:
    """Raise ValueError, or TypeError, unless these describe a linear map."""
    check_tensor(weight, "weight")
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
    if not isinstance(geometry, ConvGeometry):
        raise TypeError(f"geometry must be a ConvGeometry or None, got {geometry!r}; pass one of them.")
    geometry.vector_shapes(shape)
