"""What a model asks of its spectral layers: to refresh all norms, to normalise all weights, to share the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn

from .. import _checks
from .._inputs import check_module
from ._compiled import traced_norms
from ._group import SpectralGroup, normalize
from ._layer import SpectralLayer, plain
from ._tensors import can_take, weight_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup  # not in every build of torch


def update_spectral_norm(model: nn.Module, n_iterations: int | None = None, tol: float | None = None) -> Tensor:
    """Iterate all spectral layers of `model` in one kernel call, and let them be refreshed together from now on.

    No code need call it: layers follow their weights by themselves, whoever writes them and however, also under
    torch.compile; each branch at first with a call of its own, after this call the first layer asked refreshes all of
    the model. What no layer can see are replays of a CUDA graph that has captured it: from then on it is refreshed
    whenever it is called. On a GPU in training mode a layer expects new weights after every backward pass and every
    step of an optimizer; call this after other writes through `.data`.

    Args:
        model: any module that contains SpectralLinear or SpectralConv2d layers.
        n_iterations: Lanczos steps of a layer that has converged before; None: the layer's own in training and with a
            tol, else as many as its norm to five digits takes.
        tol: relative residual |A^T u - sigma v| / sigma at which a layer stops; None: the layer's own in training; with
            n_iterations given, None runs all of them. The first refresh of a layer always converges.

    Returns:
        sigmas [layers], in the order of model.modules(), without gradient; empty if there are no spectral layers.

    Raises:
        ValueError: a convolution does not know its image size yet, or an argument is out of range.
    """
    check_module(model)
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
    weights = {layer: plain(weight_of(layer)) for layer in layers}
    SpectralGroup.of(layers).iterate(weights, n_iterations, tol)
    return torch.stack([layer.sigma.to(layers[0].sigma) for layer in layers])


@contextmanager
def normalized_together(layers: Sequence[SpectralLayer]) -> Iterator[None]:
    """Let `effective_weights` take those of these layers from one call inside the block, as compiled code does.

    Left out are layers whose weights are not there before they, or the blocks they are in, are called.
    """
    if torch.compiler.is_compiling():
        yield
        return
    ready = [layer for layer in layers if layer.is_ready and can_take(layer)]
    if not ready:
        yield
        return
    with SpectralGroup.of(ready).at_hand(ready):
        yield


@contextmanager
def normalized_as(layers: Sequence[SpectralLayer], weights: Sequence[Tensor]) -> Iterator[None]:
    """Let `effective_weights` return these weights of the layers inside the block; no weights: change nothing."""
    if not weights:
        yield
        return
    with SpectralGroup.of(layers).at_hand(layers, weights):
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
    if not layers:
        yield
        return
    before = SpectralGroup.of(layers).process_group
    SpectralGroup.of(layers).process_group = process_group
    try:
        yield
    finally:
        SpectralGroup.of(layers).process_group = before


def effective_weights(layers: Sequence[SpectralLayer], image_size: Sequence[int] | None = None) -> list[Tensor]:
    """Return the normalised weights of the layers, fresh, in one call each for sigma and for the weights.

    With a gradient to take they carry a graph; otherwise the group keeps them until a weight changes.

    Args:
        layers: of one device and dtype.
        image_size: (height, width) of the images that convolutions are about to see; None: of the last ones.
    """
    if torch.compiler.is_compiling():
        if image_size is not None:
            for layer in layers:
                layer.set_image_size(image_size)
        weights = [weight_of(layer) for layer in layers]
        return normalize(layers, weights, traced_norms(layers, weights), [layer.geometry for layer in layers])
    return SpectralGroup.of(layers).effective_weights(layers, image_size)
