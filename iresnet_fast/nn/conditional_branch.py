"""A residual branch that depends on a context, without an effect on its Lipschitz constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks
from .. import activations as registry
from .._inputs import check_module
from .._stages import Stages
from ._branch import ModuleBranch, check_chain, shown
from ._chain import (
    Layer,
    check_names,
    check_spectral,
    conv_layers,
    expansion_of,
    inputs_of,
    linear_layers,
    names_of,
    outputs_of,
    pairs_of,
)
from ._inputs import check_context
from ._maps import maps_of
from ._tensors import bias_of
from .conv import SpectralConv2d
from .linear import SpectralLinear
from .spectral import effective_weights

_MODES = ("add", "concat", "multiply")
# Of the last bias of our own network for "multiply": its factors begin at tanh(1.5) = 0.905, with a gradient.
_FACTOR_BIAS = 1.5


class ConditionalBranch(ModuleBranch):
    """g(x; context): an embedding of the context enters after the first spectral layer, by any network at all.

    With a = W_0 phi_0(x) + b_0 and e = network(context), the second layer takes phi_1(a + e), phi_1([a, e]) or
    tanh(e) phi_1(a): "add", "concat" and "multiply", the last as FlowConductor conditions i-DenseNets, but channel by
    channel. All leave the Lipschitz constant in x what it is without a context, for each value of it. "add" and
    "multiply" let it interact with x from the second layer on, "concat" from the third, since it goes through a layer
    bounded like the others first. As the branch of an InvertibleResidualBlock, `block(x, context)`, it runs on the
    kernels, and the network is called once in each call; log-determinant and inverse are those of x to z at that
    context, and gradients reach the network and the context.

    Args:
        layers: all SpectralLinear, or all SpectralConv2d with an odd square kernel k, stride 1, padding k // 2,
            dilation 1 and one group; two at least, the last width is the first. For "concat" three at least, and the
            second has the outputs of the first and of the network as its inputs.
        activations: one name per layer, each applied before its layer; "identity" where there is none.
        network: any module, from the context to [B, width], or to [B, width, H, W] for images; [B, width] is the same
            at every pixel. It acts on each sample by itself.
        mode: "add", "concat" or "multiply".

    Raises:
        ValueError: the layers do not form such a branch, or a name or the mode is unknown.
        TypeError: a layer is of another type.
    """

    takes_context = True
    on_stages = True

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
        width = outputs_of(layers[0])
        self._embedding_width = inputs_of(layers[1]) - width if mode == "concat" else width

    @classmethod
    def dense(
        cls,
        widths: Sequence[int],
        context_features: int,
        hidden_features: int = 64,
        activation: str = "elu",
        coeff: float = 0.9,
        mode: str = "add",
        preactivation: bool = False,
        **layer_options: Any,
    ) -> ConditionalBranch:
        """Build a branch of SpectralLinear layers, and for a context [B, context_features] a network of two layers.

        Args:
            widths: widths of the input, between the layers, and of the output, the last like the first.
            context_features: width of the context.
            hidden_features: of the network; its output has widths[1].
            activation: before every layer but the first.
            coeff: bound on the spectral norm of each layer.
            mode: "add", "concat" or "multiply"; the factors of the last begin near tanh(1.5).
            preactivation: also before the first layer.
            layer_options: further options of SpectralLinear.

        Raises:
            ValueError: an argument is out of range, or a name is unknown.
            TypeError: an integer argument is not an integer.
        """
        pairs = _pairs("widths", widths, mode)
        layers = linear_layers(pairs, SpectralLinear, {"coeff": coeff, **layer_options})
        network = _network(context_features, hidden_features, widths[1], mode, layer_options)
        return cls(layers, names_of(activation, len(layers), preactivation), network, mode)

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
        preactivation: bool = False,
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
            mode: "add", "concat" or "multiply"; the factors of the last begin near tanh(1.5).
            preactivation: also before the first layer.
            layer_options: further options of SpectralConv2d.

        Raises:
            ValueError: an argument is out of range, or a name is unknown.
            TypeError: an integer argument is not an integer.
        """
        options = {"image_size": image_size, "coeff": coeff, **layer_options}
        layers = conv_layers(_pairs("channels", channels, mode), kernel_sizes, SpectralConv2d, options)
        network = _network(context_features, hidden_features, channels[1], mode, layer_options)
        return cls(layers, names_of(activation, len(layers), preactivation), network, mode)

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
        first, *others = maps_of(self._layers(), x)
        embedding = _spread(self._embed(context, x).to(x.dtype), x)
        phi, second, *phis = self._phis()
        a = first(phi(x))
        if self.mode == "multiply":
            a = second(a) * torch.tanh(embedding)
        else:
            a = second(a + embedding if self.mode == "add" else torch.cat((a, embedding), 1))
        a = others[0](a)
        for phi, layer in zip(phis, others[1:], strict=True):
            a = layer(phi(a))
        return a

    def beyond_stages(self) -> str | None:
        """Return what no stages could do, for messages; None if nothing."""
        name = self.activation_names()[1]
        is_apart = registry.get(name).elementwise or (name == "maxmin" and outputs_of(self.layers[0]) % 2 == 0)
        if self.mode == "concat" and not is_apart:
            return f"{name} mixes channels of layers[0] with those of the context"
        return None

    def as_stages(self, x: Tensor, context: Any = None) -> Stages:
        """Return the stages of a call: what the context adds is a bias of each sample, what it multiplies by a factor.

        Args:
            x: [B, d] or [B, C, H, W]; only its shape, dtype and device count.
            context: as in `forward`.

        Raises:
            ValueError: there is no context, or the network's output does not fit.
        """
        layers = self._layers()
        weights = list(effective_weights(layers, x.shape[2:] if x.dim() == 4 else None))
        biases: list[Tensor | None] = [bias_of(layer) for layer in layers]
        factors: list[Tensor | None] = [None] * len(layers)
        embedding = self._embed(context, x).to(weights[0].dtype)
        if self.mode == "add":
            biases[0] = _sum(biases[0], embedding)
        elif self.mode == "multiply":
            factors[1] = torch.tanh(embedding)
        else:
            width = outputs_of(layers[0])
            weights[1], of_context = weights[1][:, :width], weights[1][:, width:]
            biases[1] = _sum(biases[1], _applied(of_context, self._phis()[1](embedding), x))
        return Stages(weights, biases, self.activation_names(), self._betas(), factors)

    def stage_norms(self) -> list[float] | None:
        """Return the coeffs of the layers; a part of the second's inputs has no larger norm than all of them."""
        return [layer.coeff for layer in self._layers()]

    def extra_repr(self) -> str:
        """Describe the branch in its repr."""
        return f"mode={self.mode!r}, lipschitz={shown(self.lipschitz)}"

    def _embed(self, context: Any, x: Tensor) -> Tensor:
        """Return what the network makes of the context: [B, width] or [B, width, H, W]."""
        if context is None:
            raise ValueError("context must be given for a ConditionalBranch, got None; call block(x, context).")
        check_context(context, self.network, x.shape[0])
        embedding: Tensor = self.network(context)
        shape = (x.shape[0], self._embedding_width)
        if embedding.shape not in (shape, (*shape, *x.shape[2:])):
            pixels = f" or {(*shape, *x.shape[2:])}" if x.dim() == 4 else ""
            raise ValueError(
                f"the network must return shape {shape}{pixels} for {x.shape[0]} samples of x, got "
                f"{tuple(embedding.shape)}; pass a context for each sample, or change the network."
            )
        return embedding


