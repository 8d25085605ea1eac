"""The way of a weight: is its norm out of date? iterate it; divide by it. For as many layers as possible in one call.

weight -> `_freshness.stale` -> `_norms.follow` or `_norms.settle` -> sigma, u, v -> `_normalize` -> effective weight

`SpectralGroup` goes this way, for layers that are asked alone, in a branch or in a model.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from .. import _capture, _checks, ops
from .._torch_private import copy_all, is_transformed
from . import _norms
from ._compiled import traced_norms
from ._freshness import Seen, expect_writes, may_have_been_replayed, see, stale
from ._layer import Norm, SpectralLayer, as_dtype, plain, plainly
from ._operators import Norms, Operators

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup  # not in every build of torch

_merging = threading.RLock()


class SpectralGroup:
    """The spectral layers that are refreshed together: those of a model, or one alone.

    It owns all that is known of their norms beside the buffers. What it holds of a layer is replaced as a whole and
    never changed, so that threads which evaluate a model at once each see one refresh or the other.

    Attributes:
        process_group: the processes among which a refresh in training is shared out; None: each does all of it.
    """

    def __init__(self, layers: Sequence[SpectralLayer]) -> None:
        """Begin with these layers, of which nothing is known."""
        self.process_group: ProcessGroup | None = None
        self._unsettled: dict[torch.device, int | Tensor] = {}
        self._members = [weakref.ref(layer) for layer in layers]
        self._seen: weakref.WeakKeyDictionary[SpectralLayer, Seen] = weakref.WeakKeyDictionary()
        # Effective weights without a graph, with the refresh and the coeff they are of.
        self._baked: weakref.WeakKeyDictionary[SpectralLayer, tuple[Seen, float, Tensor]] = weakref.WeakKeyDictionary()
        self._at_hand = threading.local()

    @classmethod
    def of(cls, layers: Sequence[SpectralLayer]) -> SpectralGroup:
        """Return the group of these layers. If they are of several, those become one."""
        group = layers[0].group
        if group is not None and all(layer.group is group for layer in layers):
            return group
        with _merging:
            groups = {id(layer.group): layer.group for layer in layers if layer.group is not None}.values()
            merged = cls(list(dict.fromkeys([*(m for g in groups for m in g.members()), *layers])))
            for one in groups:
                merged._seen.update(one._seen)
                merged._baked.update(one._baked)
                merged._unsettled.update(one._unsettled)
                merged.process_group = merged.process_group or one.process_group
            for layer in merged.members():
                layer.group = merged
        return merged

    def members(self) -> list[SpectralLayer]:
        """Return the layers that still live."""
        return [layer for reference in self._members if (layer := reference()) is not None]

    def is_stale(self, layer: SpectralLayer) -> bool:
        """Whether the norm of a layer is not, or may not be, that of its weight."""
        return bool(self._stale([layer]))

    @contextmanager
    def at_hand(self, layers: Sequence[SpectralLayer]) -> Iterator[None]:
        """Normalise these layers once, in one node of the graph, for all calls inside the block."""
        before: dict[SpectralLayer, tuple[Tensor, Tensor]] = getattr(self._at_hand, "weights", {})
        weights = self.effective_weights(layers)
        entries = ((layer.sigma, weight) for layer, weight in zip(layers, weights, strict=True))
        self._at_hand.weights = before | dict(zip(layers, entries, strict=True))
        try:
            yield
        finally:
            self._at_hand.weights = before

    def effective_weights(self, layers: Sequence[SpectralLayer]) -> list[Tensor]:
        """Return the normalised weights of some of its layers."""
        known: dict[SpectralLayer, tuple[Tensor, Tensor]] = getattr(self._at_hand, "weights", {})
        # Another sigma: an image of another size has come.
        if known and all(layer in known and known[layer][0] is layer.sigma for layer in layers):
            return [known[layer][1] for layer in layers]
        seen = self.refresh(layers)
        if _wants_graph(layers) or is_transformed():
            return _normalize(layers, [last.norm for last in seen], expect_writes)
        baked = [self._baked.get(layer) for layer in layers]
        if any(
            known is None or known[0] is not last or known[1] != layer.coeff
            for known, last, layer in zip(baked, seen, layers, strict=True)
        ):
            with plainly():
                weights_now = _normalize(layers, [last.norm for last in seen])
            baked = [(last, layer.coeff, w) for last, layer, w in zip(seen, layers, weights_now, strict=True)]
            self._baked.update(zip(layers, baked, strict=True))
        return [known[2] for known in baked if known is not None]

    def refresh(self, layers: Sequence[SpectralLayer]) -> list[Seen]:
        """Iterate those of the layers that are stale, and with them all others that are; return what is seen of them."""
        with plainly():
            wanted = self._stale(layers)
            if wanted:
                # One that may have been replayed is stale at every call: only where it is asked for itself.
                others = [
                    layer
                    for layer in self.members()
                    if layer not in layers and layer.is_ready and not may_have_been_replayed(layer)
                ]
                self.iterate([*wanted, *self._stale(others)])
        return [self._seen[layer] for layer in layers]

    def iterate(self, layers: Sequence[SpectralLayer], n_iterations: int | None = None, tol: float | None = None) -> None:
        """Find the norms of these layers, stale or not, and record what was seen.

        Those of layers in training follow on from the last ones, unless there are none or they are asked to be upper
        bounds; so do all that are asked for by number of iterations.
        """
        explicit = n_iterations is not None or tol is not None
        settling: list[SpectralLayer] = []
        with plainly():
            calls: dict[tuple[Any, ...], list[SpectralLayer]] = {}
            for layer in layers:
                if not layer.is_warm or layer.strict or not (layer.training or explicit):
                    settling.append(layer)
                    continue
                most = layer.n_iterations if n_iterations is None else n_iterations
                limit = tol or (layer.tol if n_iterations is None else None)
                if layer.companion.numel() <= most:  # with as many steps as the smaller side has numbers it is exact
                    limit = None
                calls.setdefault((layer.weight.dtype, layer.weight.device, most, limit), []).append(layer)
            for (_, _, most, limit), members in calls.items():
                doubtful = [i for i, layer in enumerate(members) if layer.is_doubtful]
                norms, missed = _norms.follow(Operators.of(members), most, limit, self.process_group, doubtful)
                self._accept(members, norms, settled=False)
                if missed is not None:
                    settling += self._unsettled_of(members, missed)
            calls = {}
            for layer in settling:
                calls.setdefault((layer.weight.dtype, layer.weight.device, layer.strict), []).append(layer)
            for (_, _, strict), members in calls.items():
                self._accept(members, _norms.settle(Operators.of(members), strict), settled=True)

    def n_unsettled(self) -> int:
        """Return how many norms have not been settled by the steps that a refresh in training may take.

        On the CPU they were settled at once, as in evaluation. On a GPU, where looking would make the host wait, they
        were increased by their residuals and no more.
        """
        return sum(int(count) for count in self._unsettled.values())

    def _unsettled_of(self, layers: Sequence[SpectralLayer], missed: Tensor) -> list[SpectralLayer]:
        """Count the layers whose norms have not been settled; return those that can be told."""
        there = missed.is_cuda
        found = [] if there else [layer for layer, miss in zip(layers, missed.tolist(), strict=True) if miss]
        self._unsettled[missed.device] = self._unsettled.get(missed.device, 0) + (missed.sum() if there else len(found))
        return found

    def _stale(self, layers: Sequence[SpectralLayer]) -> list[SpectralLayer]:
        return stale(layers, [self._seen.get(layer) for layer in layers])

    def _accept(self, layers: Sequence[SpectralLayer], found: Norms, settled: bool) -> None:
        """Take new norms, tensors that nothing else writes, as the buffers of the layers."""
        kept: list[Tensor] = []
        written: list[Tensor] = []
        norms: list[Norm] = []
        for layer, *values in zip(layers, found.sigmas.unbind(), found.us, found.vs, found.companions, strict=True):
            weight = plain(layer.weight)
            captured = _capture.of(weight) is not None
            sigma, u, v, companion = (as_dtype(value, weight.dtype) for value in values)
            layer.is_captured = layer.is_captured or captured
            if layer.is_captured:
                kept += [layer.sigma, layer.u, layer.v, layer.companion]
                written += [sigma, u, v, companion]
            else:
                # Not by setattr, whose checks cost more than the rest.
                layer._buffers.update(sigma=sigma, u=u, v=v, companion=companion)
            # A capture computes nothing: u and v have not converged before a replay.
            layer.is_warm, layer.is_doubtful = layer.is_warm or (settled and not captured), settled
            norms.append((sigma, u, v))  # not the buffers: what is saved for backward must survive the next refresh
        if kept:
            copy_all(kept, written)
        self._seen.update(zip(layers, see(layers, norms, settled), strict=True))


def update_spectral_norm(model: nn.Module, n_iterations: int | None = None, tol: float | None = None) -> Tensor:
    """Iterate all spectral layers of `model` in one kernel call, and let them be refreshed together from now on.

    No code need call it: layers follow their weights by themselves, whoever writes them and however, also under
    torch.compile; each branch at first with a call of its own, after this call the first layer asked refreshes all of
    the model. What no layer can see are replays of a CUDA graph that has captured it: from then on it is refreshed
    whenever it is called. On a GPU in training mode a layer expects new weights after every backward pass and every
    step of an optimizer; call this after other writes through `.data`.

    Args:
        model: any module that contains SpectralLinear or SpectralConv2d layers.
        n_iterations: Lanczos steps of a layer that has converged before; None: the layer's own in training, else as
            many as its norm to five digits takes.
        tol: relative residual |A^T u - sigma v| / sigma at which a layer stops; None: the layer's own in training; with
            n_iterations given, None runs all of them. The first refresh of a layer always converges.

    Returns:
        sigmas [layers], in the order of model.modules(), without gradient; empty if there are no spectral layers.

    Raises:
        ValueError: a convolution does not know its image size yet, or an argument is out of range.
    """
    if n_iterations is not None:
        _checks.check_count("n_iterations", n_iterations, 1)
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
    if not layers:
        return torch.empty(0)
    SpectralGroup.of(layers).iterate(layers, n_iterations, tol)
    return torch.stack([layer.sigma.to(layers[0].sigma) for layer in layers])


@contextmanager
def normalized_together(layers: Sequence[SpectralLayer]) -> Iterator[None]:
    """Let `effective_weights` take those of these layers from one call inside the block; the compiler does so itself."""
    if torch.compiler.is_compiling() or not layers:
        yield
        return
    with SpectralGroup.of(layers).at_hand(layers):
        yield


def count_unsettled(model: nn.Module) -> int:
    """Return `SpectralGroup.n_unsettled` of all spectral layers of a model."""
    layers = (module for module in model.modules() if isinstance(module, SpectralLayer))
    return sum(group.n_unsettled() for group in {layer.group for layer in layers} if group is not None)


@contextmanager
def shard_spectral_norms(model: nn.Module, process_group: ProcessGroup | None = None) -> Iterator[None]:
    """Let each process iterate a share of the spectral layers of `model` in training, inside the block.

    A refresh is then a collective: the processes must hold the same weights and run the model equally often, as in
    distributed training. All get the same sigma, u and v, the bits that each would have computed by itself. Copies of
    the model, made inside the block or before, are not affected.

    Args:
        model: any module that contains SpectralLinear or SpectralConv2d layers.
        process_group: who shares; None: all processes.

    Raises:
        RuntimeError: torch.distributed is not initialised.
    """
    if process_group is None and distributed.is_available() and distributed.is_initialized():
        process_group = distributed.group.WORLD
    if process_group is None:
        raise RuntimeError(
            "shard_spectral_norms: torch.distributed must be initialised, got no process group; call "
            "torch.distributed.init_process_group, or run without sharding."
        )
    layers = [module for module in model.modules() if isinstance(module, SpectralLayer)]
    if layers:
        SpectralGroup.of(layers).process_group = process_group
    try:
        yield
    finally:
        if layers:
            SpectralGroup.of(layers).process_group = None


def effective_weights(layers: Sequence[SpectralLayer]) -> list[Tensor]:
    """Return the normalised weights of the layers, fresh, in one call each for sigma and for the weights.

    With a gradient to take they carry a graph; otherwise the group keeps them until a weight changes.
    """
    if torch.compiler.is_compiling():
        return _normalize(layers, traced_norms(layers))
    return SpectralGroup.of(layers).effective_weights(layers)


def _wants_graph(layers: Sequence[SpectralLayer]) -> bool:
    return torch.is_grad_enabled() and any(layer.weight.requires_grad for layer in layers)


def _normalize(
    layers: Sequence[SpectralLayer], norms: Sequence[Norm], on_backward: Callable[..., None] | None = None
) -> list[Tensor]:
    if len({layer.sigma_gradient for layer in layers}) > 1:
        pairs = zip(layers, norms, strict=True)
        return [weight for layer, norm in pairs for weight in _normalize([layer], [norm], on_backward)]
    sigmas, us, vs = zip(*norms, strict=True)
    weights = ops.spectral_normalize(
        [layer.weight for layer in layers],
        torch.stack(sigmas),
        us,
        vs,
        [layer.geometry for layer in layers],
        [layer.coeff for layer in layers],
        layers[0].sigma_gradient,
    )
    if on_backward is not None:  # the weights are about to change, which on a GPU nobody reads
        for node in {weight.grad_fn for weight in weights if weight.is_cuda} - {None}:
            node.register_prehook(on_backward)
    return weights
