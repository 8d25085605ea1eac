"""An emulated CUDA graph on the CPU: it records the operators of a step and runs them again on the same memory.

The rules of a capture hold. Its operators compute nothing: all memory from outside is as before, what it made holds
rubbish until the first replay, and the generator has not moved. Its own memory stays; memory from outside is not kept,
and a replay that would touch some which is gone is an error, where a real one would read what others have put there.
The host cannot read a number, nor can numbers come from memory the host has just filled.
"""

import itertools
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from iresnet_fast import _capture

_numbers = itertools.count(1)

# Operators that wait for the device on a GPU. A tensor of a list is `lift_fresh`: a copy from pageable memory.
_READS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "_linalg_check_errors"}
_WAITS = _READS | {"lift_fresh"}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies."""

    memory: int  # index in the graph's list
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class EmulatedGraph:
    """What torch.cuda.CUDAGraph is on a GPU, for CPU tensors."""

    def __init__(self):
        self._memory = []  # storages of the graph's own, weak references to others
        self._index = {}  # of the storage at an address: a weak reference keeps the address from being used again
        self._calls = []

    @contextmanager
    def capture(self):
        """Record what the block does."""
        number, state, before = next(_numbers), torch.get_rng_state(), {}
        try:
            with patch.object(_capture, "of", lambda tensor: number), _NoReads(), _Recorder(self, before):
                yield
        finally:
            for storage, content in before.values():
                storage.copy_(content)
            for storage in self._memory:
                if isinstance(storage, torch.UntypedStorage):
                    storage.fill_(0xFF)  # NaN
            torch.set_rng_state(state)

    @torch.no_grad()
    def replay(self):
        """Run the recorded operators again."""
        for storage in self._memory:
            if isinstance(storage, StorageWeakRef) and storage.expired():
                raise RuntimeError("the graph reads freed memory: a tensor from outside its capture is gone")
        for function, (args, kwargs), results in self._calls:
            given = tree_map_only(Place, self._tensor, (args, kwargs))
            found = function(*given[0], **given[1])
            used = {place.memory for place in tree_leaves((args, kwargs)) if isinstance(place, Place)}
            for place, result in zip(tree_leaves(results), tree_leaves(found), strict=True):
                if isinstance(place, Place) and place.memory not in used:  # else it is a view, or written in place
                    self._tensor(place).copy_(result)

    def place(self, tensor, own=False):
        """Return where a tensor is; memory not met before is the graph's own, or from outside."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._index:
            self._index[storage._cdata] = len(self._memory)
            self._memory.append(storage if own else StorageWeakRef(storage))
        memory = self._index[storage._cdata]
        return Place(memory, tensor.dtype, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())

    def is_outside(self, place):
        """Whether memory is not the graph's own."""
        return isinstance(self._memory[place.memory], StorageWeakRef)

    def record(self, function, arguments, results):
        """Take note of a call, whose tensors are places."""
        self._calls.append((function, arguments, results))

    def _tensor(self, place):
        storage = self._memory[place.memory]
        if isinstance(storage, StorageWeakRef):
            storage = torch.UntypedStorage._new_with_weak_ptr(storage.cdata)
        return torch.empty(0, dtype=place.dtype).set_(storage, place.offset, place.size, place.stride)


class _Recorder(TorchDispatchMode):
    """Records every operator, those of autograd's backward pass too."""

    def __init__(self, graph, before):
        super().__init__()
        self._graph, self._before = graph, before

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.namespace == "profiler":
            return function(*args, **kwargs)
        name = function._schema.name.split("::")[1]
        by_mask = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in _WAITS or by_mask:
            raise RuntimeError(f"operation not permitted when stream is capturing: {function} waits for the device")
        arguments = tree_map_only(Tensor, self._graph.place, (args, kwargs))
        self._keep_what_is_written(function, args, kwargs)
        results = function(*args, **kwargs)
        places = tree_map_only(Tensor, lambda tensor: self._graph.place(tensor, own=True), results)
        self._graph.record(function, arguments, places)
        return results

    def _keep_what_is_written(self, function, args, kwargs):
        for i, argument in enumerate(function._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            for tensor in tree_leaves(value):
                place = None if tensor is None else self._graph.place(tensor)
                if place is not None and self._graph.is_outside(place) and place.memory not in self._before:
                    storage = tensor.untyped_storage()
                    self._before[place.memory] = storage, storage.clone()


class _NoReads(TorchFunctionMode):
    """Refuses the reads that the dispatcher does not see."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (Tensor.tolist, Tensor.numpy):
            raise RuntimeError(f"operation not permitted when stream is capturing: {function.__name__} reads")
        return function(*args, **(kwargs or {}))


def capture(step, device, n_warmups=3):
    """Return the graph of a step, captured as torch's documents tell: after some runs on a side stream."""
    if device != "cuda":
        for _ in range(n_warmups):
            step()
        graph = EmulatedGraph()
        with graph.capture():
            step()
        return graph
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(n_warmups):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph
