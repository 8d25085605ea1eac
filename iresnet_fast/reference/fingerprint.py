"""A number by which a changed weight is noticed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from iresnet_fast import _spectral_checks

_STEP = 0x9E3779B97F4A7C15 - (1 << 64)  # the golden ratio of 64 bits, as int64
_WORD = 0xFFFFFFFF


@torch.no_grad()
def fingerprint(weights: Sequence[Tensor]) -> Tensor:
    """Return a 64-bit hash of the bits of each weight.

    Arguments, results and errors: those of `iresnet_fast.ops.fingerprint`.
    """
    _spectral_checks.check_weights(weights)
    if not weights:
        return torch.empty(0, dtype=torch.int64)
    return torch.stack([_hash(weight) for weight in weights])


def _hash(weight: Tensor) -> Tensor:
    """Sum over words of 64 bits of low half * high half + itself, each after adding its position times a constant."""
    octets = weight.contiguous().flatten().view(torch.uint8)
    words = F.pad(octets, (0, -octets.numel() % 8)).view(torch.int64)
    words = words + (1 + torch.arange(words.numel(), device=words.device)) * _STEP
    return ((words & _WORD) * (words >> 32 & _WORD) + words).sum()
