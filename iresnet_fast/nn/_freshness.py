"""Whether a layer's norm is that of its weight: what the last refresh saw, against what there is now."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from .. import _capture, ops
from ..geometry import ConvGeometry
from ._layer import Norm, SpectralLayer

Weights = Mapping[SpectralLayer, Tensor]  # the weight of each layer as it is now, not wrapped by torch.func


class Sight(NamedTuple):
    """A weight as it was just before its norm was iterated: what is written meanwhile makes the norm stale."""

    weight: Tensor  # an alias: while it lives, no other tensor can have its address
    geometry: ConvGeometry | None  # of the operator; another thread may call the layer with images of another size
    version: int
    fingerprint: int | None  # None: not read
    writes: int  # number of the last event after which weights may have changed
    capture: int | None  # of the CUDA graph that computes the norm when it is replayed; None: it is there


class Seen(NamedTuple):
    """What a refresh saw of a layer and what it left behind. Never changed, so that threads can share it."""

    sight: Sight
    buffer: Tensor  # sigma as it was then: a swapped or moved buffer is not it
    versions: tuple[int, ...]  # of the buffers, which somebody may write
    norm: Norm
    settled: bool  # as evaluation asks for, not only as far as a training step goes
    strict: bool  # by an upper bound
    training: bool  # the mode; training goes on from what evaluation left, with a refresh of its own, as replays do


class _Writes:
    """Numbers the events after which weights on a GPU may have changed, whoever wrote them and however."""

    numbers = itertools.count(1)
    last = 0


def expect_writes(*_: Any) -> None:
    """Take note that weights are about to change; a hook of backward passes."""
    # Threads of autograd call this at once: each event has a number of its own, in whatever order they are assigned.
    _Writes.last = next(_Writes.numbers)


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    expect_writes()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and _capture.of(parameter) is not None:
                parameter.written_by_a_graph = True


def watch_optimizers() -> None:
    """Take note of the steps of all optimizers from now on."""
    register_optimizer_step_post_hook(_after_step)


def look(weights: Weights) -> list[Sight]:
    """Look at the weights before their norms are iterated."""
    return [
        Sight(w.detach(), layer.geometry, _version(w), fingerprint, _Writes.last, _capture.of(w))
        for (layer, w), fingerprint in zip(weights.items(), fingerprints(weights), strict=True)
    ]


def record(layer: SpectralLayer, sight: Sight, norm: Norm, settled: bool) -> Seen:
    """Record what a refresh found, just after it has become the buffers of the layer."""
    return Seen(sight, layer.sigma, _versions(layer), norm, settled, layer.strict, layer.training)


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version  # changes of inference tensors are not counted


def _versions(layer: SpectralLayer) -> tuple[int, ...]:
    buffers: Any = layer._buffers
    return buffers["sigma"]._version, buffers["u"]._version, buffers["v"]._version


def may_have_been_replayed(layer: SpectralLayer, weight: Tensor) -> bool:
    """Whether a CUDA graph may have changed weight and buffers since anyone looked: a replay leaves no trace."""
    in_a_graph = layer.is_captured or getattr(weight, "written_by_a_graph", False)
    return in_a_graph and _capture.of(weight) is None


def shows_a_change(layer: SpectralLayer, weight: Tensor, seen: Seen | None) -> bool:
    """Whether the weight, the buffers, the mode or a CUDA graph ask for another refresh, without reading the weight."""
    buffers = layer._buffers  # read past the __getattr__ of modules, which takes as long as all the rest
    if seen is None or seen.buffer is not buffers["sigma"] or not (seen.training if layer.training else seen.settled):
        return True
    sight = seen.sight
    if (layer.strict and not seen.strict) or not layer.acts_as(sight.geometry):
        return True
    # A graph being captured must hold a refresh of its own, since the weight may change between its replays.
    if may_have_been_replayed(layer, weight) or sight.capture != _capture.of(weight):
        return True
    is_read = _is_read(layer, weight)
    return (
        _version(weight) != sight.version
        or (weight.is_inference() and not is_read)
        or _versions(layer) != seen.versions
        or weight.dtype != sight.weight.dtype
        or weight.device != sight.weight.device
        # The bits tell more where they are read: a parametrisation makes a new tensor in every call.
        or (not is_read and weight.data_ptr() != sight.weight.data_ptr())
        or (weight.is_cuda and layer.training and sight.writes != _Writes.last)
    )


def _is_read(layer: SpectralLayer, weight: Tensor) -> bool:
    return _capture.of(weight) is None and (weight.device.type == "cpu" or not layer.training)


def fingerprints(weights: Weights) -> list[int | None]:
    """Return a hash of the bits of each weight; None in a capture, and where reading would make training wait."""
    found: dict[SpectralLayer, int | None] = dict.fromkeys(weights)
    calls: dict[torch.device, list[SpectralLayer]] = {}
    for layer, weight in weights.items():
        if _is_read(layer, weight):
            calls.setdefault(weight.device, []).append(layer)
    for members in calls.values():
        found.update(zip(members, ops.fingerprint([weights[layer] for layer in members]).tolist(), strict=True))
    return list(found.values())


def stale(weights: Weights, seen: Sequence[Seen | None]) -> list[SpectralLayer]:
    """Return those of the layers whose norm is not, or may not be, that of their weight.

    Only the bits of a weight tell of writes through `p.data`, NumPy views and other ways that autograd cannot see. On a
    GPU in training they are not read: there every step of an optimizer and every backward pass counts as a change.
    """
    known = dict(zip(weights, seen, strict=True))
    changed = {layer for layer, last in known.items() if shows_a_change(layer, weights[layer], last)}
    rest = [(layer, last) for layer, last in known.items() if layer not in changed and last]
    if rest:
        now = fingerprints({layer: weights[layer] for layer, _ in rest})
        changed.update(
            layer
            for (layer, last), value in zip(rest, now, strict=True)
            if value is not None and value != last.sight.fingerprint
        )
    return [layer for layer in weights if layer in changed]
