"""The weight gradient of one stage by itself: every shape of a block, every remainder, both operand pairs."""

import ctypes
from ctypes import Structure, byref, c_int, c_int64, c_size_t, c_void_p, pointer
from typing import NamedTuple

import pytest
import torch
from torch.nn.functional import pad
from torch.nn.grad import conv2d_weight

from .emulator import Buffer
from .rounding import BF16, FULL, TF32, rounded, stored
from .structs import SCALARS, Target

DEPTH = {FULL: 4, TF32: 8, BF16: 16}  # channels are padded to multiples of it
BOUNDS = {torch.float32: 4e-6, torch.float64: 8e-15}  # of a sum of K products of normal numbers, over sqrt(K)


class Case(NamedTuple):
    """Channels out and in, kernel, image, images of the first and of the second pair."""

    out: int
    inputs: int
    kernel: int = 1
    image: tuple[int, int] = (1, 1)
    images: tuple[int, int] = (33, 33)
    card: str = "t4"


CASES = [
    Case(1, 1, images=(1, 0)),
    Case(1, 1, images=(1, 3)),
    Case(5, 3),
    Case(33, 5, images=(31, 97)),
    Case(2, 128, images=(65, 64)),  # few rows
    Case(128, 2, images=(64, 129)),  # few columns
    Case(64, 130, images=(40, 41)),  # wide
    Case(130, 33, images=(257, 0)),
    Case(3, 5, 3, (5, 9), (3, 2)),
    Case(5, 3, 3, (1, 1), (33, 40)),
    Case(4, 33, 3, (8, 8), (2, 1)),
    Case(33, 4, 3, (1, 35), (2, 2)),
    Case(3, 2, 5, (5, 9), (1, 3)),
    Case(3, 2, 5, (2, 3), (9, 9)),
    Case(2, 3, 7, (3, 4), (4, 4)),
    Case(40, 24, 3, (5, 4), (3, 1)),
]


class Pair(Structure):
    _fields_ = (("left", c_void_p), ("right", c_void_p), ("rows", c_int64))


class Problem(Structure):
    _fields_ = (
        *((name, c_int) for name in ("out_channels", "in_channels", "kernel", "height", "width")),
        *((name, c_int) for name in ("left_pitch", "right_pitch", "precision")),
        ("pair", Pair * 2),
        ("slope_terms", c_void_p),
        ("slope_term_count", c_int64),
        ("partial", c_void_p),
        ("splits", c_int),
        *((name, c_void_p) for name in ("bias", "beta", "result")),
    )


def to_rows(x, precision):
    """[items, channels, height, width] -> operands, [rows, pitch], the pads zero."""
    rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    return stored(pad(rows, (0, -x.shape[1] % DEPTH[precision])), precision).contiguous()


def numbers(case, dtype):
    generator = torch.Generator().manual_seed(7)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    pairs = [(normal(n, case.out, *case.image), normal(n, case.inputs, *case.image)) for n in case.images]
    return pairs, normal(case.images[0] * 3 + 1), normal(1)


def run(emulator, case, dtype, precision=FULL, bias=True, beta=True):
    """Return the gradients of the weight, of the bias and of beta, and the number of splits."""
    pairs, terms, parameter = numbers(case, dtype)
    rows = [tuple(to_rows(x, precision) for x in pair) for pair in pairs]
    shape = (case.out, case.inputs, case.kernel, case.kernel)
    result = terms.new_empty(torch.Size(shape).numel() + case.out * bias + beta)
    problem = Problem(
        *(case.out, case.inputs, case.kernel, *case.image, rows[0][0].shape[1], rows[0][1].shape[1], precision),
        (Pair * 2)(*(Pair(left.data_ptr(), right.data_ptr(), len(left)) for left, right in rows)),
        *(terms.data_ptr() if beta else None, len(terms) if beta else 0, None, 0),
        *(terms.data_ptr() if bias else None, parameter.data_ptr() if beta else None, result.data_ptr()),
    )
    given = {f"{side} {i}": rows[i][k] for i in range(2) for k, side in enumerate(("left", "right"))}
    given |= {"slope terms": terms, "beta": parameter}
    buffers = [Buffer(name, t) for name, t in given.items() if t.numel()] + [Buffer("result", result, True)]
    splits = c_int64()
    emulator.call(
        f"weight_gradient_{SCALARS[dtype][0]}",
        *(pointer(problem), c_size_t(ctypes.sizeof(problem)), Target(case.card.encode(), precision), byref(splits)),
        buffers=buffers,
    )
    parts = result.split([torch.Size(shape).numel(), case.out * bias, int(beta)])
    return (parts[0].view(shape), *parts[1:]), splits.value


