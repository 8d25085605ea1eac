"""How exact the products of a branch must be, as torch's own switches say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._torch_private import constant_in_compiled_graphs

FULL_PRECISION = 0


def precision_of(x: Tensor) -> int:
    """Return how exact the products of a branch on x, [B, d] or [B, C, H, W], must be, as the raw ops take it.

    Float32 tensors on a GPU follow torch's own switches, as torch's own layers do: 2 (operands rounded to bf16) under
    autocast to bfloat16, 1 (TF32) where torch.backends.cudnn allows it for convolutions and torch.backends.cuda.matmul
    for dense branches. All else is 0, exact operands. Kernels take a more exact way where it is faster, and their sums
    are never narrower than float32.
    """
    return _float32_precision(x.dim() == 4) if x.is_cuda and x.dtype == torch.float32 else FULL_PRECISION


@constant_in_compiled_graphs
def _float32_precision(convolutional: bool) -> int:
    if torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16:
        return 2
    # Not `allow_tf32`, which raises where both generations of these switches were used.
    backends: Any = torch.backends  # which has no types for all of them
    switch = backends.cudnn.conv if convolutional else backends.cuda.matmul
    return 1 if switch.fp32_precision == "tf32" else FULL_PRECISION
