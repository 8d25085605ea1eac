"""A flow as a torch.distributions.Distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from .._inputs import check_tensor

if TYPE_CHECKING:
    from .flow import IResNetFlow


class FlowDistribution(Distribution):
    """The distribution of a flow's data, of event shape `flow.config.event_shape`, one for each context.

    It shares the flow's parameters and mode: call `flow.eval()` for numbers that do not change from call to call.

    Args:
        flow: the model.
        context: [*batch_shape, context_features] if the flow takes one; else the batch shape is empty.

    Raises:
        ValueError: the context does not fit.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  # as torch has it

    def __init__(self, flow: IResNetFlow, context: Tensor | None = None) -> None:
        """Build the distribution; the arguments are those of the class."""
        if context is not None:
            check_tensor(context, "context")
        width = flow.config.context_features
        if (context is None) != (width == 0) or (context is not None and context.shape[-1:] != (width,)):
            expected = f"have shape [..., {width}]" if width else "be None"
            got = "None" if context is None else f"shape {tuple(context.shape)}"
            raise ValueError(f"context must {expected}, got {got}; pass one for each distribution of the batch.")
        self.flow, self.context = flow, context
        batch = Size() if context is None else context.shape[:-1]
        super().__init__(batch, Size(flow.config.event_shape), validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # depends on the flow
        """Whether samples carry gradients: they do unless the data are whole numbers."""
        return self.flow.config.n_levels is None

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of values [..., *event_shape], of the shape [...] and the batch shape broadcast."""
        check_tensor(value, "value")
        n_batch = max(value.dim() - len(self.event_shape), 0)
        if tuple(value.shape[n_batch:]) != tuple(self.event_shape):
            raise ValueError(
                f"value must have shape [..., {', '.join(map(str, self.event_shape))}], got {tuple(value.shape)}; "
                f"reshape it or build the model for it."
            )
        try:
            batch = torch.broadcast_shapes(value.shape[:n_batch], self.batch_shape)  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise ValueError(
                f"value must have a batch shape that broadcasts with that of the contexts, {tuple(self.batch_shape)}, "
                f"got {tuple(value.shape[:n_batch])}; add a dimension of 1, or pass a value for each context."
            ) from None
        x = value.expand(*batch, *self.event_shape).reshape(-1, *self.event_shape)
        return self.flow.log_prob(x, self._contexts(batch)).view(batch)

    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008  # an empty tuple
        """Return samples [*sample_shape, *batch_shape, *event_shape] without gradient."""
        batch = (*_checked(sample_shape), *self.batch_shape)
        return self.flow.sample(math.prod(batch), self._contexts(batch)).view(*batch, *self.event_shape)

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008  # an empty tuple
        """Return samples [*sample_shape, *batch_shape, *event_shape] that are differentiable in the parameters.

        Raises:
            NotImplementedError: the data are whole numbers.
        """
        if not self.has_rsample:
            raise NotImplementedError("rsample needs continuous data, got a flow with n_levels; use sample.")
        batch = (*_checked(sample_shape), *self.batch_shape)
        x, _ = self.flow.sample_and_log_prob(math.prod(batch), self._contexts(batch))
        return x.view(*batch, *self.event_shape)

    def _contexts(self, batch: Sequence[int]) -> Tensor | None:
        """Return the context of each of a batch of samples, [n, context_features]."""
        if self.context is None:
            return None
        width = self.context.shape[-1]
        return self.context.expand(*batch, width).reshape(math.prod(batch), width)

    def __repr__(self) -> str:
        """Describe the distribution."""
        batch = f"batch_shape={tuple(self.batch_shape)}, " if self.batch_shape else ""
        return f"{type(self).__name__}({batch}event_shape={tuple(self.event_shape)})"


def _checked(sample_shape: Any) -> Any:
    if isinstance(sample_shape, str) or not hasattr(sample_shape, "__iter__"):
        raise TypeError(f"sample_shape must be a shape, got {sample_shape!r}; pass e.g. (100,).")
    return sample_shape
