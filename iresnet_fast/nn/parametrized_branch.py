"""A branch of torch's own layers, whose weights a parametrization bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .. import _checks, ops
from .._stages import Stages
from .._tracing import may_read
from ._branch import ModuleBranch, check_chain, shown
from ._chain import check_names
from ._claims import SLACK, check_claims
from ._hooks import Skippable, sees_activations
from ._tensors import bias_of, weight_of
from .conv import is_stage, keeps_size


class ParametrizedBranch(ModuleBranch):
    """g(x): stages of an activation followed by a torch layer whose weight is bounded by whoever makes it.

    For orthogonal weights (`torch.nn.utils.parametrizations.orthogonal`), Cayley's and AOL's, and any parametrization
    of one's own with a bound: each weight W is used as W coeff / norm, 1e-4 less for rounding. As the branch of an
    InvertibleResidualBlock it runs on the kernels.

    The claim is checked: when the weights are first used, and outside training whenever they have changed, their
    operator norms are computed, of convolutions on the size of the images. Under torch.compile, torch.func and while a
    CUDA graph is captured nobody can look: call the branch once before.

    Args:
        layers: all nn.Linear, or all nn.Conv2d with an odd square kernel k, stride 1, zero padding k // 2, dilation 1
            and one group; the last width is the first.
        activations: one name per layer, of those in `iresnet_fast.activations`, each applied before its layer.
        norm: bound of the operator norm of each weight as the parametrization makes it, one number or one per layer.
            A kernel that is orthogonal as a matrix [out, in k k] is a convolution of norm up to k; what torch's
            `orthogonal` makes of a kernel, orthogonal slices [k, k], has a norm of up to k sqrt(in out).
        coeff: bound on the norm of each layer as it is used; the branch has the product as its Lipschitz constant.

    Raises:
        ValueError: the layers do not form such a branch, a name is unknown, or a number is out of range.
        TypeError: a layer is of another type.
    """

    layer_kind = nn.Module
    on_stages = True
    image_size: tuple[int, ...] | None = None  # (height, width) of the last images; () for vectors, None before any
    # The image size and the bits of the weights whose norms were right; no bits if they were seen in training.
    _checked: tuple[Any, ...] | None = None

    def __init__(
        self,
        layers: Sequence[nn.Module],
        activations: Sequence[str],
        norm: float | Sequence[float] = 1.0,
        coeff: float = 0.9,
    ) -> None:
        """Build the branch; the arguments are those of the class."""
        super().__init__()
        check_names(layers, activations)
        _check_layers(layers)
        check_chain(layers, activations)
        norms: list[Any] = list(norm) if isinstance(norm, (list, tuple)) else [norm] * len(layers)
        if len(norms) != len(layers):
            raise ValueError(f"norm must be one number or {len(layers)}, one per layer, got {len(norms)}; change it.")
        for name, value in (*(("norm", value) for value in norms), ("coeff", coeff)):
            _checks.check_number(name, value, "1.0")
            if not 0.0 < float(value) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {value}; pass e.g. 1.0.")
        self.norms, self.coeff = tuple(float(value) for value in norms), float(coeff)
        self.layers = nn.ModuleList(layers)
        self._set_activations(activations, layers)

    @property
    def lipschitz(self) -> float | None:
        """Lipschitz constant of g: the product over the stages of coeff and the activation's constant.

        None if a layer has been replaced by a module of another kind.
        """
        product = 1.0
        for layer, constant in zip(self._layers(), self._constants(), strict=True):
            if constant is None or not isinstance(layer, (nn.Linear, nn.Conv2d)):
                return None
            product *= self.coeff * constant
        return product

    @staticmethod
    def plain_forward() -> Callable[..., Tensor]:
        """Return the forward of this class."""
        return ParametrizedBranch.forward

    def why_layers_are_called(self) -> str | None:
        """Return which of the layers must be called and why, for messages; None if none."""
        for i, layer in enumerate(self._layers()):
            reason = _why_called(layer)
            if reason is not None:
                return f"layers[{i}] {reason}"
        return None

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        """Return g(x), the shape of x, [B, d] or [B, C, H, W].

        Raises:
            ValueError: there is a context, which this branch cannot use, x does not fit, or a weight is larger than
                `norm` says.
        """
        self.check_context(context)
        self.check_input(x)
        layers = self._layers()
        self._check_norms([weight_of(layer) for layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d))], x)
        for phi, layer, scale in zip(self._phis(), layers, self._scales(), strict=True):
            x = layer(phi(x) * scale)  # which scales the weight and not the bias
        return x

    def as_stages(self, x: Tensor, context: None = None) -> Stages:
        """Return the stages of a call at x, of which only the shape, dtype and device count.

        Raises:
            ValueError: there is a context, which this branch cannot use, or a weight is larger than `norm` says.
        """
        self.check_context(context)
        weights = [weight_of(layer) for layer in self._layers()]
        self._check_norms(weights, x)
        return self._stages_of(weights)

    def stages(self) -> Stages:
        """Return the stages of any call, whatever the norms of their weights are."""
        return self._stages_of([weight_of(layer) for layer in self._layers()])

    def _stages_of(self, weights: Sequence[Tensor]) -> Stages:
        scaled = [weight * scale for weight, scale in zip(weights, self._scales(), strict=True)]
        biases = [bias_of(layer) for layer in self._layers()]
        return Stages(scaled, biases, self.activation_names(), self._betas(), [None] * len(scaled))

    def stage_norms(self) -> list[float] | None:
        """Return coeff for every layer."""
        return [self.coeff] * len(self.layers)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of copies and pickles what follows from the weights."""
        return {**self.__dict__, "_checked": None}

    def extra_repr(self) -> str:
        """Describe the branch in its repr."""
        return f"norm={list(self.norms)}, coeff={self.coeff}, lipschitz={shown(self.lipschitz)}"

    def _scales(self) -> list[float]:
        return [self.coeff / (norm * (1.0 + SLACK)) for norm in self.norms]

    def _check_norms(self, weights: Sequence[Tensor], x: Tensor) -> None:
        """Raise ValueError if a weight, as a map of images of the size of x, is larger than was claimed."""
        self.image_size = tuple(x.shape[2:])
        if not weights or any(weight.is_meta or not may_read(weight) for weight in weights):
            return
        size = self.image_size
        seen: tuple[Any, ...] = size, None
        if self.training:
            is_known = self._checked is not None and self._checked[0] == size
        else:
            seen = size, ops.fingerprint(weights).tolist()
            is_known = self._checked == seen
        if not is_known:
            check_claims(weights, self.norms, size)
            self._checked = seen


