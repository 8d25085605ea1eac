"""Whether the compiled kernels serve a call, or the plain-torch reference does."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _library
from ._lowering import has_kernel

_KERNEL_DTYPES = (torch.float32, torch.float64)

_told: set[str] = set()


def kernels_serve(tensor: Tensor, activations: Sequence[str] = ()) -> bool:
    """Whether the compiled kernels serve this tensor and these activations; says once why not if they could not."""
    if _library.backend() != "kernels":
        return False
    reason = why_no_kernels(tensor, activations)
    if reason is None:
        return True
    if not torch.compiler.is_compiling() and reason not in _told:
        _told.add(reason)
        warnings.warn(f"iresnet_fast: {reason}; the plain-torch reference serves it, slower.", stacklevel=4)
    return False


def why_no_kernels(tensor: Tensor, activations: Sequence[str] = ()) -> str | None:
    """Return why the kernels, loaded as they are, cannot serve this tensor and these activations; None if they can."""
    for name in activations:
        if not has_kernel(name):
            return f"activation {name!r} has no kernel"
    device = tensor.device.type
    if device == "cuda" and not _library.HAS_CUDA:
        return f"the CUDA kernels are unavailable ({_library.CUDA_ERROR})"
    if device not in ("cpu", "cuda"):
        return f"there are no kernels for device {device!r}"
    if tensor.dtype not in _KERNEL_DTYPES:
        return f"there are no kernels for {tensor.dtype}"
    return None
