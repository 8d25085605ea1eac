"""Transforms one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ._call import Call, DeferredInverse, Solution, Step, TakesCall, invert_part, not_kept
from ._run import forward_of
from ._transform import output_shape, takes_context, total_logdet


class Sequential(TakesCall, nn.Sequential):
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
        if isinstance(module, type):
            raise TypeError(f"{type(self).__name__} must hold modules, got the class {module.__name__}; build one.")
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

    def forward(self, x: Tensor, context: Any = None, call: Call | None = None) -> tuple[Tensor, Tensor]:
        """Return z and the log-determinant [B] of the whole.

        Args:
            x: [B, *event].
            context: for the transforms that take one.
            call: of the container, if this is a part of one.

        Raises:
            ValueError: there is a context and no transform takes one, or a transform refuses its input.
        """
        self._check_context(context)
        call = Call.given(call, x)
        return forward_of(list(self), x, context, call)

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and the log-determinant [B] of the inverse, minus that of forward at x; else as in `forward`."""
        found = self.deferred_inverse(z, context)
        return found.x, found.logdet(Call.of(found.x))

    def solve(self, z: Tensor, context: Any = None) -> Solution:
        """Return x without the cost of the log-determinant; arguments, warnings and errors as in `inverse`."""
        return Solution.of(self.deferred_inverse(z, context, logdet=False))

    def deferred_inverse(self, z: Tensor, context: Any = None, logdet: bool = True) -> DeferredInverse:
        """Return x, and its log-determinant for whoever wants it if `logdet`; else as `inverse`."""
        self._check_context(context)
        parts = list(self)
        logdets: list[Callable[[Call], Tensor]] = []
        steps: tuple[Step, ...] = ()
        for module in reversed(parts):
            found = invert_part(module, z, context, logdet)
            z, steps = found.x, (*found.steps, *steps)
            logdets.append(found.logdet)
        logdets.reverse()

        def total(call: Call) -> Tensor:
            return total_logdet([part(call.part(i)) for i, part in enumerate(logdets)], z)

        return DeferredInverse(z, total if logdet else not_kept, steps)

    def _check_context(self, context: Any) -> None:
        if context is not None and not self.takes_context:
            raise ValueError("context must be None since no transform here takes one, got one; use ConditionalBranch.")
