"""Operands of tensor-core products: rounded once, when they are stored (csrc/cuda/device/operand.cuh)."""

import torch

FULL, TF32, BF16 = range(3)


def rounded(x, precision):
    """Return the values of float32 numbers as operands, as numbers of the same type."""
    if precision == BF16:
        return x.bfloat16().to(x.dtype)
    if precision == FULL:
        return x
    bits = x.float().contiguous().view(torch.int32)  # to 10 bits of the mantissa, ties away from zero
    return ((bits + 0x1000) & -0x2000).view(torch.float32).to(x.dtype)


def stored(x, precision):
    """Return operands as they lie in memory: in their own type, or as bfloat16."""
    return x.bfloat16() if precision == BF16 else rounded(x, precision)
