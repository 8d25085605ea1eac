"""What the processes of torch.distributed compute together."""

from __future__ import annotations

from torch import Tensor, distributed


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum over all ranks, written to `values`; without other ranks the values as they are."""
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        distributed.all_reduce(values)
    return values
