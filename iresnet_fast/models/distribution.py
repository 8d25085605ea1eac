"""A flow as a torch.distributions.Distribution."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Size, Tensor
from torch.distributions import Distribution

from .._inputs import check_tensor

if TYPE_CHECKING:
    from .flow import IResNetFlow


class FlowDistribution(Distribution):
    """The distribution of a flow's data, of empty batch shape and event shape `flow.config.event_shape`.

    It shares the flow's parameters and mode: call `flow.eval()` for numbers that do not change from call to call.

    Args:
        flow: the model.
        context: [context_features] if the flow takes one.

    Raises:
        ValueError: the context does not fit.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  # as torch has it

    def __init__(self, flow: IResNetFlow, context: Tensor | None = None) -> None:
        """Build the distribution; the arguments are those of the class."""
        if context is not None:
            check_tensor(context, "context")
        width = flow.config.context_features
        if (0 if context is None else tuple(context.shape)) != ((width,) if width else 0):
            expected = f"have shape ({width},)" if width else "be None"
            got = "None" if context is None else f"shape {tuple(context.shape)}"
            raise ValueError(f"context must {expected}, got {got}; pass one for all samples.")
        self.flow, self.context = flow, context
        super().__init__(event_shape=Size(flow.config.event_shape), validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # depends on the flow
        """Whether samples carry gradients: they do unless the data are whole numbers."""
        return self.flow.config.n_levels is None

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density, shape [...], of values [..., *event_shape]."""
        check_tensor(value, "value")
        if tuple(value.shape[max(value.dim() - len(self.event_shape), 0) :]) != tuple(self.event_shape):
            raise ValueError(
                f"value must have shape [..., {', '.join(map(str, self.event_shape))}], got {tuple(value.shape)}; "
                f"reshape it or build the model for it."
            )
        batch = value.shape[: value.dim() - len(self.event_shape)]
        x = value.reshape(math.prod(batch), *value.shape[len(batch) :])
        return self.flow.log_prob(x, self._contexts(x.shape[0])).view(batch)

    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008  # an empty tuple
        """Return samples [*sample_shape, *event_shape] without gradient."""
        n = math.prod(_checked(sample_shape))
        return self.flow.sample(n, self.context).view(*sample_shape, *self.event_shape)

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008  # an empty tuple
        """Return samples [*sample_shape, *event_shape] that are differentiable in the parameters.

        Raises:
            NotImplementedError: the data are whole numbers.
        """
        if not self.has_rsample:
            raise NotImplementedError("rsample needs continuous data, got a flow with n_levels; use sample.")
        n = math.prod(_checked(sample_shape))
        x, _ = self.flow.inverse(self.flow.prior.sample(n), self._contexts(n))
        return x.view(*sample_shape, *self.event_shape)

    def _contexts(self, n: int) -> Tensor | None:
        return None if self.context is None else self.context.expand(n, -1)

    def __repr__(self) -> str:
        """Describe the distribution."""
        return f"{type(self).__name__}(event_shape={tuple(self.event_shape)})"


def _checked(sample_shape: Any) -> Any:
    if isinstance(sample_shape, str) or not hasattr(sample_shape, "__iter__"):
        raise TypeError(f"sample_shape must be a shape, got {sample_shape!r}; pass e.g. (100,).")
    return sample_shape
