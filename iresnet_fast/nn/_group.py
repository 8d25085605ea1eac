"""The way of a weight: is its norm out of date? iterate it; divide by it. For as many layers as possible in one call.

weight -> `_freshness.stale` -> `_norms.follow` or `_norms.settle` -> sigma, u, v -> `normalize` -> effective weight

`SpectralGroup` goes this way, for layers that are asked alone, in a branch or in a model.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from .. import _capture, ops
from .._torch_private import copy_all, is_transformed
from .._tracing import under_transforms
from ..geometry import ConvGeometry
from . import _norms
from ._at_hand import Normalized, entries_at_hand, fits, held
from ._freshness import Seen, Sight, Weights, expect_writes, look, may_have_been_replayed, record, stale
from ._layer import Norm, SpectralLayer, plain, plainly
from ._members import is_stacked, norms_of_members
from ._operators import Norms, Operators
from ._tensors import own_weight, weight_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup  # not in every build of torch

_merging = threading.RLock()


class SpectralGroup:
    """The spectral layers that are refreshed together: those of a model, or one alone.

    It owns all that is known of their norms beside the buffers. What it holds of a layer is replaced as a whole and
    never changed, so that threads which call a model at once each see one refresh or the other; the lock is for those
    that iterate, merge groups or change the size of images.

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
        self.lock = threading.RLock()

    @classmethod
    def of(cls, layers: Sequence[SpectralLayer]) -> SpectralGroup:
        """Return the group of these layers. If they are of several, those become one."""
        group = layers[0].group
        if group is not None and all(layer.group is group for layer in layers):
            return group
        with _merging:
            groups = list({id(layer.group): layer.group for layer in layers if layer.group is not None}.values())
            if len(groups) == 1 and all(layer.group is groups[0] for layer in layers):
                return groups[0]  # another thread has merged them
            merged = cls(list(dict.fromkeys([*(m for g in groups for m in g.members()), *layers])))
            for one in groups:
                with one.lock:
                    merged._seen.update(one._seen)
                    merged._baked.update(one._baked)
                    for device, count in one._unsettled.items():
                        merged._unsettled[device] = merged._unsettled.get(device, 0) + count
                    merged.process_group = merged.process_group or one.process_group
            for layer in merged.members():
                layer.group = merged
        return merged

    def members(self) -> list[SpectralLayer]:
        """Return the layers that still live."""
        return [layer for reference in self._members if (layer := reference()) is not None]

    def is_stale(self, layer: SpectralLayer) -> bool:
        """Whether the norm of a layer is not, or may not be, that of its weight."""
        return bool(self._stale({layer: plain(weight_of(layer))}))

    @contextmanager
    def at_hand(self, layers: Sequence[SpectralLayer], weights: Sequence[Tensor] | None = None) -> Iterator[None]:
        """Normalise these layers once, in one node of the graph, for all calls inside the block; or take `weights`.

        A checkpoint in the block normalises for itself: it runs again in the backward pass, where there is no block.
        """
        if weights is None:
            entries = self._entries(layers, None)
        else:
            entries = [(layer.geometry, weight) for layer, weight in zip(layers, weights, strict=True)]
        with held(layers, entries):
            yield

    def effective_weights(
        self, layers: Sequence[SpectralLayer], image_size: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the normalised weights of some of its layers, for images of this size if one is given."""
        return [weight for _, weight in self._entries(layers, image_size)]

    def _entries(self, layers: Sequence[SpectralLayer], image_size: Sequence[int] | None) -> list[Normalized]:
        entries = entries_at_hand(layers, image_size)
        return self._normalized(layers, image_size) if entries is None else entries

    def _normalized(self, layers: Sequence[SpectralLayer], image_size: Sequence[int] | None) -> list[Normalized]:
        # Each once: a parametrisation that draws or iterates gives another tensor at every look.
        taken = {layer: weight_of(layer) for layer in layers}
        raw = [taken[layer] for layer in layers]
        if is_transformed() and any(is_stacked(weight) for weight in raw):
            if image_size is not None:
                for layer in layers:
                    layer.set_image_size(image_size)
            geometries = [layer.geometry for layer in layers]
            members = normalize(layers, raw, norms_of_members(layers, raw), geometries)
            return list(zip(geometries, members, strict=True))
        known = self.refresh({layer: plain(weight) for layer, weight in taken.items()}, image_size)
        seen = [known[layer] for layer in layers]
        norms, geometries = [last.norm for last in seen], [last.sight.geometry for last in seen]
        if _wants_graph(raw) or under_transforms():
            return list(zip(geometries, normalize(layers, raw, norms, geometries, expect_writes), strict=True))
        baked = [self._baked.get(layer) for layer in layers]
        weights = [
            entry[2]
            for entry, last, layer in zip(baked, seen, layers, strict=True)
            if entry is not None and entry[0] is last and entry[1] == layer.coeff
        ]
        if len(weights) < len(layers):
            with plainly():
                weights = normalize(layers, raw, norms, geometries)
            coeffs = (layer.coeff for layer in layers)
            with self.lock:
                self._baked.update(zip(layers, zip(seen, coeffs, weights, strict=True), strict=True))
        return list(zip(geometries, weights, strict=True))

    def refresh(self, weights: Weights, image_size: Sequence[int] | None = None) -> dict[SpectralLayer, Seen]:
        """Iterate those of the layers that are stale, and all others with them. Returns what is known of the layers."""
        with plainly():
            known = {layer: self._seen.get(layer) for layer in weights}
            wanted = stale(weights, list(known.values()))
            fit = all(last is not None and fits(last.sight.geometry, image_size) for last in known.values())
            if fit and not wanted:
                return cast("dict[SpectralLayer, Seen]", known)
            with self.lock:
                if image_size is not None:
                    for layer in weights:
                        layer.set_image_size(image_size)
                if not fit or any(self._seen.get(layer) is not last for layer, last in known.items()):
                    wanted = self._stale(weights)  # the size is another, or another thread has been here
                if wanted:
                    others = self._weights_of_others(weights)
                    wanted += self._stale(others)
                    self.iterate({layer: weights[layer] if layer in weights else others[layer] for layer in wanted})
                return {layer: self._seen[layer] for layer in weights}

    def _weights_of_others(self, weights: Weights) -> Weights:
        """Return the weights of the other layers, of those that have plain ones to look at."""
        others = {}
        for layer in self.members():
            if layer in weights or not layer.is_ready:
                continue
            weight = own_weight(layer)
            # One that may have been replayed is stale at every call: only where it is asked for itself.
            if weight is not None and not is_stacked(weight) and not may_have_been_replayed(layer, weight):
                others[layer] = plain(weight)
        return others

    def iterate(self, weights: Weights, n_iterations: int | None = None, tol: float | None = None) -> None:
        """Find the norms of these layers, stale or not, and record what was seen.

        Those of layers in training follow on from the last ones, unless there are none or they are asked to be upper
        bounds; so do all that are asked for by number of iterations.
        """
        explicit = n_iterations is not None or tol is not None
        settling: list[SpectralLayer] = []
        with self.lock, plainly():
            calls: dict[tuple[Any, ...], list[SpectralLayer]] = {}
            for layer, weight in weights.items():
                if not self._has_its_vectors(layer, weight):
                    layer.restart()
                if not layer.is_warm or layer.strict or not (layer.training or explicit):
                    settling.append(layer)
                    continue
                most = layer.n_iterations if n_iterations is None else n_iterations
                limit = tol or (layer.tol if n_iterations is None else None)
                if n_iterations is None:
                    companion: Any = layer._buffers["companion"]  # past the slow __getattr__ of modules
                    most, limit = _norms.steps_for(companion.numel(), most, limit)
                calls.setdefault((weight.dtype, weight.device, most, limit), []).append(layer)
            for (_, _, most, limit), members in calls.items():
                missed = self._follow(_some(weights, members), most, limit, counts=not explicit)
                if missed:
                    settling += self._follow(_some(weights, missed), _norms.MORE_STEPS, limit, counts=False)
            calls = {}
            for layer in settling:
                weight = weights[layer]
                calls.setdefault((weight.dtype, weight.device, layer.strict), []).append(layer)
            for (_, _, strict), members in calls.items():
                some = _some(weights, members)
                sights = look(some)
                operators = Operators.of(members, list(some.values()))
                self._accept(members, sights, _norms.settle(operators, strict), settled=True)

    def _has_its_vectors(self, layer: SpectralLayer, weight: Tensor) -> bool:
        """Whether u and v are of this operator; somebody may have set a weight of another shape, or a stride."""
        last = self._seen.get(layer)
        if last is None:
            return layer.has_its_vectors()
        return last.sight.weight.shape == weight.shape and layer.acts_as(last.sight.geometry)

    def _follow(self, weights: Weights, most: int, tol: float | None, counts: bool) -> list[SpectralLayer]:
        """Go on from the vectors of these layers; return those for which that was not enough, as far as is known."""
        sights, layers = look(weights), list(weights)
        doubtful = [i for i, layer in enumerate(layers) if layer.is_doubtful]
        operators = Operators.of(layers, list(weights.values()))
        norms, missed = _norms.follow(operators, most, tol, self.process_group, doubtful)
        self._accept(layers, sights, norms, settled=False)
        if missed is None:
            return []
        there = missed.is_cuda  # where looking would make the host wait
        found = [] if there else [layer for layer, miss in zip(layers, missed.tolist(), strict=True) if miss]
        if counts:
            before = self._unsettled.get(missed.device, 0)
            self._unsettled[missed.device] = before + (missed.sum() if there else len(found))
        return found

    def n_unsettled(self) -> int:
        """Return how often the steps that a refresh in training may take were not enough for the norm of a layer.

        On the CPU more were taken at once, in the end as many as in evaluation. On a GPU, where looking would make the
        host wait, the norm was increased by its residual and no more.
        """
        return sum(int(count) for count in self._unsettled.values())

    def _stale(self, weights: Weights) -> list[SpectralLayer]:
        return stale(weights, [self._seen.get(layer) for layer in weights])

    def _accept(self, layers: Sequence[SpectralLayer], sights: Sequence[Sight], found: Norms, settled: bool) -> None:
        """Take new norms, tensors that nothing else writes, as the buffers of the layers."""
        kept: list[Tensor] = []
        written: list[Tensor] = []
        norms: list[Norm] = []
        kinds: Sequence[Sequence[Tensor]] = (found.sigmas.unbind(), found.us, found.vs, found.companions)
        one = sights[0].weight  # all are of its dtype and on its device
        if found.sigmas.dtype != one.dtype:
            kinds = [[value.to(one.dtype) for value in kind] for kind in kinds]
        captured = _capture.of(one) is not None
        for layer, (sigma, u, v, companion) in zip(layers, zip(*kinds, strict=True), strict=True):
            if captured and not layer.is_captured:  # an assignment to a module costs more than the rest of this
                layer.is_captured = True
            if layer.is_captured:
                kept += [layer.sigma, layer.u, layer.v, layer.companion]
                written += [sigma, u, v, companion]
            else:
                layer._buffers.update(sigma=sigma, u=u, v=v, companion=companion)
            # A capture computes nothing: u and v have not converged before a replay.
            if settled and not captured and not layer.is_warm:
                layer.is_warm = True
            if layer.is_doubtful != settled:
                layer.is_doubtful = settled
            norms.append((sigma, u, v))  # a replay writes the buffers, and what is saved for backward must survive that
        if kept:
            copy_all(kept, written)
        for layer, sight, norm in zip(layers, sights, norms, strict=True):
            self._seen[layer] = record(layer, sight, norm, settled)


def _some(weights: Weights, layers: Sequence[SpectralLayer]) -> Weights:
    return {layer: weights[layer] for layer in layers}


def _wants_graph(weights: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)


def normalize(
    layers: Sequence[SpectralLayer],
    raw: Sequence[Tensor],
    norms: Sequence[Norm],
    geometries: Sequence[ConvGeometry | None],
    on_backward: Callable[..., None] | None = None,
) -> list[Tensor]:
    """Return these weights of the layers divided by max(1, sigma / coeff), in one node of the graph."""
    if len({layer.sigma_gradient for layer in layers}) > 1:
        one_by_one = zip(layers, raw, norms, geometries, strict=True)
        return [normalize([a], [b], [c], [d], on_backward)[0] for a, b, c, d in one_by_one]
    sigmas, us, vs = zip(*norms, strict=True)
    weights = ops.spectral_normalize(
        raw,
        torch.stack(sigmas),
        us,
        vs,
        geometries,
        [layer.coeff for layer in layers],
        layers[0].sigma_gradient,
    )
    if on_backward is not None:  # the weights are about to change, which on a GPU nobody reads
        for node in {weight.grad_fn for weight in weights if weight.is_cuda}:
            if node is not None:
                node.register_prehook(on_backward)
    return weights
