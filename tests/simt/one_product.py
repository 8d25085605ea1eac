"""One product of the layered way by a route of one's choice, from the entry one_product."""

from ctypes import Structure, c_double, c_int, c_int64, c_void_p, pointer
from typing import NamedTuple

import torch

from .emulator import Buffer
from .resident import pack_operands, pack_rows, pad_channels
from .rounding import stored
from .structs import Target

DIRECT, BY_TAPS, LIBRARY = range(3)


class Product(NamedTuple):
    """C = A W: K channels in, N out, on images of which a dense sample is one pixel."""

    K: int
    N: int
    kernel: int
    image: tuple[int, int]
    items: int

    @property
    def rows(self):
        return self.items * self.image[0] * self.image[1]

    def tensors(self, generator):
        """x [items, K, *image], a weight and D [items, N, *image] in float64, so that sums have size 1."""
        draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
        weight = draw(self.N, self.K, self.kernel, self.kernel) / (self.K * self.kernel**2) ** 0.5
        return draw(self.items, self.K, *self.image), weight, draw(self.items, self.N, *self.image)


class ProductCase(Structure):
    _fields_ = (
        *((name, c_int) for name in ("K", "N", "kernel")),
        ("rows", c_int64),
        *((name, c_int) for name in ("height", "width", "route")),
        *((name, c_void_p) for name in ("a", "weights", "derivatives", "out")),
        ("microseconds", c_double),
        ("fastest", c_int),
    )


def _call(emulator, product, route, card, precision, tensors=(None,) * 4):
    case = ProductCase(product.K, product.N, product.kernel, product.rows, *product.image, route)
    case.a, case.weights, case.derivatives, case.out = (None if t is None else t.data_ptr() for t in tensors)
    names = ("rows", "weights", "derivatives", "out")
    buffers = [Buffer(n, t, n == "out") for n, t in zip(names, tensors, strict=True) if t is not None]
    emulator.call("one_product", pointer(case), Target(card.encode(), precision), buffers=buffers)
    return case


def modelled(emulator, product, route, card, precision):
    """The microseconds of a route by the model, 0 if there is none, and the route that the model takes."""
    case = _call(emulator, product, route, card, precision)
    return case.microseconds, case.fastest


class Packed:
    """The operands of a product as kernels read them. `place` says where they are to lie."""

    def __init__(self, product, tensors, precision, place=lambda t: t):
        x, weight, derivatives = (t.float() for t in tensors)
        rows, derivatives = stored(pack_rows(x, precision), precision), pack_rows(derivatives, precision)
        out = torch.empty(*rows.shape[:-1], pad_channels(product.N, precision))
        self.product, self.precision = product, precision
        self.tensors = [place(t) for t in (rows, pack_operands(weight, False, precision), derivatives, out)]

    def run(self, emulator, route, card):
        """Multiply by a route that is there; return [items, N, *image], which the next run overwrites."""
        _call(emulator, self.product, route, card, self.precision, self.tensors)
        return self.tensors[-1][..., : self.product.N].movedim(-1, 1)
