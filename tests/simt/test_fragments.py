"""The twins of matrix instructions against tables of the PTX manual: which lane holds which element."""

from functools import cache

import pytest
import torch

from .builder import HERE
from .conftest import SCHEDULES
from .emulator import Buffer, Emulator
from .rounding import BF16, TF32, rounded

# Lane, row and column of every element, by the manual's figures: "matrix fragments for mma.m16n8k8" of .tf32,
# "mma.m16n8k16" of .bf16, and "ldmatrix" of 8 x 8 elements of 16 bits.
LANES = [(lane, lane // 4, lane % 4) for lane in range(32)]
TF32_A = [[(g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)] for _, g, t in LANES]
TF32_B = [[(t, g), (t + 4, g)] for _, g, t in LANES]
BF16_A = [
    [(g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1), (g, 2 * t + 8), (g, 2 * t + 9),
     (g + 8, 2 * t + 8), (g + 8, 2 * t + 9)]
    for _, g, t in LANES
]  # fmt: skip
BF16_B = [[(2 * t, g), (2 * t + 1, g), (2 * t + 8, g), (2 * t + 9, g)] for _, g, t in LANES]
SUMS = [[(g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1)] for _, g, t in LANES]


@cache
def library(kind):
    return Emulator(kind, [HERE / "kernels/fragments.cu"], "fragments")


@pytest.fixture(params=SCHEDULES, ids=lambda p: "-".join(map(str, p)))
def fragments(request):
    kind, order, seed = request.param
    with library(kind).schedule(order, seed) as emulator:
        yield emulator


def call(emulator, function, x, out, *more):
    emulator.call(function, x, out, *more, buffers=[Buffer("in", x), Buffer("out", out, True)])
    return out


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_are_loaded_as_documented(fragments, transposed):
    """Lane l passes row l % 8 of matrix l / 8, and gets two elements of row l / 4, or of column l / 4."""
    rows = torch.arange(32 * 8, dtype=torch.int16).view(4, 8, 8)
    got = call(fragments, "load_matrices", rows, torch.empty(32, 4, dtype=torch.int32), 4, int(transposed))
    for m, matrix in enumerate(rows.transpose(1, 2) if transposed else rows):
        expected = torch.stack([matrix[g, 2 * t : 2 * t + 2] for _, g, t in LANES])
        assert torch.equal(got[:, m].contiguous().view(torch.int16).view(32, 2), expected)


@pytest.mark.parametrize(("pitch", "wavefronts"), [(4, 4), (12, 4), (8, 8)])
def test_rows_an_odd_number_of_pieces_apart_meet_no_bank_twice(pitch, wavefronts):
    emulator, rows = library("check"), torch.zeros(32, pitch, dtype=torch.int32)
    with emulator.counting() as counters:
        call(emulator, "load_matrices", rows, torch.empty(32, 4, dtype=torch.int32), pitch, 0)
    read = counters.total("read", "shared", "fragments.cu")
    assert (read.requests, read.bytes, read.wavefronts) == (1, 512, wavefronts)


def test_tf32_products(fragments):
    a, b = (rounded(numbers(*shape), TF32) for shape in ((16, 8), (8, 8)))
    words = [[a[p] for p in of_a] + [b[p] for p in of_b] for of_a, of_b in zip(TF32_A, TF32_B, strict=True)]
    got = call(fragments, "multiply_fragments", torch.tensor(words), torch.empty(32, 4), 0)
    assert_product(got, a, b)


def test_bf16_products(fragments):
    a, b = (numbers(*shape).bfloat16() for shape in ((16, 16), (16, 8)))
    words = [[a[p] for p in of_a] + [b[p] for p in of_b] for of_a, of_b in zip(BF16_A, BF16_B, strict=True)]
    got = call(fragments, "multiply_fragments", torch.tensor(words, dtype=torch.bfloat16), torch.empty(32, 4), 1)
    assert_product(got, a, b)


def assert_product(got, a, b):
    expected = a.double() @ b.double()
    places = torch.tensor(SUMS)
    torch.testing.assert_close(got.double(), expected[places[..., 0], places[..., 1]], rtol=1e-5, atol=1e-5)


def test_operands_are_rounded_to_nearest(fragments):
    """TF32: ties away from zero; bf16: to even."""
    x = numbers(32)
    x[:8] = torch.tensor([1 + 2.0**-11, -1 - 2.0**-11, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 0.0, torch.inf, -torch.inf, 3e38])
    got = call(fragments, "convert_operands", x, torch.empty(32, 2, dtype=torch.int32))
    assert torch.equal(got[:, 0].contiguous().view(torch.float32), rounded(x, TF32))
    pairs = got[:, 1].contiguous().view(torch.bfloat16).view(32, 2)
    assert torch.equal(pairs.float(), torch.stack([rounded(x, BF16), rounded(x.flip(0), BF16)], 1))
