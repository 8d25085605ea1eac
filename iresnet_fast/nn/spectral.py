"""Keep sigma up with the weights, for as many layers as possible in one kernel call, and normalise by it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import _checks, ops
from .._torch_private import is_transformed
from ._layer import Norm, SpectralLayer, accept, as_dtype, plain, plainly
from ._sharding import process_group_of, shared_spectral_norm

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup  # not in every build of torch

# The first refresh of a layer, and every one outside training, iterates until sigma changes by less than this.
_TOLERANCE = 1e-5
_MOST_ITERATIONS = 1000
_LOW_PRECISION = (torch.float16, torch.bfloat16)

# Layer -> the layers of its model, from the last update_spectral_norm; kept outside the modules, so that copies and
# pickles carry nothing of it.
_groups: weakref.WeakKeyDictionary[SpectralLayer, list[weakref.ref[SpectralLayer]]] = weakref.WeakKeyDictionary()

# The weights that `normalized_together` has at hand for this thread.
_at_hand = threading.local()


def update_spectral_norm(model: nn.Module, n_iterations: int | None = None, tol: float | None = None) -> Tensor:
    """Iterate all spectral layers of `model` in one kernel call, and let them be refreshed together from now on.

    Eager code need not call it: layers follow their weights by themselves, each branch with a call of its own; after
    this call the first layer asked refreshes all of the model. Code under torch.compile uses the stored sigma: call
    this before compiling and after every optimizer step. Call it also after writing weights through `.data` without
    changing the mode, which no layer can see. Nor can it see replays of a CUDA graph that has captured it: from then on
    it is refreshed whenever it is called.

    Args:
        model: any module that contains SpectralLinear or SpectralConv2d layers.
        n_iterations: of a layer that has converged before; None: the layer's own in training, else up to 1000.
        tol: relative change of sigma at which a layer stops; None: the layer's own in training, else 1e-5; with
            n_iterations given, None runs all of them. The first refresh of a layer always reaches 1e-5.

    Returns:
        sigmas [layers], in the order of model.modules(), without gradient; empty if there are no spectral layers.

    Raises:
        ValueError: a convolution does not know its image size yet, or an argument is out of range.
    """
    if n_iterations is not None:
        _checks.check_count("n_iterations", n_iterations, 0)
    if tol is not None:
        _checks.check_tolerance(tol)
    named = {name: module for name, module in model.named_modules() if isinstance(module, SpectralLayer)}
    for name, layer in named.items():
        if not layer.is_ready:
            raise ValueError(
                f"update_spectral_norm: the image size of {name or 'the model'} must be known, got none; pass "
                f"image_size to SpectralConv2d or run the model once."
            )
    layers = list(named.values())
    members = [weakref.ref(layer) for layer in layers]
    for layer in layers:
        _groups[layer] = members
    _iterate(layers, n_iterations, tol)
    return torch.stack([layer.sigma.to(layers[0].sigma) for layer in layers]) if layers else torch.empty(0)


@contextmanager
def normalized_together(layers: Sequence[SpectralLayer]) -> Iterator[None]:
    """Let `effective_weights` take those of these layers from one call, one node of the graph, inside the block."""
    # The compiler fuses them; without a graph they last, unless replays of a CUDA graph may change the layers.
    last = not _wants_graph(layers) and not any(layer.may_have_been_replayed for layer in layers)
    if torch.compiler.is_compiling() or last:
        yield
        return
    before = getattr(_at_hand, "weights", {})
    _at_hand.weights = before | dict(zip(layers, effective_weights(layers), strict=True))
    try:
        yield
    finally:
        _at_hand.weights = before


def effective_weights(layers: Sequence[SpectralLayer]) -> list[Tensor]:
    """Return the normalised weights of the layers, fresh, in one call each for sigma and for the weights.

    With a gradient to take they carry a graph; otherwise each layer keeps its own until its weight changes.
    """
    if torch.compiler.is_compiling():
        for layer in layers:
            if not layer._warm:
                raise RuntimeError("sigma must be known before tracing, got none; call update_spectral_norm(model).")
        return _normalize(layers, [(layer.sigma, layer.u, layer.v) for layer in layers])
    at_hand: dict[SpectralLayer, Tensor] = getattr(_at_hand, "weights", {})
    if at_hand and all(layer in at_hand for layer in layers):
        return [at_hand[layer] for layer in layers]
    refresh(layers)
    refreshes = []
    for layer in layers:
        assert layer._last is not None  # refreshed above
        refreshes.append(layer._last)
    norms = [last.norm for last in refreshes]
    if _wants_graph(layers) or is_transformed():
        return _normalize(layers, norms)
    if not all(_has_baked(layer) for layer in layers):
        with plainly():
            for layer, last, weight in zip(layers, refreshes, _normalize(layers, norms), strict=True):
                layer._baked = (last, layer.coeff, weight)
    return [layer._baked[2] for layer in layers if layer._baked is not None]


def refresh(layers: Sequence[SpectralLayer]) -> None:
    """Iterate those of the layers whose sigma is out of date, and with them those of their models."""
    if not any(layer.is_stale() for layer in layers):
        return
    wanted = dict.fromkeys(layers)
    groups = {id(members): members for layer in layers if (members := _groups.get(layer)) is not None}
    for members in groups.values():
        for reference in members:
            member = reference()
            # One that may have been replayed is stale at every call: only where it is asked for itself.
            if member is not None and member.is_ready and not member.may_have_been_replayed:
                wanted[member] = None
    _iterate([layer for layer in wanted if layer.is_stale()])


def _wants_graph(layers: Sequence[SpectralLayer]) -> bool:
    return torch.is_grad_enabled() and any(layer.weight.requires_grad for layer in layers)


def _has_baked(layer: SpectralLayer) -> bool:
    baked = layer._baked
    return baked is not None and baked[0] is layer._last and baked[1] == layer.coeff


def _normalize(layers: Sequence[SpectralLayer], norms: Sequence[Norm]) -> list[Tensor]:
    if len({layer.sigma_gradient for layer in layers}) > 1:
        return [weight for pair in zip(layers, norms, strict=True) for weight in _normalize(pair[:1], pair[1:])]
    sigmas, us, vs = zip(*norms, strict=True)
    return ops.spectral_normalize(
        [layer.weight for layer in layers],
        torch.stack(sigmas),
        us,
        vs,
        [layer.geometry for layer in layers],
        [layer.coeff for layer in layers],
        layers[0].sigma_gradient,
    )


def _iterate(layers: Sequence[SpectralLayer], n_iterations: int | None = None, tol: float | None = None) -> None:
    """Refresh the layers, those of one dtype, device, number of iterations and process group in one call."""
    calls: dict[tuple[Any, ...], list[SpectralLayer]] = {}
    for layer in layers:
        most: int
        limit: float | None
        if not layer._warm or (n_iterations is None and not layer.training):
            most, limit = _MOST_ITERATIONS, min(tol or _TOLERANCE, _TOLERANCE)
        elif n_iterations is None:
            most, limit = layer.n_iterations, tol or layer.tol
        else:
            most, limit = n_iterations, tol
        key = (layer.weight.dtype, layer.weight.device, most, limit, process_group_of(layer))
        calls.setdefault(key, []).append(layer)
    with plainly():
        for (dtype, _, most, limit, group), members in calls.items():
            _iterate_alike(members, torch.float32 if dtype in _LOW_PRECISION else dtype, most, limit, group)


def _iterate_alike(
    layers: Sequence[SpectralLayer],
    dtype: torch.dtype,
    most: int,
    limit: float | None,
    group: ProcessGroup | None,
) -> None:
    operators = (
        [as_dtype(plain(layer.weight), dtype) for layer in layers],
        [as_dtype(layer.u, dtype) for layer in layers],
        [as_dtype(layer.v, dtype) for layer in layers],
        [layer.geometry for layer in layers],
    )
    if group is None:
        sigmas, us, vs, _ = ops.spectral_norm(*operators, most, limit)
    else:
        sigmas, us, vs = shared_spectral_norm(*operators, most, limit, group)
    converged = most >= _MOST_ITERATIONS and limit is not None and limit <= _TOLERANCE
    if converged:
        # A layer that had converged on these weights keeps its numbers: a copy, or a checkpoint loaded again,
        # computes the same bits. The kernel takes at least two iterations, each a change below the tolerance.
        old = torch.stack([layer.sigma for layer in layers]).to(dtype)
        settled = (sigmas - old).abs() <= 3.0 * _TOLERANCE * sigmas
        sigmas = torch.where(settled, old, sigmas)
        us = [torch.where(keep, layer.u, u) for keep, layer, u in zip(settled, layers, us, strict=True)]
        vs = [torch.where(keep, layer.v, v) for keep, layer, v in zip(settled, layers, vs, strict=True)]
    accept(layers, sigmas, us, vs, converged)
