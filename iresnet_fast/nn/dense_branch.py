"""The branch of i-DenseNet: every stage sees its input beside what it made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks
from ._inputs import check_layer_input
from ._maps import Layer, inputs_of, maps_of, outputs_of
from .activation import Activation, get_entry
from .branch import check_convolution
from .conv import SpectralConv2d
from .linear import SpectralLinear


class DenseBranch(nn.Module):
    """g(x) = W_n h_{n-1}(... h_0(x)), h_i(x) = [eta1_i x, eta2_i phi(W_i x)] (i-DenseNet, arXiv 2102.02694).

    eta1_i and eta2_i are positive with eta1_i^2 + eta2_i^2 = 1, learnable through `eta` [n, 2]: softplus, then divided
    by their norm. So Lip(h_i) <= max(1, Lip(phi) coeff_i), whatever the width, and the branch has the coeff of its last
    layer as its Lipschitz constant if the others are at most 1. As the branch of an InvertibleResidualBlock it runs on
    the autograd path.

    Args:
        layers: W_0 .. W_n, all SpectralLinear, or all SpectralConv2d with an odd square kernel k, stride 1, padding
            k // 2, dilation 1 and one group; W_i takes all that came before, W_n gives the shape of x.
        activation: phi, a name of `iresnet_fast.activations` or "clipswish", which doubles the channels.
        learnable: whether eta is a parameter; otherwise it is a buffer and both weights are sqrt(1/2).

    Raises:
        ValueError: the layers do not form such a branch, or the name is unknown.
        TypeError: a layer is of another type.
    """

    takes_context = False
    eta: Tensor

    def __init__(self, layers: Sequence[Layer], activation: str = "clipswish", learnable: bool = True) -> None:
        """Build the branch; the arguments are those of the class."""
        super().__init__()
        expansion = 2 if activation == "clipswish" else 1
        _check_layers(layers, activation, expansion)
        self.layers = nn.ModuleList(layers)
        weight = layers[-1].weight
        self.activations = nn.ModuleList(Activation(activation, weight.device, weight.dtype) for _ in layers[:-1])
        eta = torch.zeros(len(layers) - 1, 2, device=weight.device, dtype=weight.dtype)
        if learnable:
            self.eta = nn.Parameter(eta)
        else:
            self.register_buffer("eta", eta)

    @classmethod
    def dense(
        cls,
        features: int,
        growth: int,
        depth: int = 3,
        activation: str = "clipswish",
        coeff: float = 0.9,
        learnable: bool = True,
        **layer_options: Any,
    ) -> DenseBranch:
        """Build a branch of SpectralLinear layers.

        Args:
            features: width of x.
            growth: outputs of each stage, before the activation.
            depth: number of stages, before the last layer.
            activation: phi.
            coeff: bound on the spectral norm of each layer; up to 1 it is the Lipschitz constant of the branch.
            learnable: whether the weights of the concatenation are learnt.
            layer_options: further options of SpectralLinear.

        Raises:
            ValueError: an argument is out of range, or the name is unknown.
            TypeError: an integer argument is not an integer.
        """
        widths = _widths(features, growth, depth, activation)
        layers = [SpectralLinear(w, growth, coeff=coeff, **layer_options) for w in widths[:-1]]
        return cls([*layers, SpectralLinear(widths[-1], features, coeff=coeff, **layer_options)], activation, learnable)

    @classmethod
    def conv(
        cls,
        channels: int,
        growth: int,
        depth: int = 3,
        kernel_size: int = 3,
        image_size: int | tuple[int, int] | None = None,
        activation: str = "clipswish",
        coeff: float = 0.9,
        learnable: bool = True,
        **layer_options: Any,
    ) -> DenseBranch:
        """Build a branch of SpectralConv2d layers with "same" zero padding, the last of them 1 x 1.

        Args:
            channels: of x.
            growth: output channels of each stage, before the activation.
            depth: number of stages, before the last layer.
            kernel_size: odd, of the stages.
            image_size: one number or (height, width) of x; None: taken from the first input.
            activation: phi.
            coeff: bound on the spectral norm of each layer; up to 1 it is the Lipschitz constant of the branch.
            learnable: whether the weights of the concatenation are learnt.
            layer_options: further options of SpectralConv2d.

        Raises:
            ValueError: an argument is out of range, or the name is unknown.
            TypeError: an integer argument is not an integer.
        """
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}; pass e.g. 3.")
        widths = _widths(channels, growth, depth, activation)
        options = {"image_size": image_size, "coeff": coeff, **layer_options}
        layers = [SpectralConv2d(w, growth, kernel_size, padding=kernel_size // 2, **options) for w in widths[:-1]]
        return cls([*layers, SpectralConv2d(widths[-1], channels, 1, **options)], activation, learnable)

    @property
    def lipschitz(self) -> float:
        """Lipschitz constant of g: that of the last layer times max(1, Lip(phi) coeff) over the stages."""
        *stages, last = self._layers()
        factors = (max(1.0, phi.lipschitz * layer.coeff) for phi, layer in zip(self._phis(), stages, strict=True))
        return last.coeff * math.prod(factors)

    def concatenation(self) -> Tensor:
        """Return eta1, eta2 of every stage as they are used, [n, 2], rows of norm 1."""
        return F.normalize(F.softplus(self.eta), dim=1)

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        """Return g(x), the shape of x, [B, d] or [B, C, H, W].

        Raises:
            ValueError: there is a context, which this branch cannot use, or x does not fit.
        """
        if context is not None:
            raise ValueError("context must be None for a DenseBranch, got one; use a ConditionalBranch.")
        self.check_input(x)
        layers = self._layers()
        *stages, last = maps_of(layers, x)
        for phi, stage, (eta1, eta2) in zip(self._phis(), stages, self.concatenation().unbind(), strict=True):
            x = torch.cat((eta1 * x, eta2 * phi(stage(x))), 1)
        return last(x)

    def check_input(self, x: Tensor, name: str = "x") -> None:
        """Raise ValueError or TypeError unless x fits the first layer; `name` is what the caller calls it."""
        check_layer_input(self.layers[0], x, name)

    def extra_repr(self) -> str:
        """Describe the branch in its repr."""
        return f"lipschitz={self.lipschitz:.4g}, learnable={isinstance(self.eta, nn.Parameter)}"

    def _layers(self) -> list[Layer]:
        return cast("list[Layer]", list(self.layers))

    def _phis(self) -> list[Activation]:
        return cast("list[Activation]", list(self.activations))


def _widths(features: int, growth: int, depth: int, activation: str) -> list[int]:
    """Return the width before each stage and before the last layer."""
    for argument, value in (("features", features), ("growth", growth), ("depth", depth)):
        _checks.check_count(argument, value, 1)
    expansion = 2 if activation == "clipswish" else 1
    return [features + i * growth * expansion for i in range(depth + 1)]


def _check_layers(layers: Sequence[Layer], activation: str, expansion: int) -> None:
    if len(layers) < 2:
        raise ValueError(f"layers must hold at least a stage and the last layer, got {len(layers)}; add one.")
    kind = SpectralConv2d if isinstance(layers[0], SpectralConv2d) else SpectralLinear
    width = 0
    for i, layer in enumerate(layers):
        if not isinstance(layer, kind):
            raise TypeError(
                f"layers must be all SpectralLinear or all SpectralConv2d, got {type(layer).__name__} as layers[{i}]; "
                f"use one kind."
            )
        if isinstance(layer, SpectralConv2d):
            check_convolution(i, layer)
        width = inputs_of(layer) if i == 0 else width
        if inputs_of(layer) != width:
            raise ValueError(
                f"layers[{i}] must have {width} inputs, those of the first layer and all outputs of {activation} "
                f"since, got {inputs_of(layer)}; change it."
            )
        if i + 1 < len(layers) and get_entry(activation).pairwise and outputs_of(layer) % 2:
            raise ValueError(
                f"layers[{i}] must have an even number of outputs for {activation}, got {outputs_of(layer)}; change it."
            )
        width += outputs_of(layer) * expansion
    if outputs_of(layers[-1]) != inputs_of(layers[0]):
        raise ValueError(
            f"the last layer must have {inputs_of(layers[0])} outputs, the inputs of the first, since a branch is "
            f"added to its input, got {outputs_of(layers[-1])}; change it."
        )
