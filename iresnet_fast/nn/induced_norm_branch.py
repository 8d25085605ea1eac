"""A branch that contracts in l1 or l-infinity, or in l2 by a bound that is never too small."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .. import _checks
from .._stages import Stages
from ._branch import ModuleBranch, check_chain, shown
from ._chain import check_names, conv_layers, linear_layers, names_of, pairs_after, pairs_of
from ._tensors import bias_of
from .conv import is_stage
from .induced_norm import InducedNormConv2d, InducedNormLayer, InducedNormLinear

Layer = InducedNormLinear | InducedNormConv2d


def _in(norm: float) -> dict[str, float]:
    """Return the norms of the input and the output of a layer, both the same."""
    _checks.check_number("norm", norm, "float('inf')")
    return {"domain": norm, "codomain": norm}


class InducedNormBranch(ModuleBranch):
    """g(x): stages of an activation followed by a layer bounded in one induced p-norm, p = 1, 2 or inf.

    Every norm is a closed form of the current weights: an upper bound at every step, where power iteration approaches
    from below. As the branch of an InvertibleResidualBlock it runs on the kernels, but for convolutions with a stride,
    dilation, groups or padding of their own, which keep the image size together. For p = 1 and inf give the block
    `lipschitz=branch.inverse_lipschitz(n_dims)`, without which it has no inverse.

    Args:
        layers: InducedNormLinear, or InducedNormConv2d that keep the image size, each with p as its domain and
            codomain. Between different norms no closed form leads back to the first.
        activations: one name of `iresnet_fast.activations` per layer, each applied before its layer.

    Raises:
        ValueError: the layers do not form such a branch, a name is unknown, or it is "clipswish" and p is 1.
        TypeError: a layer is of another type.

    Attributes:
        norm: p.
    """

    layer_kind = InducedNormLayer
    on_stages = True

    def __init__(self, layers: Sequence[Layer], activations: Sequence[str]) -> None:
        """Build the branch; the arguments are those of the class."""
        super().__init__()
        check_names(layers, activations)
        for i, layer in enumerate(layers):
            if not isinstance(layer, (InducedNormLinear, InducedNormConv2d)):
                raise TypeError(
                    f"layers must be InducedNormLinear or InducedNormConv2d, got {type(layer).__name__} as "
                    f"layers[{i}]; use those."
                )
            if {layer.domain, layer.codomain} != {layers[0].domain}:
                raise ValueError(
                    f"layers[{i}] must have domain and codomain {layers[0].domain:g}, as layers[0] begins, got "
                    f"{layer.domain:g} and {layer.codomain:g}; use one norm throughout."
                )
        check_chain(layers, activations)
        if layers[0].domain == 1.0 and "clipswish" in activations:
            raise ValueError(
                "activations must have the constant 1 in l1, got clipswish, whose two outputs move by up to 1.09 "
                "together; use lipswish or another norm."
            )
        self.norm = layers[0].domain
        self.layers = nn.ModuleList(layers)
        self._set_activations(activations, layers)

    @classmethod
    def dense(
        cls,
        widths: Sequence[int],
        norm: float = math.inf,
        activation: str = "elu",
        coeff: float = 0.9,
        **layer_options: Any,
    ) -> InducedNormBranch:
        """Build a branch of InducedNormLinear layers.

        Args:
            widths: widths of the input, between the layers, and of the output, the last like the first.
            norm: p, 1, 2 or inf.
            activation: before every layer but the first.
            coeff: bound on the norm of each layer; the branch has the product.
            layer_options: further options of InducedNormLinear.

        Raises:
            ValueError: an argument is out of range, or the name is unknown.
        """
        options = {**_in(norm), "coeff": coeff, **layer_options}
        layers = linear_layers(pairs_after(activation, pairs_of("widths", widths)), InducedNormLinear, options)
        return cls(layers, names_of(activation, len(layers)))

    @classmethod
    def conv(
        cls,
        channels: Sequence[int],
        kernel_sizes: Sequence[int],
        norm: float = math.inf,
        activation: str = "elu",
        coeff: float = 0.9,
        **layer_options: Any,
    ) -> InducedNormBranch:
        """Build a branch of InducedNormConv2d layers with "same" zero padding, for images of any size.

        Args:
            channels: of the input, between the layers, and of the output, the last like the first.
            kernel_sizes: one odd size per layer.
            norm: p, 1, 2 or inf.
            activation: before every layer but the first.
            coeff: bound on the norm of each layer; the branch has the product.
            layer_options: further options of InducedNormConv2d.

        Raises:
            ValueError: an argument is out of range, or the name is unknown.
        """
        options = {**_in(norm), "coeff": coeff, **layer_options}
        layers = conv_layers(
            pairs_after(activation, pairs_of("channels", channels)), kernel_sizes, InducedNormConv2d, options
        )
        return cls(layers, names_of(activation, len(layers)))

    @property
    def contraction(self) -> float:
        """Lipschitz constant of g in its own p-norm: elementwise activations and MaxMin have theirs in any p.

        Infinite if a layer has been replaced by a module of another kind.
        """
        product = self._product(self.layers, self._constants())
        return math.inf if product is None else product

    @property
    def lipschitz(self) -> float | None:
        """Euclidean Lipschitz constant of g: that in its own norm if p is 2, else not known."""
        return self.contraction if self.norm == 2.0 and self.contraction < math.inf else None

    def inverse_lipschitz(self, n_dims: int) -> float:
        """Return the `lipschitz` to give an InvertibleResidualBlock for events of n_dims numbers.

        A contraction by c in l1 or l-infinity has a unique inverse, and fixed-point iteration finds it, but the
        Euclidean error of x is only sqrt(n_dims) |z - x - g(x)| / (1 - c). That is the solver's certificate for
        1 - (1 - c) / sqrt(n_dims). It says nothing about the series: leave the `tol` of PowerSeries at None.
        """
        return self.contraction if self.norm == 2.0 else 1.0 - (1.0 - self.contraction) / math.sqrt(n_dims)

    @staticmethod
    def plain_forward() -> Callable[..., Tensor]:
        """Return the forward of this class."""
        return InducedNormBranch.forward

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        """Return g(x), the shape of x, [B, d] or [B, C, H, W].

        Raises:
            ValueError: there is a context, which this branch cannot use.
        """
        self.check_context(context)
        self.check_input(x)
        for phi, layer in zip(self.activations, self.layers, strict=True):
            x = layer(phi(x))
        return x

    def beyond_stages(self) -> str | None:
        """Return what no stages could do, for messages; None if nothing."""
        for i, layer in enumerate(self._layers()):
            if isinstance(layer, nn.Conv2d) and not is_stage(layer):
                return f"layers[{i}] has no odd square kernel with stride 1 and zero padding"
        return None

    def as_stages(self, x: Tensor, context: None = None) -> Stages:
        """Return the stages of a call at x, of which only the shape, dtype and device count.

        Raises:
            ValueError: there is a context, which this branch cannot use.
        """
        self.check_context(context)
        layers = self._layers()
        weights = [layer.effective_weight() for layer in layers]
        biases = [bias_of(layer) for layer in layers]
        return Stages(weights, biases, self.activation_names(), self._betas(), [None] * len(layers))

    def extra_repr(self) -> str:
        """Describe the branch in its repr."""
        return f"norm={self.norm:g}, contraction={shown(self.contraction)}"
