"""Samples of a flow, at the contexts of a data set if it takes one."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models import IResNetFlow


def samples_at(
    flow: IResNetFlow, n: int, contexts: Tensor | None = None, temperature: float = 1.0, seed: int = 0
) -> Tensor:
    """Return n samples [n, *event_shape] of a seed.

    Args:
        flow: in eval mode.
        n: how many.
        contexts: [m, context_features], on any device: sample i is drawn at row i modulo m; None: it takes none.
        temperature: as of `IResNetFlow.sample`.
        seed: likewise.
    """
    if contexts is not None:
        rows = torch.arange(n, device=contexts.device) % len(contexts)
        contexts = contexts[rows].to(flow.prior.mean)
    return flow.sample(n, contexts, temperature, seed)


def can_draw(event_shape: tuple[int, ...]) -> bool:
    """Return whether there are pictures of events: images of 1 or 3 channels, signals, points of the plane."""
    return event_shape[0] in (1, 3) if len(event_shape) == 3 else len(event_shape) == 2 or event_shape == (2,)
