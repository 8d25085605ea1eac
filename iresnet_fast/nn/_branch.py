"""What all branches share: layers and activations in turn, and whether kernels may pass them by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from .._stages import Stages
from ._chain import expansion_of, inputs_of, outputs_of
from ._hooks import Skippable, make_tensors
from ._inputs import check_layer_input
from ._layer import SpectralLayer
from ._tensors import gathered
from .activation import Activation


class Branch(Skippable):
    """A branch of `layers`, bounded linear maps, and activations between them."""

    takes_context = False
    on_stages: ClassVar[bool] = False  # whether it has `as_stages`, so that a block can run it on the kernels
    layer_kind: ClassVar[type[nn.Module]] = SpectralLayer  # that of its layers, unless somebody has replaced one
    layers: nn.ModuleList
    activations: Any  # names, or modules that have them

    def why_no_kernels(self) -> str | None:
        """Return why a block cannot run the stages of the branch in its place, for messages; None if it can."""
        reason = self.beyond_formula()
        return self.beyond_stages() if reason is None else reason

    def beyond_stages(self) -> str | None:
        """Return what of the formula no stages could do, for messages; None if they can do all of it."""
        return None

    def beyond_formula(self) -> str | None:
        """Return what a call of the branch does beyond the formula of its class, for messages; None if nothing."""
        own = super().why_no_kernels()
        return self.why_layers_are_called() if own is None else f"it {own}"

    def as_stages(self, x: Tensor, context: Any = None) -> Stages:
        """Return the stages of a call at x and a context, for branches with `on_stages`.

        The tensors carry a graph where there is a gradient to take.

        Args:
            x: [B, d] or [B, C, H, W]; only its shape, dtype and device count, its numbers may be any.
            context: what the branch takes beside x.

        Raises:
            ValueError: the context does not fit.
        """
        raise NotImplementedError(f"a {type(self).__name__} has no stages; call it.")

    def stage_norms(self) -> list[float] | None:
        """Return bounds of the spectral norms of the weights in `as_stages`; None: not known.

        They only make the bound of the rounding of an inverse closer.
        """
        return None

    def why_layers_are_called(self) -> str | None:
        """Return which of the layers must be called and why, for messages; None if none."""
        return _why_called(self.layers, "layers", self.layer_kind)

    def activation_names(self) -> tuple[str, ...]:
        """Return the names of the activations, in the order of the layers."""
        return tuple(phi if isinstance(phi, str) else phi.name for phi in self.activations)

    def check_context(self, context: object) -> None:
        """Raise ValueError unless `context` is None."""
        if context is not None:
            raise ValueError(
                f"context must be None for a {type(self).__name__}, got one; use a ConditionalBranch, or any module "
                f"that takes it."
            )

    def check_input(self, x: Tensor, name: str = "x") -> None:
        """Raise ValueError or TypeError unless x fits the first layer; `name` is what the caller calls it."""
        check_layer_input(self._layers()[0], x, name, self._input_expansion())

    def _input_expansion(self) -> int:
        """Return how many inputs the first layer has for each channel of x."""
        first = self.activations[0]
        return expansion_of(first) if isinstance(first, str) else getattr(first, "expansion", 1)

    def _layers(self) -> list[Any]:
        return list(self.layers._modules.values())  # past the methods of ModuleList, which are slow

    def _product(self, layers: Iterable[Any], constants: Iterable[float | None]) -> float | None:
        """Return the product of the coeffs and the constants of the activations; None if one of them is not known."""
        product = 1.0
        for layer, constant in zip(layers, constants, strict=True):  # a loop, which torch.compile traces
            if constant is None or not isinstance(layer, self.layer_kind):  # others bound another norm, or none
                return None
            product *= cast(Any, layer).coeff * constant
        return product


class ModuleBranch(Branch):
    """A branch whose activations are modules, called one after the other with the layers."""

    activations: nn.ModuleList

    def beyond_formula(self) -> str | None:
        """Return what a call of the branch does beyond the formula of its class, for messages; None if nothing."""
        reason = super().beyond_formula()
        return _why_called(self.activations, "activations", Activation) if reason is None else reason

    def _phis(self) -> list[Activation]:
        return cast("list[Activation]", list(self.activations))

    def _constants(self) -> list[float | None]:
        """Return the Lipschitz constants of the activations; None for a module that does not say."""
        return [getattr(phi, "lipschitz", None) for phi in self.activations]

    def _betas(self) -> list[Tensor | None]:
        betas = []
        for phi in self._phis():
            make_tensors(phi)
            betas.append(None if phi.beta is None else gathered(phi.beta))
        return betas

    def _set_activations(self, names: Sequence[str], layers: Sequence[nn.Module]) -> None:
        """Make the activations, each on the device and in the dtype of its layer."""
        weights = [cast(Tensor, layer.weight) for layer in layers]
        self.activations = nn.ModuleList(
            Activation(name, weight.device, weight.dtype) for name, weight in zip(names, weights, strict=True)
        )


def _why_called(parts: nn.ModuleList, name: str, kind: type[nn.Module]) -> str | None:
    for i, part in enumerate(parts._modules.values()):
        if not isinstance(part, Skippable) or not isinstance(part, kind):
            return f"{name}[{i}] is a {type(part).__name__}"
        reason = part.why_no_kernels()
        if reason is not None:
            return f"{name}[{i}] {reason}"
    return None


def check_chain(layers: Sequence[nn.Module], activations: Sequence[str], grows_at: int | None = None) -> None:
    """Raise ValueError unless each layer takes what the one before gives, the first what the last does.

    Args:
        layers: the layers, each after its activation.
        activations: their names; one may double the channels.
        grows_at: index of a layer that takes more.
    """
    for i, (layer, name) in enumerate(zip(layers, activations, strict=True)):
        width, before = inputs_of(layer), outputs_of(layers[i - 1])
        expected = before * expansion_of(name)
        if width <= expected if i == grows_at else width != expected:
            source = f"layers[{i - 1}]" if i else "the last layer, since a branch is added to its input"
            more = "more inputs than" if i == grows_at else "as many inputs as"
            if expected != before:
                more = f"after {name} twice {more}"
            raise ValueError(
                f"layers[{i}] must have {more} there are outputs of {source}, {before}, got {width}; change one of "
                f"them."
            )


def shown(constant: float | None) -> str:
    """Return a Lipschitz constant for a repr."""
    return "unknown" if constant is None else f"{constant:.4g}"
