"""How exact the products of a branch must be, as torch's own switches say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._torch_private import constant_in_compiled_graphs

FULL_PRECISION = 0
BF16_PRECISION = 2


def precision_of(x: Tensor) -> int:
    """Return how exact the products of a branch on x, [B, d] or [B, C, H, W], must be, as the raw ops take it.

    Float32 tensors follow torch's own switches, as torch's own layers do: 2 (operands rounded to bf16) under autocast
    to bfloat16 on their device, 1 (TF32) on a GPU where torch.backends.cudnn allows it for convolutions and
    torch.backends.cuda.matmul for dense branches. All else is 0, exact operands. Kernels take a more exact way where it
    is as fast (so all do on a CPU without AVX512-BF16), and their sums are never narrower than float32.
    """
    if x.dtype == torch.float32 and x.is_cpu:
        return _cpu_precision()
    return _cuda_precision(x.dim() == 4) if x.dtype == torch.float32 and x.is_cuda else FULL_PRECISION


@constant_in_compiled_graphs
def _cpu_precision() -> int:
    return BF16_PRECISION if _autocast_to_bfloat16("cpu") else FULL_PRECISION


@constant_in_compiled_graphs
def _cuda_precision(convolutional: bool) -> int:
    if _autocast_to_bfloat16("cuda"):
        return BF16_PRECISION
    # Not `allow_tf32`, which raises where both generations of these switches were used.
    backends: Any = torch.backends  # which has no types for all of them
    switch = backends.cudnn.conv if convolutional else backends.cuda.matmul
    return 1 if switch.fp32_precision == "tf32" else FULL_PRECISION


def _autocast_to_bfloat16(device: str) -> bool:
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
