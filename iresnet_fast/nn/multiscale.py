"""Several scales, each of which lets half of its channels go."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks
from .._inputs import check_module, check_shape, described
from ._call import Call, DeferredInverse, Solution, Step, TakesCall, apply_part, invert_part, not_kept
from ._transform import output_shape, takes_context, total_logdet


class MultiScale(TakesCall):
    """Scales in a row; after each but the last, half of the channels is factored out (Real NVP, arXiv 1605.08803).

    After a scale with C channels the first C // 2 go on, the other C - C // 2 are finished. The latent z [B, d] is the
    concatenation of the finished channels of the first scale, of the second, ..., and of all of the last, each
    flattened in the order [channel, height, width]; `pieces` takes it apart again.

    Args:
        scales: transforms, e.g. Sequential(Squeeze(), ActNorm(...), block, ...).
        event_shape: shape of one x, (C, H, W) or (d,).

    Raises:
        ValueError: there is no scale, a scale cannot take its input, or leaves one channel only to the next.
        TypeError: a scale has no `inverse`.

    Attributes:
        latent_shapes: shape of the piece of the latent that leaves at each scale.
    """

    def __init__(self, scales: Sequence[nn.Module], event_shape: Sequence[int]) -> None:
        """Build the layer; the arguments are those of the class."""
        super().__init__()
        if not isinstance(scales, (list, tuple, nn.ModuleList)):
            raise TypeError(f"scales must be a list of transforms, got {described(scales)}; put it in [].")
        if len(scales) == 0:
            raise ValueError("scales must hold at least one transform, got none; pass e.g. a Sequential per scale.")
        self.event_shape = shape = _checks.check_sizes("event_shape", event_shape)
        self.latent_shapes: list[tuple[int, ...]] = []
        for i, scale in enumerate(scales):
            check_module(scale, f"scales[{i}]")
            if not callable(getattr(scale, "inverse", None)):
                raise TypeError(f"scales[{i}] must have an inverse, got {type(scale).__name__}; wrap it.")
            shape = output_shape(scale, shape)
            if i + 1 < len(scales):
                kept = shape[0] // 2
                if kept == 0:
                    raise ValueError(
                        f"scales[{i}] must return at least 2 channels, one half to go on, got events of shape "
                        f"{shape}; put a Squeeze into the scale."
                    )
                self.latent_shapes.append((shape[0] - kept, *shape[1:]))
                shape = (kept, *shape[1:])
        self.latent_shapes.append(shape)
        self.scales = nn.ModuleList(scales)

    @property
    def takes_context(self) -> bool:
        """Whether one of the scales uses a context."""
        return any(takes_context(scale) for scale in self.scales)

    def output_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return (d,); raises ValueError if `event_shape` is not that of the layer."""
        if tuple(event_shape) != self.event_shape:
            raise ValueError(
                f"x must have shape [B, {', '.join(map(str, self.event_shape))}], got events of shape "
                f"{tuple(event_shape)}; build MultiScale with that shape."
            )
        return (sum(self._sizes()),)

    def forward(self, x: Tensor, context: Any = None, call: Call | None = None) -> tuple[Tensor, Tensor]:
        """Return z [B, d] and the log-determinant [B].

        Args:
            x: [B, *event_shape].
            context: for the scales that take one.
            call: of the container, if this is a part of one.

        Raises:
            ValueError: x does not fit, or there is a context and no scale takes one.
        """
        check_shape(x, self.event_shape)
        self._check_context(context)
        call = Call.given(call, x)
        finished: list[Tensor] = []
        total: Tensor | None = None
        for i, scale in enumerate(self.scales):
            x, logdet = apply_part(scale, x, context, call.part(i))
            total = logdet if total is None else total + logdet
            if i + 1 < len(self.scales):
                x, piece = x.tensor_split([x.shape[1] // 2], 1)
                finished.append(piece.flatten(1))
        assert total is not None  # there is a scale
        return torch.cat((*finished, x.flatten(1)), 1), total

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x [B, *event_shape] and the log-determinant [B] of the inverse, minus that of forward at x.

        Raises:
            ValueError: z is not [B, d], or there is a context and no scale takes one.
        """
        found = self.deferred_inverse(z, context)
        return found.x, found.logdet(Call.of(found.x))

    def solve(self, z: Tensor, context: Any = None) -> Solution:
        """Return x without the cost of the log-determinant; arguments, warnings and errors as in `inverse`."""
        return Solution.of(self.deferred_inverse(z, context, logdet=False))

    def deferred_inverse(self, z: Tensor, context: Any = None, logdet: bool = True) -> DeferredInverse:
        """Return x, and its log-determinant for whoever wants it if `logdet`; else as `inverse`."""
        self._check_context(context)
        pieces = self.pieces(z)
        x = pieces.pop()
        logdets: list[Callable[[Call], Tensor]] = []
        steps: tuple[Step, ...] = ()
        for i in reversed(range(len(self.scales))):
            found = invert_part(self.scales[i], x, context, logdet)
            x, steps = found.x, (*found.steps, *steps)
            logdets.append(found.logdet)
            if i > 0:
                x = torch.cat((x, pieces.pop()), 1)
        logdets.reverse()

        def total(call: Call) -> Tensor:
            return total_logdet([scale(call.part(i)) for i, scale in enumerate(logdets)], z)

        return DeferredInverse(x, total if logdet else not_kept, steps)

    def pieces(self, z: Tensor) -> list[Tensor]:
        """Return the piece [B, *latent_shapes[i]] of z [B, d] that leaves at each scale, as views.

        Raises:
            ValueError: z is not [B, d].
        """
        sizes = self._sizes()
        check_shape(z, (sum(sizes),), "z")
        return [
            piece.reshape(z.shape[0], *shape)
            for piece, shape in zip(torch.split_with_sizes(z, sizes, 1), self.latent_shapes, strict=True)
        ]

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"event_shape={self.event_shape}, latent_shapes={self.latent_shapes}"

    def _sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.latent_shapes]

    def _check_context(self, context: Any) -> None:
        if context is not None and not self.takes_context:
            raise ValueError("context must be None since no scale here takes one, got one; use ConditionalBranch.")
