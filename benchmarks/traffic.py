"""What plain torch asks of a device: how many operations it launches and how many bytes they read and write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Operation(NamedTuple):
    """One operation that computes something."""

    name: str
    inputs: tuple[tuple[int, int], ...]  # memory and bytes of each tensor
    outputs: tuple[tuple[int, int], ...]
    multiply_adds: int  # of a product or a convolution, else 0
    elements: int  # of its largest tensor

    @property
    def read(self) -> int:
        """Bytes of its inputs."""
        return sum(count for _, count in self.inputs)

    @property
    def written(self) -> int:
        """Bytes of its outputs."""
        return sum(count for _, count in self.outputs)


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
    with _Recorder() as seen:
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    names = {operation.name for operation in seen.operations}
    return Traffic(_outermost(profiler.events(), names), sum(o.read + o.written for o in seen.operations))


def trace(step: Callable[[], object]) -> list[Operation]:
    """Return the operations of one call of `step` below autograd.

    On the device "meta" nothing is computed, and no two tensors that live one after the other share their memory.
    """
    with _Recorder() as seen:
        step()
    return seen.operations


class _Recorder(TorchDispatchMode):
    """Sees every operation below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._alive: list[Tensor] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if not function.is_view:
            read, written = (
                [leaf for leaf in tree_leaves(part) if isinstance(leaf, Tensor)] for part in ((args, kwargs), result)
            )
            flops = flop_registry.get(function.overloadpacket)
            self.operations.append(
                Operation(
                    function.name().partition(".")[0],
                    *(tuple((t.untyped_storage()._cdata, _bytes(t)) for t in part) for part in (read, written)),
                    multiply_adds=flops(*args, **kwargs, out_val=result) // 2 if flops else 0,
                    elements=max((t.numel() for t in (*read, *written)), default=0),
                )
            )
            self._alive += [tensor for tensor in written if tensor.is_meta]
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
