"""How the functions treat their inputs under autocast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the narrower dtype that autocast computes products of numbers like x in; None: that of x."""
    device = x.device.type
    if x.dtype == torch.float64 or device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def widen(*arguments: Any) -> Any:
    """Return the arguments (tensors, None, sequences of them); under autocast, narrower numbers become float32.

    So torch.amp.custom_fwd(cast_inputs=torch.float32) treats the inputs of a function. The first must be a tensor.
    """
    device = arguments[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return arguments
    return tuple(_widen(argument) for argument in arguments)


def _widen(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.float() if argument.dtype in (torch.float16, torch.bfloat16) else argument
    return argument if argument is None else [_widen(entry) for entry in argument]
