"""The steps of a residual flow, as `ops.residual_flow` and its twin take them; their tensors are given beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._traces import Places


@dataclass(frozen=True)
class Normalize:
    """z = (x + bias) * exp(log_scale) per channel. Its tensors: bias [C], log_scale [C]."""

    n_tensors: ClassVar[int] = 2


@dataclass(frozen=True)
class Rearrange:
    """z.flatten(1)[:, i] = x.flatten(1)[:, index[i]]: permutations, squeezes, flattenings. Its tensor: index [d] int64.

    Attributes:
        event_shape: of z.
    """

    event_shape: tuple[int, ...]
    n_tensors: ClassVar[int] = 1


@dataclass(frozen=True)
class Residual:
    """z = x + g(x). Its tensors: L weights, biases, parameters and factors as `ops.branch` takes them, None for a gap.

    After them come the maps of the exact first terms of a series, if there are any.

    Attributes:
        activations: L names, of those that kernels know as they are.
        logdet: "none", "exact" or "series": a series on probes, with the "neumann" gradient.
        traces: of the exact terms, the stages that `_traces.places_of` returns.
    """

    activations: tuple[str, ...]
    logdet: str
    traces: Places = ()

    @property
    def n_tensors(self) -> int:
        """How many tensors it takes, those that are None counted."""
        return 4 * len(self.activations) + len(self.traces)


Step = Normalize | Rearrange | Residual
