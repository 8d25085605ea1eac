"""Transforms one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._transform import output_shape, takes_context


class Sequential(nn.Sequential):
    """Invertible sequence of transforms: log-determinants are summed, the inverse goes backwards.

    Built, indexed, sliced, extended and printed like torch.nn.Sequential. Every transform has
    `forward(x, context=None) -> (z, logdet)` and `inverse(z, context=None) -> (x, logdet)`. A context goes to those
    that take one: its `takes_context` if it has that attribute, else whether its forward names a context.

    Raises:
        TypeError: a module has no `inverse`.
    """

    @property
    def takes_context(self) -> bool:
        """Whether one of the transforms uses a context."""
        return any(takes_context(module) for module in self)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a transform; raises TypeError if it has no `inverse`."""
        if not callable(getattr(module, "inverse", None)):
            raise TypeError(
                f"{type(self).__name__} must hold modules with forward and inverse, got {type(module).__name__} as "
                f"{name!r}; wrap it, e.g. as the branch of an InvertibleResidualBlock."
            )
        super().add_module(name, module)

    def output_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of an event of z for one of x; raises ValueError if a transform cannot take it."""
        shape = tuple(event_shape)
        for module in self:
            shape = output_shape(module, shape)
        return shape

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and the log-determinant [B] of the whole.

        Args:
            x: [B, *event].
            context: for the transforms that take one.

        Raises:
            ValueError: there is a context and no transform takes one, or a transform refuses its input.
        """
        self._check_context(context)
        logdets = []
        for module in self:
            x, logdet = module(x, context) if takes_context(module) else module(x)
            logdets.append(logdet)
        return x, _total(logdets, x)

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and the log-determinant [B] of the inverse; arguments and errors as in `forward`."""
        self._check_context(context)
        logdets = []
        for module in reversed(list(self)):
            inverse: Any = module.inverse
            z, logdet = inverse(z, context) if takes_context(module) else inverse(z)
            logdets.append(logdet)
        return z, _total(logdets, z)

    def _check_context(self, context: Any) -> None:
        if context is not None and not self.takes_context:
            raise ValueError("context must be None since no transform here takes one, got one; use ConditionalBranch.")


def _total(logdets: list[Tensor], x: Tensor) -> Tensor:
    """Return the sum of log-determinants [B], in one node of the graph; zeros if there are none."""
    if logdets:
        return torch.stack(logdets).sum(0)
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return torch.zeros(x.shape[0], dtype=dtype, device=x.device)