def _check_layers(layers: Sequence[nn.Module]) -> None:
    kind = nn.Conv2d if isinstance(layers[0], nn.Conv2d) else nn.Linear
    for i, layer in enumerate(layers):
        if not isinstance(layer, kind) or isinstance(layer, Skippable):
            raise TypeError(
                f"layers must be all nn.Linear or all nn.Conv2d, got {type(layer).__name__} as layers[{i}]; use one "
                f"kind, or the branch that is made for it."
            )
        if isinstance(layer, nn.Conv2d) and not keeps_size(layer):
            raise ValueError(
                f"layers[{i}] must have an odd square kernel k, stride 1, zero padding k // 2, dilation 1 and one "
                f"group, got {layer}; give the block any other module as its branch."
            )


def _why_called(layer: nn.Module) -> str | None:
    """Return why a layer must be called and not only its weight and bias used, for messages; None if it need not."""
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        return f"is a {type(layer).__name__}"
    kind, plain = type(layer), nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
    if kind.forward is not plain.forward or "forward" in layer.__dict__ or kind.__call__ is not nn.Module.__call__:
        return "has a forward of its own"
    if isinstance(layer, nn.Conv2d) and not is_stage(layer):
        return "is no convolution that keeps the image size, with stride 1 and zero padding"
    return "has hooks" if sees_activations(layer) else None
