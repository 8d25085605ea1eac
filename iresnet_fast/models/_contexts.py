"""The context of a flow: one row for each sample, or one for all."""

from __future__ import annotations

from torch import Tensor

from .._inputs import check_same_kind, check_tensor


def check_contexts(context: Tensor | None, n: int, width: int, like: Tensor) -> None:
    """Raise unless the context is [n, width] and of the kind of `like`, a tensor of the model; None for width 0."""
    if context is None and not width:
        return
    if context is not None:
        check_tensor(context, "context")
    if context is None or not width or context.shape != (n, width):
        expected = f"have shape {(n, width)}" if width else "be None, since context_features is 0"
        got = "None" if context is None else f"shape {tuple(context.shape)}"
        raise ValueError(f"context must {expected}, got {got}; pass one row for each sample, or set context_features.")
    check_same_kind(context, like, "context", "model")


def for_all(context: Tensor | None, n: int) -> Tensor | None:
    """Return a context [width], the same for all, as [n, width]; others as they are."""
    if context is not None:
        check_tensor(context, "context")
    return context.expand(n, -1) if context is not None and context.dim() == 1 else context
