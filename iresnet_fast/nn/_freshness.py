"""Whether a layer's norm is that of its weight: what the last refresh saw, against what there is now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from .. import _capture, ops
from ._layer import Norm, SpectralLayer, plain


class Sight(NamedTuple):
    """A weight as it was just before its norm was iterated: what is written meanwhile makes the norm stale."""

    weight: Tensor  # an alias: while it lives, no other tensor can have its address
    version: int
    fingerprint: int | None  # None: not read
    writes: int
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
    """Counts the events after which weights on a GPU may have changed, whoever wrote them and however."""

    count = 0


def expect_writes(*_: Any) -> None:
    """Take note that weights are about to change; a hook of backward passes."""
    _Writes.count += 1


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    expect_writes()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and _capture.of(parameter) is not None:
                parameter.written_by_a_graph = True


def watch_optimizers() -> None:
    """Take note of the steps of all optimizers from now on."""
    register_optimizer_step_post_hook(_after_step)


def look(layers: Sequence[SpectralLayer]) -> list[Sight]:
    """Look at the weights before their norms are iterated."""
    weights = [plain(layer.weight) for layer in layers]
    return [
        Sight(w.detach(), 0 if w.is_inference() else w._version, fingerprint, _Writes.count, _capture.of(w))
        for w, fingerprint in zip(weights, fingerprints(layers), strict=True)
    ]


def record(layer: SpectralLayer, sight: Sight, norm: Norm, settled: bool) -> Seen:
    """Record what a refresh found, just after it has become the buffers of the layer."""
    return Seen(sight, layer.sigma, _versions(layer), norm, settled, layer.strict, layer.training)


def _versions(layer: SpectralLayer) -> tuple[int, ...]:
    return layer.sigma._version, layer.u._version, layer.v._version


def may_have_been_replayed(layer: SpectralLayer) -> bool:
    """Whether a CUDA graph may have changed weight and buffers since anyone looked: a replay leaves no trace."""
    weight = plain(layer.weight)
    in_a_graph = layer.is_captured or getattr(layer.weight, "written_by_a_graph", False)
    return in_a_graph and _capture.of(weight) is None


def shows_a_change(layer: SpectralLayer, seen: Seen | None) -> bool:
    """Whether the weight, the buffers, the mode or a CUDA graph ask for another refresh, without reading the weight."""
    if seen is None or seen.buffer is not layer.sigma or not (seen.training if layer.training else seen.settled):
        return True
    if layer.strict and not seen.strict:
        return True
    weight, sight = plain(layer.weight), seen.sight
    # A graph being captured must hold a refresh of its own, since the weight may change between its replays.
    if may_have_been_replayed(layer) or sight.capture != _capture.of(weight):
        return True
    return (
        weight.is_inference()  # its changes are not counted
        or weight._version != sight.version
        or _versions(layer) != seen.versions
        or weight.dtype != sight.weight.dtype
        or weight.device != sight.weight.device
        # The bits tell more where they are read: a parametrisation makes a new tensor in every call.
        or (not _is_read(layer, weight) and weight.data_ptr() != sight.weight.data_ptr())
        or (weight.is_cuda and layer.training and sight.writes != _Writes.count)
    )


def _is_read(layer: SpectralLayer, weight: Tensor) -> bool:
    return _capture.of(weight) is None and (weight.device.type == "cpu" or not layer.training)


def fingerprints(layers: Sequence[SpectralLayer]) -> list[int | None]:
    """Return a hash of the bits of each weight; None in a capture, and where reading would make training wait."""
    found: list[int | None] = [None] * len(layers)
    calls: dict[torch.device, list[int]] = {}
    for i, layer in enumerate(layers):
        weight = plain(layer.weight)
        if _is_read(layer, weight):
            calls.setdefault(weight.device, []).append(i)
    for members in calls.values():
        hashes = ops.fingerprint([plain(layers[i].weight) for i in members]).tolist()
        for i, value in zip(members, hashes, strict=True):
            found[i] = value
    return found


def stale(layers: Sequence[SpectralLayer], seen: Sequence[Seen | None]) -> list[SpectralLayer]:
    """Return those of the layers whose norm is not, or may not be, that of their weight.

    Only the bits of a weight tell of writes through `p.data`, NumPy views and other ways that autograd cannot see. On a
    GPU in training they are not read: there every step of an optimizer and every backward pass counts as a change.
    """
    changed = {layer for layer, last in zip(layers, seen, strict=True) if shows_a_change(layer, last)}
    rest = [(layer, last) for layer, last in zip(layers, seen, strict=True) if layer not in changed and last]
    if rest:
        now = fingerprints([layer for layer, _ in rest])
        changed.update(
            layer
            for (layer, last), value in zip(rest, now, strict=True)
            if value is not None and value != last.sight.fingerprint
        )
    return [layer for layer in layers if layer in changed]