def _spread(embedding: Tensor, x: Tensor) -> Tensor:
    """Return an embedding as it is at every pixel of x, if that is an image."""
    return embedding if embedding.dim() == x.dim() else embedding[:, :, None, None].expand(-1, -1, *x.shape[2:])


def _sum(bias: Tensor | None, added: Tensor) -> Tensor:
    """Return what is added for each sample, [B, out] or [B, out, H, W], and a bias [out]."""
    return added if bias is None else added + (bias if added.dim() == 2 else bias[:, None, None])


def _applied(weight: Tensor, activated: Tensor, x: Tensor) -> Tensor:
    """Apply a matrix or a convolution to an activated embedding.

    Zero padding makes the borders of an image differ, also where all its pixels are the same; a 1 x 1 kernel has none.
    """
    if weight.dim() == 2:
        output = F.linear(activated, weight)
    elif weight.shape[2] == 1 and activated.dim() == 2:
        output = F.linear(activated, weight[:, :, 0, 0])
    else:
        output = F.conv2d(_spread(activated, x), weight, padding=weight.shape[2] // 2)
    return output.to(weight.dtype)


def _pairs(argument: str, widths: Sequence[int], mode: str) -> list[tuple[int, int]]:
    """Return the inputs and outputs of each layer; those of the second grow with the context's to concatenate."""
    pairs = pairs_of(argument, widths, 3)
    if mode == "concat":
        pairs[1] = (2 * widths[1], widths[2])
    return pairs


def _network(context: int, hidden: int, width: int, mode: str, options: dict[str, Any]) -> nn.Module:
    _checks.check_count("context_features", context, 1)
    _checks.check_count("hidden_features", hidden, 1)
    place: dict[str, Any] = {name: options.get(name) for name in ("device", "dtype")}
    last = nn.Linear(hidden, width, **place)
    if mode == "multiply":
        nn.init.constant_(last.bias, _FACTOR_BIAS)
    return nn.Sequential(nn.Linear(context, hidden, **place), nn.ELU(), last)


def _check(layers: Sequence[Layer], activations: Sequence[str], mode: str) -> None:
    if mode not in _MODES:
        raise ValueError(f"mode must be 'add', 'concat' or 'multiply', got {mode!r}; use one of them.")
    least = 3 if mode == "concat" else 2  # one fewer, and the context could only shift z
    check_names(layers, activations, f"{least} layers for {mode!r}", least)
    if any(expansion_of(name) != 1 for name in activations):
        raise ValueError("activations must keep the number of channels, got clipswish; use lipswish.")
    check_spectral(layers)
    check_chain(layers, activations, 1 if mode == "concat" else None)
