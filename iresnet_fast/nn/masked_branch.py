"""A branch between masks: of interventions, of the edges of a graph, with the sign of a structural equation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .. import _checks
from .. import activations as registry
from .._inputs import check_same_device, check_tensor, described
from .._stages import Stages, identity_like
from ._branch import Branch, shown
from ._chain import names_of
from ._hooks import Skippable
from ._transform import can_look_at, check_range
from .branch import ResidualBranch
from .linear import SpectralLinear


class Masks(NamedTuple):
    """What a MaskedBranch multiplies by in one call: numbers in [-1, 1] each, for each sample or the same for all.

    Attributes:
        output: [B, d] or [d], of images [B, C, H, W] or [C, H, W]; None: ones. Zero where an intervention sets a
            variable, so that nothing acts on it.
        input: likewise; zero where a variable acts on nothing.
    """

    output: Tensor | None = None
    input: Tensor | None = None


class MaskedBranch(Branch):
    """g(x; masks) = sign * output * branch(input * x): a branch on stages between given masks.

    With sign -1 the block is x - f(x), as in cyclic causal discovery (NODAGS-Flow, arXiv 2301.01849), where a mask of
    the output for each sample says which variables were not set by an intervention. Masks are of absolute values up to
    1, so the Lipschitz constant stays; larger ones are refused, and where reading them would make a GPU wait or break
    a graph they are cut off at 1. Gradients reach them, so that they may be drawn by a network (Gumbel masks). As the
    branch of an InvertibleResidualBlock, `block(x, masks)`, it runs on the kernels.

    Args:
        branch: a ResidualBranch, InducedNormBranch or ParametrizedBranch.
        sign: 1 or -1.

    Raises:
        ValueError: sign is neither.
        TypeError: the branch is of another kind, or takes a context itself.
    """

    takes_context = True
    on_stages = True

    def __init__(self, branch: Branch, sign: int = 1) -> None:
        """Build the branch; the arguments are those of the class."""
        super().__init__()
        if not isinstance(branch, Branch) or not branch.on_stages or branch.takes_context:
            raise TypeError(
                f"branch must be a ResidualBranch, InducedNormBranch or ParametrizedBranch, got {described(branch)}; "
                f"build one."
            )
        if isinstance(sign, bool) or not isinstance(sign, int) or abs(sign) != 1:
            raise ValueError(f"sign must be 1 or -1, got {sign!r}; pass one of them.")
        self.branch = branch
        self.sign = int(sign)

    @classmethod
    def per_node(
        cls,
        n: int,
        hidden: int,
        adjacency: Tensor | None = None,
        activation: str = "tanh",
        coeff: float = 0.9,
        sign: int = -1,
        **layer_options: Any,
    ) -> MaskedBranch:
        """Build one network with a hidden layer for each of n variables, all of them in two masked SpectralLinear.

        Of each layer the masked weight is normalised, so that the whole is a contraction.

        Args:
            n: number of variables.
            hidden: units of each variable's network.
            adjacency: [n, n], not zero at [i, j] where variable i may act on variable j, itself included if the
                diagonal says so; None: every variable on every other.
            activation: between the layers, one that keeps the number of channels and mixes none.
            coeff: bound on the spectral norm of each layer; the branch has the product.
            sign: 1 or -1, as for the class.
            layer_options: further options of SpectralLinear.

        Raises:
            ValueError: an argument is out of range, or the name is unknown.
            TypeError: an integer argument is not an integer.
        """
        _checks.check_count("n", n, 1)
        _checks.check_count("hidden", hidden, 1)
        if not registry.get(activation).elementwise:
            raise ValueError(f"activation must act on each unit by itself, got {activation}; use e.g. 'tanh'.")
        parents = _parents(n, adjacency)
        first = SpectralLinear(n, n * hidden, coeff=coeff, **layer_options)
        last = SpectralLinear(n * hidden, n, coeff=coeff, **layer_options)
        with torch.no_grad():  # as for a layer of the inputs that the mask leaves
            last.weight.uniform_(-1.0 / math.sqrt(hidden), 1.0 / math.sqrt(hidden))
        own = torch.eye(n, dtype=torch.bool).repeat_interleave(hidden, 1)
        for layer, mask in ((first, parents.repeat_interleave(hidden, 0)), (last, own)):
            parametrize.register_parametrization(layer, "weight", _Kept(mask.to(layer.weight)))
        return cls(ResidualBranch([first, last], names_of(activation, 2)), sign)

    @property
    def layers(self) -> nn.ModuleList:  # type: ignore[override]
        """Those of the branch."""
        return self.branch.layers

    @property
    def lipschitz(self) -> float | None:
        """Lipschitz constant of g in x, whatever the masks: that of the branch."""
        known: float | None = getattr(self.branch, "lipschitz", None)
        return known

    @staticmethod
    def plain_forward() -> Callable[..., Tensor]:
        """Return the forward of this class."""
        return MaskedBranch.forward

    def beyond_formula(self) -> str | None:
        """Return what a call of the branch does beyond the formula of its class, for messages; None if nothing."""
        own = Skippable.why_no_kernels(self)
        inner = self.branch.beyond_formula() if own is None else None
        return inner if own is None else f"it {own}"

    def beyond_stages(self) -> str | None:
        """Return what no stages could do, for messages; None if nothing."""
        return self.branch.beyond_stages()

    def activation_names(self) -> tuple[str, ...]:
        """Return the names of the activations of the branch, in the order of its layers."""
        return self.branch.activation_names()

    def check_input(self, x: Tensor, name: str = "x") -> None:
        """Raise ValueError or TypeError unless x fits the branch; `name` is what the caller calls it."""
        self.branch.check_input(x, name)

    def forward(self, x: Tensor, context: Tensor | Masks | None = None) -> Tensor:
        """Return g(x; masks), the shape of x, [B, d] or [B, C, H, W].

        Args:
            x: [B, d] or [B, C, H, W].
            context: Masks, or a tensor that is the mask of the output; None: ones.

        Raises:
            ValueError: x or a mask does not fit, or a mask has a number beyond 1.
            TypeError: the context is neither of them.
        """
        self.check_input(x)
        output, given = _masks(context, x)
        gx = self.sign * self.branch(x if given is None else given * x)
        masked: Tensor = gx if output is None else output * gx
        return masked

    def as_stages(self, x: Tensor, context: Tensor | Masks | None = None) -> Stages:
        """Return the stages of a call: the masks are factors, of a stage of their own where no other can have them.

        Args:
            x: [B, d] or [B, C, H, W]; only its shape, dtype and device count.
            context: as in `forward`.

        Raises:
            ValueError: a mask does not fit, or has a number beyond 1.
            TypeError: the context is neither of what it can be.
        """
        output, given = _masks(context, x)
        stages = self.branch.as_stages(x)
        weights, biases, names = list(stages.weights), list(stages.biases), list(stages.activations)
        parameters, factors = list(stages.parameters), list(stages.factors)
        if given is not None and names[0] != "identity":
            identity = identity_like(weights[0], weights[0].shape[1] // registry.get(names[0]).expansion)
            weights, biases = [identity, *weights], [None, *biases]
            names, parameters, factors = ["identity", *names], [None, *parameters], [None, *factors]
        if given is not None:
            factors[0] = given
        if output is not None:
            weights, biases = [*weights, self.sign * identity_like(weights[-1], weights[-1].shape[0])], [*biases, None]
            names, parameters, factors = [*names, "identity"], [*parameters, None], [*factors, output]
        elif self.sign < 0:
            weights[-1] = -weights[-1]
            biases[-1] = None if (bias := biases[-1]) is None else -bias
        return Stages(weights, biases, tuple(names), parameters, factors)

    def extra_repr(self) -> str:
        """Describe the branch in its repr."""
        return f"sign={self.sign}, lipschitz={shown(self.lipschitz)}"


class _Kept(nn.Module):
    """A parametrization that keeps the entries of a weight where a mask is one, and makes the others zero."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def _parents(n: int, adjacency: Tensor | None) -> Tensor:
    """Return for each variable which others act on it, [n, n]."""
    if adjacency is None:
        return ~torch.eye(n, dtype=torch.bool)
    check_tensor(adjacency, "adjacency")
    if adjacency.shape != (n, n):
        raise ValueError(
            f"adjacency must have shape {(n, n)}, from each of n variables to each, got {tuple(adjacency.shape)}; "
            f"change one of them."
        )
    return adjacency.t() != 0


