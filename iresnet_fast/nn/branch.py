"""A residual branch g(x): activations and spectrally normalised linear maps, as the kernels take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks, ops
from .. import activations as registry
from .._stages import Stages
from .._tracing import under_transforms
from ._beta import HasBeta, initial_beta
from ._branch import Branch, check_chain, shown
from ._chain import Layer, check_names, check_spectral, conv_layers, linear_layers, names_of, pairs_after, pairs_of
from ._hooks import make_tensors
from ._slack import spend_slack
from ._tensors import bias_of, gathered
from .conv import SpectralConv2d
from .linear import SpectralLinear
from .spectral import effective_weights, normalized_as


class ResidualBranch(HasBeta, Branch):
    """g(x): stages of an activation followed by a SpectralLinear or SpectralConv2d.

    Equivalent to: `for activation, layer in zip(activations, layers): x = layer(activation(x))`. All layers take their
    norms and weights in one call each. A LipSwish stage i has a learnable `beta_i` [1].

    Layers can be pruned or parametrised: what that makes of their weights is normalised. If they have hooks or a
    forward of their own, or are replaced by other modules, they are called one by one, as that line says, and a block
    runs on the autograd path. `lipschitz` does not know of hooks; it is None if a layer is of another kind.

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

    on_stages = True
    # Weights without a graph, and what they are scaled to.
    _scaled: tuple[list[Tensor], list[Tensor]] | None = None

    def __init__(
        self,
        layers: Sequence[Layer],
        activations: Sequence[str],
        image_size: int | tuple[int, int] | None = None,
        normalize: str = "layers",
    ) -> None:
        """Build the branch; the arguments are those of the class."""
        super().__init__()
        check_names(layers, activations)
        check_spectral(layers)
        check_chain(layers, activations)
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
                self.register_parameter(f"beta_{i}", initial_beta(layer.weight.device, layer.weight.dtype))

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
        options = {"bias": bias, "coeff": coeff, **layer_options}
        layers = linear_layers(
            pairs_after(activation, pairs_of("widths", widths), preactivation), SpectralLinear, options
        )
        return cls(layers, names_of(activation, len(layers), preactivation), normalize=normalize)

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
        options = {"bias": bias, "coeff": coeff, **layer_options}
        pairs = pairs_after(activation, pairs_of("channels", channels), preactivation)
        layers = conv_layers(pairs, kernel_sizes, SpectralConv2d, options)
        return cls(layers, names_of(activation, len(layers), preactivation), image_size)

    @property
    def lipschitz(self) -> float | None:
        """Lipschitz constant of g: the product over the stages of coeff and the activation's constant.

        None if a layer has been replaced by a module of another kind.
        """
        return self._product(self.layers, [registry.get(name).lipschitz for name in self.activations])

    def as_stages(self, x: Tensor, context: Any = None) -> Stages:
        """Return the stages of a call at x: those of `stages`, without factors.

        Raises:
            ValueError: there is a context, which this branch cannot use.
        """
        self.check_context(context)
        stages = self.stages(x.shape[2:])
        return Stages(*stages, [None] * len(stages[0]))

    def stage_norms(self) -> list[float] | None:
        """Return bounds of the spectral norms of the weights; None if only the branch as a whole has one."""
        # The last layer of a branch that is normalised as a whole may exceed its coeff.
        return [layer.coeff for layer in self._layers()] if self.normalize == "layers" else None

    def stages(
        self, image_size: Sequence[int] | None = None
    ) -> tuple[list[Tensor], list[Tensor | None], tuple[str, ...], list[Tensor | None]]:
        """Return the effective weights, the biases, the activations and their parameters, as `iresnet_fast.ops` takes.

        The weights carry a graph if there is a gradient to take; otherwise they are computed once per change.

        Args:
            image_size: (height, width) of the input the norms are for; None, or not two numbers: as before.

        Raises:
            ValueError: a convolution does not know its image size yet.
        """
        layers = self._layers()
        weights = self._weights(layers, image_size if image_size is not None and len(image_size) == 2 else None)
        return weights, [bias_of(layer) for layer in layers], self.activations, self._betas()

    def _betas(self) -> list[Tensor | None]:
        make_tensors(self)
        betas: list[Tensor | None] = [None] * len(self.activations)
        for i, name in enumerate(self.activations):
            if registry.get(name).has_parameter and hasattr(self, f"beta_{i}"):
                betas[i] = gathered(getattr(self, f"beta_{i}"))
        return betas

    def _weights(self, layers: Sequence[Layer], image_size: Sequence[int] | None) -> list[Tensor]:
        weights = effective_weights(layers, image_size)
        if self.normalize == "layers":
            return weights
        known = self._scaled
        if known is not None and all(a is b for a, b in zip(known[0], weights, strict=True)):
            return known[1]
        assert self.lipschitz is not None  # all layers are spectral here
        scaled = spend_slack(weights, self.activations, self.lipschitz)
        kept = not torch.compiler.is_compiling() and not under_transforms()
        if kept and not any(weight.requires_grad for weight in weights):
            self._scaled = weights, scaled
        return scaled

    @staticmethod
    def plain_forward() -> Callable[..., Tensor]:
        """Return the forward of this class."""
        return ResidualBranch.forward

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
        reason = self.why_layers_are_called()
        return ops.branch(x, *self.stages(x.shape[2:])) if reason is None else self._call_layers(x, reason)

    def _call_layers(self, x: Tensor, reason: str) -> Tensor:
        layers = self._layers()
        given: list[Tensor] = []
        if self.normalize == "branch":
            if any(not isinstance(layer, SpectralLinear) or layer.may_remake_tensors() for layer in layers):
                raise ValueError(
                    f"normalize must be 'layers' for a branch whose layers may change their weights in a call, got "
                    f"'branch', and {reason}; build the branch with normalize='layers'."
                )
            given = self._weights(layers, None)
        with normalized_as(layers, given):
            for layer, name, beta in zip(layers, self.activations, self._betas(), strict=True):
                x = layer(registry.get(name).value(x, beta))
        return x

    def extra_repr(self) -> str:
        """Describe the branch in its repr."""
        return f"activations={list(self.activations)}, lipschitz={shown(self.lipschitz)}"
