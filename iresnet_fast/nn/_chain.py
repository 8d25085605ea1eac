"""The layers of branches: built from widths or channels and kernel sizes, and checked."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

from .. import _checks
from .. import activations as registry
from .conv import SpectralConv2d
from .linear import SpectralLinear

Layer = SpectralLinear | SpectralConv2d
AnyLayer = TypeVar("AnyLayer")


def pairs_of(argument: str, widths: Sequence[int], least: int = 2) -> list[tuple[int, int]]:
    """Return the inputs and outputs of each layer of a chain of these widths; raises unless they lead back."""
    widths = integers_of(argument, widths, "[4, 32, 4]")
    if len(widths) < least or widths[0] != widths[-1]:
        raise ValueError(
            f"{argument} must hold at least {('two', 'three')[least - 2]} numbers, the last like the first, since a "
            f"branch is added to its input, got {list(widths)}; change them."
        )
    for width in widths:
        _checks.check_count(f"every number of {argument}", width, 1)
    return list(itertools.pairwise(widths))


def linear_layers(
    pairs: Sequence[tuple[int, int]], kind: Callable[..., AnyLayer], options: dict[str, Any]
) -> list[AnyLayer]:
    """Build a linear layer for every pair of inputs and outputs."""
    return [kind(inputs, outputs, **options) for inputs, outputs in pairs]


def conv_layers(
    pairs: Sequence[tuple[int, int]],
    kernel_sizes: Sequence[int],
    kind: Callable[..., AnyLayer],
    options: dict[str, Any],
) -> list[AnyLayer]:
    """Build a convolution with "same" zero padding for every pair of inputs and outputs."""
    n = len(pairs)
    kernel_sizes = integers_of("kernel_sizes", kernel_sizes, str([3] * n))
    if len(kernel_sizes) != n or any(k < 1 or k % 2 == 0 for k in kernel_sizes):
        raise ValueError(f"kernel_sizes must be {n} odd numbers, one per layer, got {kernel_sizes}; change them.")
    return [
        kind(inputs, outputs, k, padding=k // 2, **options)
        for (inputs, outputs), k in zip(pairs, kernel_sizes, strict=True)
    ]


def names_of(activation: str, n_layers: int, preactivation: bool = False) -> list[str]:
    """Return the activation before each layer: before the first only for a preactivation."""
    return [activation if preactivation else "identity"] + [activation] * (n_layers - 1)


def expansion_of(activation: str) -> int:
    """Return the outputs of an activation for each of its inputs; raises ValueError if there is none of that name."""
    return registry.get(activation).expansion


def pairs_after(
    activation: str, pairs: Sequence[tuple[int, int]], preactivation: bool = False
) -> list[tuple[int, int]]:
    """Return the inputs and outputs of layers with this activation before each, before the first if `preactivation`."""
    names = names_of(activation, len(pairs), preactivation)
    return [(inputs * expansion_of(name), outputs) for name, (inputs, outputs) in zip(names, pairs, strict=True)]


def integers_of(argument: str, values: Any, example: str) -> list[int]:
    """Return the values as a list; raises TypeError unless they are integers."""
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise TypeError(f"{argument} must be a list of integers, got {values!r}; pass e.g. {example}.") from None


def check_names(
    layers: Sequence[nn.Module], activations: Sequence[str], needed: str = "a layer", least: int = 1
) -> None:
    """Raise unless there is a name for each layer, and `needed`, that is so many layers at least."""
    _checks.check_list("layers", layers, "layers")
    if isinstance(activations, str):
        raise TypeError(
            f"activations must be a list of one name per layer, got {activations!r}; pass "
            f"{[activations] * len(layers)}."
        )
    if len(layers) < least or len(activations) != len(layers):
        raise ValueError(
            f"activations must have one name per layer and there must be {needed}, got {len(activations)} names for "
            f"{len(layers)} layers; use 'identity' where there is none."
        )


def check_spectral(layers: Sequence[nn.Module]) -> None:
    """Raise unless the layers are all SpectralLinear, or all SpectralConv2d that keep the size of any image."""
    _checks.check_list("layers", layers, "layers")
    kind = SpectralConv2d if isinstance(layers[0], SpectralConv2d) else SpectralLinear
    for i, layer in enumerate(layers):
        if not isinstance(layer, kind):
            raise TypeError(
                f"layers must be all SpectralLinear or all SpectralConv2d, got {type(layer).__name__} as layers[{i}]; "
                f"use one kind, or give the block any other module as its branch."
            )
        if isinstance(layer, SpectralConv2d) and not layer.keeps_size:
            raise ValueError(
                f"layers[{i}] must have an odd square kernel k, stride 1, padding k // 2, dilation 1 and one group, "
                f"got {layer}; give the block any other module as its branch."
            )


def inputs_of(layer: nn.Module) -> int:
    """Return the input channels of a layer."""
    return layer.in_features if isinstance(layer, nn.Linear) else int(layer.in_channels)  # type: ignore[arg-type]


def outputs_of(layer: nn.Module) -> int:
    """Return the output channels of a layer."""
    return layer.out_features if isinstance(layer, nn.Linear) else int(layer.out_channels)  # type: ignore[arg-type]
