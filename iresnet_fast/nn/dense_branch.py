"""The branch of i-DenseNet: every stage sees its input beside what it made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks
from .. import activations as registry
from ._branch import ModuleBranch, shown
from ._chain import Layer, check_spectral, conv_layers, inputs_of, linear_layers, outputs_of
from ._maps import maps_of
from ._tensors import gathered
from .conv import SpectralConv2d
from .linear import SpectralLinear


class DenseBranch(ModuleBranch):
    """g(x) = W_n h_{n-1}(... h_0(x)), h_i(x) = [eta1_i x, eta2_i phi(W_i x)] (i-DenseNet, arXiv 2102.02694).

    eta1_i and eta2_i are positive with eta1_i^2 + eta2_i^2 = 1, learnable through `eta` [n, 2]: softplus, then divided
    by their norm. So Lip(h_i) <= max(1, Lip(phi) coeff_i), whatever the width, and the branch has the coeff of its last
    layer as its Lipschitz constant if the others are at most 1. As the branch of an InvertibleResidualBlock it runs on
    the autograd path.

    Args:
        layers: W_0 .. W_n, all SpectralLinear, or all SpectralConv2d with an odd square kernel k, stride 1, padding
            k // 2, dilation 1 and one group; W_i takes all that came before, W_n gives the shape of x.
        activation: phi, a name of `iresnet_fast.activations`; "clipswish" doubles the channels.
        learnable: whether eta is a parameter; otherwise it is a buffer and both weights are sqrt(1/2).

    Raises:
        ValueError: the layers do not form such a branch, or the name is unknown.
        TypeError: a layer is of another type.
    """

    eta: Tensor

    def __init__(self, layers: Sequence[Layer], activation: str = "clipswish", learnable: bool = True) -> None:
        """Build the branch; the arguments are those of the class."""
        super().__init__()
        expansion = registry.get(activation).expansion
        _check_layers(layers, activation, expansion)
        self.layers = nn.ModuleList(layers)
        self._set_activations([activation] * (len(layers) - 1), layers[:-1])
        weight = layers[-1].weight
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
        pairs = _pairs(features, growth, depth, activation)
        layers = linear_layers(pairs, SpectralLinear, {"coeff": coeff, **layer_options})
        return cls(layers, activation, learnable)

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
        _checks.check_count("kernel_size", kernel_size, 1)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}; pass e.g. 3.")
        options = {"image_size": image_size, "coeff": coeff, **layer_options}
        pairs = _pairs(channels, growth, depth, activation)
        layers = conv_layers(pairs, [kernel_size] * depth + [1], SpectralConv2d, options)
        return cls(layers, activation, learnable)

    @property
    def lipschitz(self) -> float | None:
        """Lipschitz constant of g: that of the last layer times max(1, Lip(phi) coeff) over the stages.

        None if a layer has been replaced by a module of another kind.
        """
        *stages, last = self._layers()
        bounds = [self._product([layer], [phi]) for layer, phi in zip(stages, self._constants(), strict=True)]
        factors = [max(1.0, bound) for bound in bounds if bound is not None]
        return self._product([last], [math.prod(factors)]) if len(factors) == len(stages) else None

    def _input_expansion(self) -> int:
        return 1  # its activations come after the layers

    @staticmethod
    def plain_forward() -> Callable[..., Tensor]:
        """Return the forward of this class."""
        return DenseBranch.forward

    def concatenation(self) -> Tensor:
        """Return eta1, eta2 of every stage as they are used, [n, 2], rows of norm 1."""
        return F.normalize(F.softplus(gathered(self.eta)), dim=1)

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        """Return g(x), the shape of x, [B, d] or [B, C, H, W].

        Raises:
            ValueError: there is a context, which this branch cannot use, or x does not fit.
        """
        self.check_context(context)
        *stages, last = maps_of(self._layers(), x)
        for phi, stage, (eta1, eta2) in zip(self._phis(), stages, self.concatenation().unbind(), strict=True):
            x = torch.cat((eta1 * x, eta2 * phi(stage(x))), 1)
        return last(x)

    def extra_repr(self) -> str:
        """Describe the branch in its repr."""
        return f"lipschitz={shown(self.lipschitz)}, learnable={isinstance(self.eta, nn.Parameter)}"


def _pairs(features: int, growth: int, depth: int, activation: str) -> list[tuple[int, int]]:
    """Return the inputs and outputs of each stage and of the last layer."""
    for argument, value in (("features", features), ("growth", growth), ("depth", depth)):
        _checks.check_count(argument, value, 1)
    expansion = registry.get(activation).expansion
    widths = [features + i * growth * expansion for i in range(depth + 1)]
    return [(width, growth) for width in widths[:-1]] + [(widths[-1], features)]


def _check_layers(layers: Sequence[Layer], activation: str, expansion: int) -> None:
    _checks.check_list("layers", layers, "layers")
    if len(layers) < 2:
        raise ValueError(f"layers must hold at least a stage and the last layer, got {len(layers)}; add one.")
    check_spectral(layers)
    width = inputs_of(layers[0])
    for i, layer in enumerate(layers):
        if inputs_of(layer) != width:
            raise ValueError(
                f"layers[{i}] must have {width} inputs, those of the first layer and all outputs of {activation} "
                f"since, got {inputs_of(layer)}; change it."
            )
        width += outputs_of(layer) * expansion
    if outputs_of(layers[-1]) != inputs_of(layers[0]):
        raise ValueError(
            f"the last layer must have {inputs_of(layers[0])} outputs, the inputs of the first, since a branch is "
            f"added to its input, got {outputs_of(layers[-1])}; change it."
        )
