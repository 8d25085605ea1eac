"""Random numbers that are functions of a sample: its key is a hash of its bits, every number a hash of key and place.

So what a model draws outside training does not depend on the batch that a sample comes in, on the order, the process
or the device, and is independent between samples that differ. Keys, signs and uniform numbers are the same to the bit,
normal numbers to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_BITS = 0xFFFFFFFF
_MULTIPLIER = 0x45D9F3B


def sample_keys(x: Tensor) -> Tensor:
    """Return a 32-bit hash [B], int64, of the numbers of each sample of x [B, *event] and of their places.

    Numbers that are equal have one hash, whatever their dtype: 7 as uint8 and as float32, 0 and -0.
    """
    numbers = x.detach().flatten(1).double()
    words = numbers.contiguous().masked_fill(numbers == 0.0, 0.0).view(torch.int32).to(torch.int64) & _BITS
    places = _scramble(torch.arange(words.shape[1], device=x.device))
    return _scramble(_scramble(words ^ places).sum(1) & _BITS)


def row_keys(seed: int | Tensor, first: int, n: int, device: torch.device) -> Tensor:
    """Return two keys [2, n] for each of rows first .. first + n - 1 of what is drawn from a seed."""
    numbers = torch.arange(first, first + n, device=device)
    rows = mixed(torch.zeros_like(numbers), numbers)
    return mixed(torch.stack((rows, mixed(rows, 1))), seed)


def mixed(keys: Tensor, number: int | Tensor) -> Tensor:
    """Return other keys for every number from 0 to 2^64 - 1: of the parts of a model, of seeds."""
    keys = _scramble(keys + _MULTIPLIER * ((number & _BITS) + 1) & _BITS)
    if isinstance(number, Tensor):
        high = number >> 32 & _BITS
        return torch.where(high == 0, keys, _scramble(keys ^ high))
    return _scramble(keys ^ number >> 32) if number >> 32 else keys


def hashed_probe(keys: Tensor, x: Tensor, n_probes: int, kind: str, seed: int) -> Tensor:
    """Return a probe of unit variance shaped like x [B, *event], or [n_probes, *x.shape] for more than one.

    Args:
        keys: of the samples, [B].
        x: for its shape, dtype and device.
        n_probes: how many.
        kind: "rademacher" or "gaussian".
        seed: other probes for another.
    """
    keys = mixed(keys, seed)
    if n_probes > 1:
        keys = torch.stack([mixed(keys, probe) for probe in range(n_probes)])
    bits = _hashed_bits(keys, x.shape[1:])
    if kind == "gaussian":
        # 23 bits at the middle of their cells: exact in float32, and never -1 or 1.
        uniform = ((bits >> 9).float() + 0.5) * 2.0**-22 - 1.0
        return (torch.erfinv(uniform) * math.sqrt(2.0)).to(x.dtype)
    return ((bits >> 30 & 2) - 1).to(x.dtype)


def hashed_uniform(keys: Tensor, x: Tensor, seed: int) -> Tensor:
    """Return noise shaped like x, uniform in (0, 1); arguments as of `hashed_probe`."""
    bits = _hashed_bits(mixed(keys, seed), x.shape[1:])
    uniform = (((bits >> 9).float() + 0.5) * 2.0**-23).to(x.dtype)  # the middles of 2^23 cells
    return uniform.clamp(max=1.0 - 0.5 * torch.finfo(x.dtype).eps)  # to which a narrow dtype would round them


def hashed_normal(keys: Tensor, event_shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return normal numbers [B, *event_shape] of 52 random bits each, of two keys [2, B] for each row."""
    bits = _hashed_bits(keys[0], (2, *event_shape))
    # By one key of 32 bits, two of a hundred thousand rows would be the same.
    high, low = _scramble(bits ^ keys[1].view(-1, *[1] * (bits.dim() - 1))).unbind(1)
    uniform = ((high << 20 | low >> 12).double() + 0.5) * 2.0**-51 - 1.0
    return (torch.erfinv(uniform) * math.sqrt(2.0)).to(dtype)


def _hashed_bits(keys: Tensor, event_shape: Sequence[int]) -> Tensor:
    """Return int64 numbers [*keys.shape, *event_shape] of 32 bits, each a hash of a key and a place in the event."""
    n = math.prod(event_shape)
    places = _scramble(torch.arange(n, device=keys.device) + 1)
    return _scramble(keys[..., None] ^ places).view(*keys.shape, *event_shape)


def _scramble(h: Tensor) -> Tensor:
    """Mix the bits of int64 numbers that are below 2^32; the multiplier is below 2^31, so nothing overflows."""
    for _ in range(2):
        h = (h ^ h >> 16) * _MULTIPLIER & _BITS
    return h ^ h >> 16
