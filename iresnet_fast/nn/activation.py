"""The activations of `iresnet_fast.activations` as modules, and the one that doubles its channels, CLipSwish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import activations as registry
from .._inputs import check_floating, check_samples
from ._beta import HasBeta, initial_beta
from ._hooks import Skippable

# With s = swish', [s(a), 1 - s(a)] are the derivatives of swish(a) and -swish(-a). The norm of the pair is at most
# 1.104363 whatever the slope, 1.003966 once divided by LipSwish's 1.1 (i-DenseNet, arXiv 2102.02694).
_PAIR_SCALE = 1.0 / 1.004


class Activation(HasBeta, Skippable):
    """phi(a) over dimension 1 of [B, C, ...], with its own learnable beta if it has one.

    "clipswish" is [LipSwish(a), LipSwish(-a)] / 1.004, twice as many channels (i-DenseNet, arXiv 2102.02694); all
    other names are those of `iresnet_fast.activations`.

    Args:
        name: of the activation.
        device: of beta.
        dtype: of beta.

    Raises:
        ValueError: the name is unknown.

    Attributes:
        expansion: number of output channels for each input channel.
        lipschitz: Lipschitz constant in the Euclidean norm.
        beta: the parameter [1]; None if the activation has none.
    """

    def __init__(self, name: str, device: Any = None, dtype: Any = None) -> None:
        """Build the activation; the arguments are those of the class."""
        super().__init__()
        self.name = name
        self.expansion = 2 if name == "clipswish" else 1
        self._entry = get_entry(name)
        self.lipschitz: float = self._entry.lipschitz
        self.beta: nn.Parameter | None = None
        if self._entry.has_parameter:
            self.beta = initial_beta(device, dtype)

    @staticmethod
    def plain_forward() -> Callable[..., Tensor]:
        """Return the forward of this class."""
        return Activation.forward

    def forward(self, a: Tensor) -> Tensor:
        """Return phi(a), [B, expansion C, ...].

        Raises:
            ValueError: the activation works on pairs of channels, and their number is odd.
        """
        check_floating(a, "a")
        check_samples(a, "a")
        if self._entry.pairwise and a.shape[1] % 2:
            raise ValueError(f"a must have an even number of channels for {self.name}, got {a.shape[1]}; change it.")
        if self.expansion == 1:
            value: Tensor = self._entry.value(a, self.beta)
            return value
        return torch.cat((self._entry.value(a, self.beta), self._entry.value(-a, self.beta)), 1) * _PAIR_SCALE

    def extra_repr(self) -> str:
        """Describe the activation in its repr."""
        return repr(self.name)


def get_entry(name: str) -> registry.Activation:
    """Return the registry's entry of `name`, for clipswish that of lipswish.

    Raises:
        ValueError: the name is unknown.
    """
    if name != "clipswish" and name not in registry.REGISTRY:
        names = ", ".join((*registry.REGISTRY, "clipswish"))
        raise ValueError(f"activation must be one of {names}, got {name!r}; use one of these names.")
    return registry.get("lipswish" if name == "clipswish" else name)
