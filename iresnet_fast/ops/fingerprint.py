"""Hashes of all weights of a model in one kernel call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _library, _spectral_checks, reference


@torch.no_grad()
def fingerprint(weights: Sequence[Tensor]) -> Tensor:
    """Return a 64-bit hash of the bits of each weight, by which one that was written unseen is noticed.

    A sum over words of 64 bits that depends on where each stands, so a swap of two numbers is seen. Not
    cryptographic: that two weights which were not made for it share a hash has a chance of about 2^-64.

    Args:
        weights: tensors of any shape and floating point dtype, all on one device.

    Returns:
        [layers] int64, the same numbers on every device and instruction set.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the tensors are on several devices.
    """
    _spectral_checks.check_weights(weights)
    if not weights or not _kernels_serve(weights[0]):
        return reference.fingerprint(weights)
    result: Tensor = torch.ops.iresnet_fast.fingerprint(weights)
    return result


def _kernels_serve(weight: Tensor) -> bool:
    """Whether the kernels, which take every dtype, serve the device of this tensor; else the reference costs little."""
    return _library.backend() == "kernels" and (weight.is_cpu or (weight.is_cuda and _library.HAS_CUDA))


@_library.register_fake("fingerprint")
def _fingerprint_fake(weights: list[Tensor]) -> Tensor:
    return weights[0].new_empty(len(weights), dtype=torch.int64)