def expected(case, dtype, precision=FULL):
    pairs, terms, parameter = numbers(case, dtype)
    pairs = [tuple(rounded(x, precision).double() for x in pair) for pair in pairs]
    weight = sum(
        conv2d_weight(right, (case.out, case.inputs, case.kernel, case.kernel), left, padding=case.kernel // 2)
        for left, right in pairs
        if len(left)
    )
    return weight, pairs[0][0].sum((0, 2, 3)), terms.double().sum() * torch.sigmoid(parameter.double())


def assert_close(case, got, dtype, precision):
    products = sum(case.images) * case.image[0] * case.image[1]
    for a, exact in zip(got, expected(case, dtype, precision), strict=True):
        bound = BOUNDS[dtype] * max(products, len(exact.view(-1))) ** 0.5
        assert (a.double() - exact).abs().max().item() <= bound


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float32, FULL), (torch.float32, TF32), (torch.float32, BF16), (torch.float64, FULL)]
)
def test_matches_torch(emulator, case, dtype, precision):
    got, _ = run(emulator, case, dtype, precision)
    assert_close(case, got, dtype, precision)


def test_leaves_out_what_a_stage_does_not_have(emulator):
    case = CASES[3]
    for bias, beta in ((False, False), (True, False), (False, True)):
        (weight, *rest), _ = run(emulator, case, torch.float32, bias=bias, beta=beta)
        exact = expected(case, torch.float32)
        assert [len(t) for t in rest] == [case.out * bias, int(beta)]
        for a, b in zip((weight, *rest), exact, strict=True):
            if a.numel():
                assert torch.allclose(a.double(), b.expand_as(a), atol=1e-4)


def test_rows_are_shared_out_when_there_are_many(emulator):
    case = Case(3, 2, images=(700, 900), card="h100")
    got, splits = run(emulator, case, torch.float32)
    assert splits > 8
    assert_close(case, got, torch.float32, FULL)


@pytest.mark.parametrize("precision", [FULL, TF32, BF16])
@pytest.mark.parametrize("channels", [(64, 128), (32, 64), (16, 128), (128, 16)])  # exactly one tile of each shape
def test_memory_traffic_is_the_least_possible(checker, channels, precision):
    """Operands are read once, in whole sectors, and no access of the main loop meets a bank twice."""
    case = Case(*channels, images=(512, 64))
    with checker.counting() as counters:
        run(checker, case, torch.float32, precision, beta=False)
    operands = counters.total("read", "global", "weight_gradient.cu")
    assert operands.bytes == sum(channels) * sum(case.images) * (2 if precision == BF16 else 4)
    assert operands.sectors == operands.bytes / 32
    copies = [t for (name, kind, space), t in counters.lines.items() if (kind, space) == ("write", "shared")]
    copies = [t for t in copies if t.bytes == 512 * t.requests]  # by 16 bytes
    assert sum(t.bytes for t in copies) == operands.bytes
    products = counters.total("read", "shared", "outer_tile.cuh")
    for traffic in (*copies, products):
        assert traffic.wavefronts == traffic.bytes / 128
    sums = counters.total("read", "global", "gather_gradients.cu")
    assert sums.sectors <= 1.1 * sums.bytes / 32
