"""A fixed order of the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .._inputs import check_channels, check_same_device
from ._transform import Transform


class Permutation(Transform):
    """z[:, i] = x[:, indices[i]] for [B, C, ...]. The log-determinant is zero.

    Args:
        indices: every number below C once; buffer `indices` [C] is in the state_dict.

    Raises:
        ValueError: it is no permutation.
    """

    indices: Tensor

    def __init__(self, indices: Sequence[int] | Tensor) -> None:
        """Build the layer; the argument is that of the class."""
        super().__init__()
        if isinstance(indices, str):
            raise TypeError(f"indices must be a list of integers, got {indices!r}; pass e.g. [1, 0].")
        order = torch.as_tensor(indices)
        if order.dim() != 1 or sorted(order.tolist()) != list(range(order.numel())):
            raise ValueError(f"indices must hold every number below their count once, got {indices}; change them.")
        self.register_buffer("indices", order.to(torch.int64).clone())

    @classmethod
    def reverse(cls, num_features: int) -> Permutation:
        """Build the permutation that turns the order round; raises ValueError if num_features is not positive."""
        _checks.check_count("num_features", num_features, 1)
        return cls(range(num_features - 1, -1, -1))

    @classmethod
    def random(cls, num_features: int, generator: torch.Generator | None = None) -> Permutation:
        """Build a random permutation from `generator`, None: torch's; raises ValueError as `reverse`."""
        _checks.check_count("num_features", num_features, 1)
        return cls(torch.randperm(num_features, generator=generator, device=generator.device if generator else "cpu"))

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and zeros [B]; context is not used.

        Raises:
            ValueError: x does not have C channels.
        """
        check_channels(x, self.indices.numel())
        check_same_device(x, self.indices)
        return x.index_select(1, self.indices), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and zeros [B]; context is not used.

        Raises:
            ValueError: z does not have C channels.
        """
        check_channels(z, self.indices.numel(), "z")
        check_same_device(z, self.indices, "z")
        return z.index_select(1, self.indices.argsort()), z.new_zeros(z.shape[0])

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"{self.indices.numel()}"
