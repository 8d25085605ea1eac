"""Several tensors in one, as the raw ops return them: few outputs make a call cheap."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the pieces of a packed tensor in the shapes of `like`."""
    # Not by torch's unflatten_dense_tensors, which gives zeros when the compiler of torch 2.11 traces it.
    pieces = packed.split_with_sizes([tensor.numel() for tensor in like])
    return [piece if tensor.dim() == 1 else piece.view_as(tensor) for piece, tensor in zip(pieces, like, strict=True)]