def _masks(context: Tensor | Masks | None, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the masks of the output and of the input, of the shape and dtype of x."""
    if isinstance(context, Tensor) or context is None:
        context = Masks(context)
    if not isinstance(context, Masks):
        raise TypeError(
            f"context must be Masks or a tensor, the mask of the output, got {described(context)}; pass "
            f"Masks(output, input)."
        )
    return _mask(context.output, x, "the mask of the output"), _mask(context.input, x, "the mask of the input")


def _mask(mask: Tensor | None, x: Tensor, name: str) -> Tensor | None:
    if mask is None:
        return None
    check_same_device(mask, x, name, "input")
    if mask.is_complex():
        raise TypeError(f"{name} must have real numbers, got {mask.dtype}; pass its real part.")
    if mask.shape not in (x.shape, x.shape[1:]):
        raise ValueError(
            f"{name} must have shape {tuple(x.shape)} or {tuple(x.shape[1:])}, got {tuple(mask.shape)}; pass a row for "
            f"each sample of x, or one for all."
        )
    if mask.dtype != torch.bool:
        if can_look_at(mask):
            check_range(mask, -1.0, 1.0, "divide it, so that the block stays a contraction", name)
        else:
            mask = mask.clamp(-1.0, 1.0)
    return mask.to(x.dtype).expand(x.shape)
