"""What the transforms of a flow share: whether they take a context, the shape they return, and their checks."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._tracing import is_eager, may_read
from ._fsdp import Shardable


class Transform(Shardable):
    """A transform without a context that keeps the shape of its events, unless its class says otherwise.

    The contract: `forward(x, context=None)` returns z and log|det dz/dx| [B]; `inverse(z, context=None)` returns x and
    log|det dx/dz| [B]. One that draws random numbers has `takes_call = True` and `forward(x, context=None, call=None)`:
    outside training `call.keys()` are what it draws from, see `nn.Call`.
    """

    takes_context = False
    takes_call = False

    def output_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of an event of z for an event of x of `event_shape`; raises ValueError if it cannot be."""
        return tuple(event_shape)


def takes_context(module: nn.Module) -> bool:
    """Whether a transform or a branch uses a context: its own `takes_context`, else whether its forward names one."""
    known = getattr(module, "takes_context", None)
    return "context" in inspect.signature(module.forward).parameters if known is None else bool(known)


def output_shape(module: nn.Module, event_shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of an event after `module`; a module that does not say is taken to keep it."""
    known = getattr(module, "output_shape", None)
    return tuple(event_shape) if known is None else tuple(known(event_shape))


def check_range(x: Tensor, low: float, high: float, advice: str, name: str = "x") -> None:
    """Raise ValueError unless all of x lies in [low, high]. On the CPU only: elsewhere it would wait for the device."""
    if not can_look_at(x) or x.numel() == 0:
        return
    least, most = (float(value) for value in torch.aminmax(x.detach()))
    if not (low <= least and most <= high):  # true for NaN
        raise ValueError(
            f"{name} must have values in [{low:g}, {high:g}], got values from {least:.9g} to {most:.9g}; {advice}."
        )


def can_look_at(x: Tensor) -> bool:
    """Whether the values of x can be read without waiting for a device, or breaking a trace, transform or capture."""
    return is_eager() and x.device.type == "cpu" and may_read(x)


def for_each_sample(logdet: Tensor, x: Tensor) -> Tensor:
    """Return the log-determinant [], the same for all samples, as [B] of its own memory."""
    return logdet.expand(x.shape[0]).clone()


def total_logdet(logdets: list[Tensor], x: Tensor) -> Tensor:
    """Return the sum of log-determinants [B], in one node of the graph; zeros if there are none."""
    if logdets:
        # A row for each sample: sums of columns are rounded differently at different places of a batch.
        return torch.stack(logdets, 1).sum(1)
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return torch.zeros(x.shape[0], dtype=dtype, device=x.device)
