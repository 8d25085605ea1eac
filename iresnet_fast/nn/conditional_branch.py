"""A residual branch that depends on a context, without an effect on its Lipschitz constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks
from .._inputs import check_module
from ._branch import ModuleBranch, check_chain, shown
from ._chain import (
    Layer,
    check_names,
    check_spectral,
    conv_layers,
    inputs_of,
    linear_layers,
    names_of,
    outputs_of,
    pairs_of,
)
from ._inputs import check_context
from ._maps import maps_of
from .conv import SpectralConv2d
from .linear import SpectralLinear

_MODES = ("add", "concat")


class ConditionalBranch(ModuleBranch):
    """g(x; context): an embedding of the context enters after the first spectral layer, by any network at all.

    With a = W_0 phi_0(x) + b_0, the next stage sees a + network(context) or [a, network(context)]; both leave the
    Lipschitz constant in x what it is without a context, for each value of it. "add" lets it interact with x from the
    second layer on, "concat" from the third, since it goes through a layer bounded like the others first. As the branch
    of an InvertibleResidualBlock, `block(x, context)`, it runs on the autograd path; log-determinant and inverse are
    those of x to z at that context, and gradients reach the network and the context.

    Args:
        layers: all SpectralLinear, or all SpectralConv2d with an odd square kernel k, stride 1, padding k // 2,
            dilation 1 and one group; two at least, the last width is the first. For "concat" three at least, and the
            second has the outputs of the first and of the network as its inputs.
        activations: one name per layer, each applied before its layer; "identity" where there is none.
        network: any module, from the context to [B, width], or to [B, width, H, W] for images; [B, width] is the same
            at every pixel. It acts on each sample by itself.
        mode: "add" or "concat".

    Raises:
        ValueError: the layers do not form such a branch, or a name or the mode is unknown.
        TypeError: a layer is of another type.
    """

    takes_context = True

    def __init__(
        self, layers: Sequence[Layer], activations: Sequence[str], network: nn.Module, mode: str = "add"
    ) -> None:
        """Build the branch; the arguments are those of the class."""
        super().__init__()
        check_module(network, "network")
        _check(layers, activations, mode)
        self.layers = nn.ModuleList(layers)
        self._set_activations(activations, layers)
        self.network = network
        self.mode = mode
        self._embedding_width = outputs_of(layers[0]) if mode == "add" else inputs_of(layers[1]) - outputs_of(layers[0])

    @classmethod
    def dense(
        cls,
        widths: Sequence[int],
        context_features: int,
        hidden_features: int = 64,
        activation: str = "elu",
        coeff: float = 0.9,
        mode: str = "add",
        **layer_options: Any,
    ) -> ConditionalBranch:
        """Build a branch of SpectralLinear layers, and for a context [B, context_features] a network of two layers.

        Args:
            widths: widths of the input, between the layers, and of the output, the last like the first.
            context_features: width of the context.
            hidden_features: of the network; its output has widths[1].
            activation: before every layer but the first.
            coeff: bound on the spectral norm of each layer.
            mode: "add" or "concat".
            layer_options: further options of SpectralLinear.

        Raises:
            ValueError: an argument is out of range, or a name is unknown.
            TypeError: an integer argument is not an integer.
        """
        pairs = _pairs("widths", widths, mode)
        layers = linear_layers(pairs, SpectralLinear, {"coeff": coeff, **layer_options})
        network = _network(context_features, hidden_features, widths[1], layer_options)
        return cls(layers, names_of(activation, len(layers)), network, mode)

    @classmethod
    def conv(
        cls,
        channels: Sequence[int],
        kernel_sizes: Sequence[int],
        context_features: int,
        hidden_features: int = 64,
        image_size: int | tuple[int, int] | None = None,
        activation: str = "elu",
        coeff: float = 0.9,
        mode: str = "add",
        **layer_options: Any,
    ) -> ConditionalBranch:
        """Build a branch of SpectralConv2d layers, "same" zero padding, and a network as `dense` does.

        For a context that is an image, build the layers and a network of convolutions, and call the class.

        Args:
            channels: of the input, between the layers, and of the output, the last like the first.
            kernel_sizes: one odd size per layer.
            context_features: width of the context [B, context_features].
            hidden_features: of the network; its output has channels[1].
            image_size: one number or (height, width) of x; None: taken from the first input.
            activation: before every layer but the first.
            coeff: bound on the spectral norm of each layer.
            mode: "add" or "concat".
            layer_options: further options of SpectralConv2d.

        Raises:
            ValueError: an argument is out of range, or a name is unknown.
            TypeError: an integer argument is not an integer.
        """
        options = {"image_size": image_size, "coeff": coeff, **layer_options}
        layers = conv_layers(_pairs("channels", channels, mode), kernel_sizes, SpectralConv2d, options)
        network = _network(context_features, hidden_features, channels[1], layer_options)
        return cls(layers, names_of(activation, len(layers)), network, mode)

    @property
    def lipschitz(self) -> float | None:
        """Lipschitz constant of g in x, at every context: the product of the layers' and the activations'.

        None if a layer has been replaced by a module of another kind.
        """
        return self._product(self.layers, self._constants())

    @staticmethod
    def plain_forward() -> Callable[..., Tensor]:
        """Return the forward of this class."""
        return ConditionalBranch.forward

    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        """Return g(x; context), the shape of x, [B, d] or [B, C, H, W].

        Raises:
            ValueError: there is no context, or x or the network's output does not fit.
        """
        if context is None:
            raise ValueError("context must be given for a ConditionalBranch, got None; call block(x, context).")
        first, *others = maps_of(self._layers(), x)
        phi, *phis = self._phis()
        a = first(phi(x))
        embedding = self._embed(context, a)
        a = a + embedding if self.mode == "add" else torch.cat((a, embedding), 1)
        for phi, layer in zip(phis, others, strict=True):
            a = layer(phi(a))
        return a

    def extra_repr(self) -> str:
        """Describe the branch in its repr."""
        return f"mode={self.mode!r}, lipschitz={shown(self.lipschitz)}"

    def _embed(self, context: Any, a: Tensor) -> Tensor:
        check_context(context, self.network, a.shape[0])
        embedding: Tensor = self.network(context)
        width = self._embedding_width
        if embedding.shape not in ((a.shape[0], width), (a.shape[0], width, *a.shape[2:])):
            pixels = f" or {(a.shape[0], width, *a.shape[2:])}" if a.dim() == 4 else ""
            raise ValueError(
                f"the network must return shape {(a.shape[0], width)}{pixels} for {a.shape[0]} samples of x, got "
                f"{tuple(embedding.shape)}; pass a context for each sample, or change the network."
            )
        if embedding.dim() < a.dim():
            embedding = embedding[:, :, None, None].expand(-1, -1, *a.shape[2:])
        return embedding


def _pairs(argument: str, widths: Sequence[int], mode: str) -> list[tuple[int, int]]:
    """Return the inputs and outputs of each layer; those of the second grow with the context's to concatenate."""
    pairs = pairs_of(argument, widths, 3)
    if mode == "concat":
        pairs[1] = (2 * widths[1], widths[2])
    return pairs


def _network(context: int, hidden: int, width: int, options: dict[str, Any]) -> nn.Module:
    _checks.check_count("context_features", context, 1)
    _checks.check_count("hidden_features", hidden, 1)
    place: dict[str, Any] = {name: options.get(name) for name in ("device", "dtype")}
    return nn.Sequential(nn.Linear(context, hidden, **place), nn.ELU(), nn.Linear(hidden, width, **place))


def _check(layers: Sequence[Layer], activations: Sequence[str], mode: str) -> None:
    if mode not in _MODES:
        raise ValueError(f"mode must be 'add' or 'concat', got {mode!r}; use one of the two.")
    least = 2 if mode == "add" else 3  # one fewer, and the context could only shift z
    check_names(layers, activations, f"{least} layers for {mode!r}", least)
    if "clipswish" in activations:
        raise ValueError("activations must keep the number of channels, got clipswish; use lipswish.")
    check_spectral(layers)
    check_chain(layers, activations, None if mode == "add" else 1)
