"""What plain torch asks of a device: how many operations it launches and how many bytes they read and write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Traffic:
    """Operations that compute something (views are free) and bytes of their tensors, inputs plus outputs."""

    operations: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    @property
    def launches(self) -> int:
        """Number of operations: on a GPU each is at least one kernel."""
        return self.operations.total()


def count(step: Callable[[], object]) -> Traffic:
    """Count one call of `step`: its operations with torch's profiler, their bytes from the tensors themselves.

    An operation is taken to read each input and write each output once, as if nothing stayed in a cache.
    """
    with _Bytes() as seen:
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    return Traffic(_outermost(profiler.events(), seen.names), seen.bytes)


class _Bytes(TorchDispatchMode):
    """Sees every operation below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.names.add(function.name().partition(".")[0])
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.bytes += sum(map(_bytes, tensors))
        return result


def _bytes(tensor: Tensor) -> int:
    """Return the bytes behind a tensor; a broadcast dimension is stored once."""
    sizes = [size if stride else 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    return torch.Size(sizes).numel() * tensor.element_size() if tensor.numel() else 0


def _outermost(events: Any, names: set[str]) -> Counter[str]:
    """Return how often each name occurs, without what one of them calls in turn."""

    def inside(event: Any) -> bool:
        parent = event.cpu_parent
        while parent is not None:
            if parent.name in names:
                return True
            parent = parent.cpu_parent
        return False

    return Counter(event.name for event in events if event.name in names and not inside(event))
