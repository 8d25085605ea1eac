"""A residual branch g(x): activations and spectrally normalised linear maps, as the kernels take them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import _checks, ops
from .. import activations as registry
from ._inputs import check_layer_input
from ._slack import spend_slack
from .conv import SpectralConv2d
from .linear import SpectralLinear
from .spectral import effective_weights

Stages = tuple[list[Tensor], list[Tensor | None], tuple[str, ...], list[Tensor | None]]


class ResidualBranch(nn.Module):
    """g(x): stages of an activation followed by a SpectralLinear or SpectralConv2d.

    Equivalent to: `for activation, layer in zip(activations, layers): x = layer(activation(x))`. All layers take their
    norms and weights in one call each. A LipSwish stage i has a learnable scalar `beta_i`.

    Args:
        layers: all SpectralLinear, or all SpectralConv2d with an odd square kernel k, stride 1, padding k // 2,
            dilation 1 and one group; the last width is the first.
        activations: one name per layer, of those in `iresnet_fast.activations`, each applied before its layer.
        image_size: (height, width) of the input of a convolutional branch; None: as the layers say, or the first input.
        normalize: "layers": each layer is bounded by its coeff; "branch", for dense layers: the last one is then scaled
            so that the bound of the whole branch (`certify.branch_bound`), which is smaller than the product of the
            coeffs, is that product. So more of the constant is used, and the branch keeps it at every step. It is
            computed for every change of the weights and makes a GPU wait.

    Raises:
        ValueError: the layers do not form such a branch, or a name is unknown.
        TypeError: a layer is of another type.
    """

    takes_context = False
    # Weights without a graph, and what they are scaled to.
    _scaled: tuple[list[Tensor], list[Tensor]] | None = None

    def __init__(
        self,
        layers: Sequence[SpectralLinear | SpectralConv2d],
        activations: Sequence[str],
        image_size: int | tuple[int, int] | None = None,
        normalize: str = "layers",
    ) -> None:
        """Build the branch; the arguments are those of the class."""
        super().__init__()
        _check_layers(layers, activations)
        if normalize not in ("layers", "branch"):
            raise ValueError(f"normalize must be 'layers' or 'branch', got {normalize!r}; pass one.")
        if normalize == "branch" and isinstance(layers[0], SpectralConv2d):
            raise ValueError("normalize must be 'layers' for convolutions, got 'branch'; leave it out.")
        self.normalize = normalize
        if image_size is not None:
            size = _checks.check_image_size(image_size)
            for layer in layers:
                if not isinstance(layer, SpectralConv2d):
                    raise ValueError(f"image_size must be None for dense layers, got {image_size}; leave it out.")
                layer.set_image_size(size)
        self.layers = nn.ModuleList(layers)
        self.activations = tuple(activations)
        for i, (name, layer) in enumerate(zip(activations, layers, strict=True)):
            if registry.get(name).has_parameter:
                beta = torch.full((), registry.LIPSWISH_INITIAL_BETA).to(layer.weight)
                self.register_parameter(f"beta_{i}", nn.Parameter(beta))

    @classmethod
    def dense(
        cls,
        widths: Sequence[int],
        activation: str = "elu",
        coeff: float = 0.9,
        preactivation: bool = False,
        bias: bool = True,
        normalize: str = "layers",
        **layer_options: Any,
    ) -> ResidualBranch:
        """Build a branch of SpectralLinear layers.

        Args:
            widths: widths of the input, between the layers, and of the output, the last like the first.
            activation: before every layer but the first.
            coeff: bound on the spectral norm of each layer; the branch has the product as its Lipschitz constant.
            preactivation: also before the first layer.
            bias: whether the layers have biases.
            normalize: "layers" or "branch", as for the class.
            layer_options: further options of SpectralLinear.

        Raises:
            ValueError: the widths do not form a branch, or the name is unknown.
        """
        layers = [SpectralLinear(a, b, bias, coeff=coeff, **layer_options) for a, b in _pairs("widths", widths)]
        return cls(layers, _names(activation, len(layers), preactivation), normalize=normalize)

    @classmethod
    def conv(
        cls,
        channels: Sequence[int],
        kernel_sizes: Sequence[int],
        image_size: int | tuple[int, int] | None = None,
        activation: str = "elu",
        coeff: float = 0.9,
        preactivation: bool = False,
        bias: bool = True,
        **layer_options: Any,
    ) -> ResidualBranch:
        """Build a branch of SpectralConv2d layers, stride 1 and "same" zero padding.

        Args:
            channels: channels of the input, between the layers, and of the output, the last like the first.
            kernel_sizes: one odd size per layer.
            image_size: one number or (height, width) of the input; None: taken from the first input.
            activation: before every layer but the first.
            coeff: bound on the spectral norm of each layer; the branch has the product as its Lipschitz constant.
            preactivation: also before the first layer.
            bias: whether the layers have biases.
            layer_options: further options of SpectralConv2d.

        Raises:
            ValueError: the channels or kernel sizes do not form a branch, or the name is unknown.
        """
        pairs = _pairs("channels", channels)
        if len(kernel_sizes) != len(pairs) or any(k < 1 or k % 2 == 0 for k in kernel_sizes):
            raise ValueError(
                f"kernel_sizes must be {len(pairs)} odd numbers, one per layer, got {list(kernel_sizes)}; change them."
            )
        layers = [
            SpectralConv2d(a, b, k, padding=k // 2, bias=bias, coeff=coeff, **layer_options)
            for (a, b), k in zip(pairs, kernel_sizes, strict=True)
        ]
        return cls(layers, _names(activation, len(layers), preactivation), image_size)

    @property
    def lipschitz(self) -> float:
        """Lipschitz constant of g: the product over the stages of coeff and the activation's constant."""
        product = 1.0
        for layer, name in zip(self._layers(), self.activations, strict=True):  # a loop, which torch.compile traces
            product *= layer.coeff * registry.get(name).lipschitz
        return product

    def stages(self, image_size: Sequence[int] | None = None) -> Stages:
        """Return the effective weights, the biases, the activations and their parameters, as `iresnet_fast.ops` takes.

        The weights carry a graph if there is a gradient to take; otherwise they are computed once per change.

        Args:
            image_size: (height, width) of the input the norms are for; None, or not two numbers: as before.

        Raises:
            ValueError: a convolution does not know its image size yet.
        """
        layers = self._layers()
        if image_size is not None and len(image_size) == 2:
            for layer in layers:
                if isinstance(layer, SpectralConv2d):
                    layer.set_image_size(image_size)
        betas = [getattr(self, f"beta_{i}", None) for i in range(len(layers))]
        return self._weights(layers), [layer.bias for layer in layers], self.activations, betas

    def _weights(self, layers: Sequence[SpectralLinear | SpectralConv2d]) -> list[Tensor]:
        weights = effective_weights(layers)
        if self.normalize == "layers":
            return weights
        known = self._scaled
        if known is not None and all(a is b for a, b in zip(known[0], weights, strict=True)):
            return known[1]
        scaled = spend_slack(weights, self.activations, self.lipschitz)
        if not torch.compiler.is_compiling() and not any(weight.requires_grad for weight in weights):
            self._scaled = weights, scaled
        return scaled

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of copies and pickles what follows from the weights."""
        return {**self.__dict__, "_scaled": None}

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        """Return g(x), the shape of x, [B, d] or [B, C, H, W].

        Raises:
            ValueError: there is a context, which this branch cannot use, or x does not fit.
        """
        self.check_context(context)
        self.check_input(x)
        return ops.branch(x, *self.stages(x.shape[2:]))

    @staticmethod
    def check_context(context: object) -> None:
        """Raise ValueError unless `context` is None."""
        if context is not None:
            raise ValueError("context must be None for a ResidualBranch, got one; use a branch module that takes it.")

    def check_input(self, x: Tensor, name: str = "x") -> None:
        """Raise ValueError or TypeError unless x fits the first layer; `name` is what the caller calls it."""
        check_layer_input(self.layers[0], x, name)

    def extra_repr(self) -> str:
        """Describe the branch in its repr."""
        return f"activations={list(self.activations)}, lipschitz={self.lipschitz:.4g}"

    def _layers(self) -> list[SpectralLinear | SpectralConv2d]:
        return cast("list[SpectralLinear | SpectralConv2d]", list(self.layers))


def _pairs(argument: str, widths: Sequence[int]) -> list[tuple[int, int]]:
    if len(widths) < 2:
        raise ValueError(f"{argument} must hold at least two numbers, got {list(widths)}; add the output's.")
    return list(itertools.pairwise(widths))


def _names(activation: str, n_layers: int, preactivation: bool) -> list[str]:
    return [activation if preactivation else "identity"] + [activation] * (n_layers - 1)


def _check_layers(layers: Sequence[SpectralLinear | SpectralConv2d], activations: Sequence[str]) -> None:
    if len(layers) == 0 or len(activations) != len(layers):
        raise ValueError(
            f"activations must have one name per layer and there must be a layer, got {len(activations)} names for "
            f"{len(layers)} layers; use 'identity' where there is none."
        )
    kind = SpectralConv2d if isinstance(layers[0], SpectralConv2d) else SpectralLinear
    widths = [(0, 0)] * len(layers)
    for i, layer in enumerate(layers):
        if not isinstance(layer, kind):
            raise TypeError(
                f"layers must be all SpectralLinear or all SpectralConv2d, got {type(layer).__name__} as layers[{i}]; "
                f"give the block any other module as its branch."
            )
        widths[i] = (layer.weight.shape[1], layer.weight.shape[0])
        if isinstance(layer, SpectralConv2d):
            check_convolution(i, layer)
    for i, (name, (width, _)) in enumerate(zip(activations, widths, strict=True)):
        if width != widths[i - 1][1]:
            source = f"layers[{i - 1}]" if i else "the last layer, since a branch is added to its input"
            raise ValueError(
                f"layers[{i}] must have as many inputs as there are outputs of {source}, {widths[i - 1][1]}, "
                f"got {width}; change one of them."
            )
        if registry.get(name).pairwise and width % 2:
            raise ValueError(
                f"layers[{i}] must have an even number of inputs after {name}, which works on pairs of channels, "
                f"got {width}; change the width or the activation."
            )


def check_convolution(i: int, layer: SpectralConv2d) -> None:
    """Raise ValueError unless the convolution keeps the size of any image."""
    k = layer.kernel_size[0]
    same = (layer.kernel_size, layer.padding) == ((k, k), (k // 2, k // 2))
    if not same or k % 2 == 0 or (layer.stride, layer.dilation, layer.groups) != ((1, 1), (1, 1), 1):
        raise ValueError(
            f"layers[{i}] must have an odd square kernel k, stride 1, padding k // 2, dilation 1 and one group, "
            f"got {layer}; give the block any other module as its branch."
        )
