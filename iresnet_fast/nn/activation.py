"""The activations of `iresnet_fast.activations` as modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .. import activations as registry
from .._inputs import check_floating, check_samples
from ._beta import HasBeta, initial_beta
from ._hooks import Skippable


class Activation(HasBeta, Skippable):
    """phi(a) over dimension 1 of [B, C, ...], with its own learnable beta if it has one.

    "clipswish" is [LipSwish(a), LipSwish(-a)] / 1.004, twice as many channels (i-DenseNet, arXiv 2102.02694).

    Args:
        name: of `iresnet_fast.activations`.
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
        entry = registry.get(name)
        self.expansion = entry.expansion
        self.lipschitz: float = entry.lipschitz
        self.beta: nn.Parameter | None = None
        if entry.has_parameter:
            self.beta = initial_beta(device, dtype)

    @staticmethod
    def plain_forward() -> Callable[..., Tensor]:
        """Return the forward of this class."""
        return Activation.forward

    def forward(self, a: Tensor) -> Tensor:
        """Return phi(a), [B, expansion C, ...]."""
        check_floating(a, "a")
        check_samples(a, "a")
        value: Tensor = registry.get(self.name).value(a, self.beta)  # by the name: a pickled module holds no functions
        return value

    def extra_repr(self) -> str:
        """Describe the activation in its repr."""
        return repr(self.name)
