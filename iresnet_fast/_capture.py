"""Whether a CUDA graph is being captured: its operations are recorded, not run, so nothing can be read or assumed."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor


def of(tensor: Tensor) -> int | None:
    """Return the number of the capture that records operations on this tensor; None: they run.

    No two captures of a process have the same number.
    """
    if not tensor.is_cuda or torch.compiler.is_compiling():
        return None
    if tensor.device.index != torch.cuda.current_device():  # operations go to the stream of their tensors' device
        with torch.cuda.device(tensor.device):
            return of(tensor)
    if not torch.cuda.is_current_stream_capturing():
        return None
    # Torch does not tell captures apart. The driver does, and it is loaded: the stream belongs to it.
    status, number = ctypes.c_int(), ctypes.c_uint64()
    error = ctypes.CDLL("libcuda.so.1").cuStreamGetCaptureInfo_v2(
        ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
        ctypes.byref(status),
        ctypes.byref(number),
        None,  # the graph, its dependencies and their number
        None,
        None,
    )
    if error:
        raise RuntimeError(f"cuStreamGetCaptureInfo must succeed on a capturing stream, got CUDA error {error}.")
    return number.value
