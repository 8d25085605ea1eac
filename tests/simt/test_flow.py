"""What stands between the blocks of a flow, on the emulated CUDA kernels: ActNorm and rearrangements."""

import pytest
import torch
from problems import DTYPES

from . import operands
from .emulator import SimtError

# One number, less and more than a vector, whole vectors, several pieces of a sum, more channels than a block adds up.
SHAPES = [
    (1, 1), (2, 3), (5, 4), (130, 33), (200, 64), (3, 300), (1, 1, 1, 1), (3, 2, 2, 2), (5, 3, 3, 5), (2, 300, 1, 1),
    (3, 2, 70, 62), (2, 2, 64, 80),
]  # fmt: skip


def numbers(shape, dtype):
    """x, bias, log_scale and an upstream gradient of z and of the log-determinant, the same for every dtype."""
    generator = torch.Generator().manual_seed(5)
    sizes = (shape, shape[1:2], shape[1:2], shape, shape[:1])
    drawn = [torch.randn(size, generator=generator) for size in sizes]
    drawn[2] *= 0.3
    return [t.to(dtype) for t in drawn]


def normalised(x, bias, log_scale):
    of_channels = (-1, *[1] * (x.dim() - 2))
    z = (x + bias.view(of_channels)) * log_scale.exp().view(of_channels)
    return z, log_scale.expand(x.shape[0], -1).sum(1) * x[0, 0].numel()


def assert_close(got, same, exact, terms):
    """Sums of so many numbers of size 1: 4 sqrt(K) / 2 eps of the largest number, beyond the 2x rule."""
    for a, b, c in zip(got, same, exact, strict=True):
        error, yardstick = ((t.double() - c).abs().max().item() for t in (a, b))
        floor = 2 * terms**0.5 * torch.finfo(a.dtype).eps * max(1.0, c.abs().max().item(), terms**0.5)
        assert error <= 2.0 * yardstick + floor, tuple(a.shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_actnorm_matches_plain_torch(emulator, dtype, shape):
    same, exact = (normalised(*numbers(shape, t)[:3]) for t in (dtype, torch.float64))
    assert_close(operands.actnorm(emulator, *numbers(shape, dtype)[:3]), same, exact, shape[1])


def gradients(shape, dtype):
    *inputs, grad, weight = numbers(shape, dtype)
    leaves = [t.requires_grad_() for t in inputs]
    return torch.autograd.grad(normalised(*leaves), leaves, (grad, weight))


def backward(emulator, shape, dtype, input_gradient=True):
    x, bias, log_scale, grad, weight = numbers(shape, dtype)
    z = normalised(x, bias, log_scale)[0]
    return operands.actnorm_backward(emulator, z, log_scale, grad, weight, input_gradient)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_actnorm_match_plain_torch(emulator, dtype, shape):
    same, exact = gradients(shape, dtype), gradients(shape, torch.float64)
    got = backward(emulator, shape, dtype)
    assert_close(got, same, exact, torch.Size(shape).numel() // shape[1])
    without = backward(emulator, shape, dtype, input_gradient=False)
    assert without[0] is None
    for a, b in zip(got[1:], without[1:], strict=True):
        assert torch.equal(a, b)


def test_without_a_log_determinant_its_gradient_is_left_out(emulator):
    x, bias, log_scale, grad, _ = numbers((7, 5), torch.float64)
    z = normalised(x, bias, log_scale)[0]
    by_log_scale = operands.actnorm_backward(emulator, z, log_scale, grad, None, True)[2]
    torch.testing.assert_close(by_log_scale, (grad * z).sum(0))


@pytest.mark.parametrize("shape", [(5, 8), (3, 2, 2, 4)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_actnorm_of_numbers_anywhere_in_memory(emulator, dtype, shape):
    """Whole vectors that are aligned to a number only."""
    x, bias, log_scale, grad, weight = numbers(shape, dtype)
    moved = [torch.cat((t.new_zeros(1), t.flatten()))[1:].view(t.shape) for t in (x, grad)]
    expected, got = (operands.actnorm(emulator, t, bias, log_scale)[0] for t in (x, moved[0]))
    assert torch.equal(got, expected)
    both = [operands.actnorm_backward(emulator, x, log_scale, t, weight, True) for t in (grad, moved[1])]
    torch.testing.assert_close(*both)


def test_actnorm_of_images_moves_whole_sectors(checker):
    x, bias, log_scale, *_ = numbers((4, 2, 16, 16), torch.float32)
    with checker.counting() as counters:
        operands.actnorm(checker, x, bias, log_scale)
    written = counters.total("write", "global", "actnorm.cu")
    assert written.bytes == 4 * (x.numel() + len(x))
    # 32 lanes of 16 bytes touch 16 sectors; a line of 4 log-determinants touches one.
    assert written.sectors == x.numel() * 4 / 32 + 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (70, 300)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rearrange_and_its_transpose(emulator, dtype, shape):
    x, index = numbers(shape, dtype)[0], torch.randperm(shape[1])
    z = operands.rearrange(emulator, x, index, False)
    assert torch.equal(z, x[:, index])
    assert torch.equal(operands.rearrange(emulator, z, index, True), x)


@pytest.mark.parametrize("beyond", [-1, 4, 1 << 40])
def test_an_index_of_nothing_gives_nan(emulator, beyond):
    z = operands.rearrange(emulator, torch.ones(3, 4), torch.tensor([0, beyond, 2, 3]), False)
    assert z[:, 1].isnan().all()
    assert z[:, [0, 2, 3]].eq(1.0).all()


@pytest.mark.parametrize("beyond", [-1, 4, 1 << 40])
def test_an_index_of_nothing_writes_nothing(checker, beyond):
    with pytest.raises(SimtError, match=r"never written: z\+4"):
        operands.rearrange(checker, torch.ones(3, 4), torch.tensor([0, beyond, 2, 3]), True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_determinants_are_added_up_in_order(emulator, dtype):
    values = torch.randn(5, 300, dtype=dtype)
    expected = values[0].clone()
    for row in values[1:]:
        expected += row
    assert torch.equal(operands.sum_rows(emulator, values), expected)
