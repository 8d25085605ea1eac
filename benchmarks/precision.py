"""In which precision products are formed: the same switches for ours and for the baselines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

FLOAT32, TF32, BF16 = "float32", "tf32", "bf16"
PRECISIONS = (FLOAT32, TF32, BF16)


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Set torch's switches for matrix products and convolutions alike, and let cudnn try its algorithms.

    With "bf16" they stand as with "float32": narrower are the tensors (of baselines) or autocast (of ours).

    Args:
        precision: one of `PRECISIONS`.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == TF32
    cudnn.benchmark = True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
