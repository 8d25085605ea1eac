"""Training in several processes on torch.distributed: what all of them do together, and what if one of them is gone."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..nn import shard_spectral_norms
from . import checkpoint

# A process that has died is noticed at once; this is for one that hangs. The others also wait as long for the main one
# to evaluate and to write files.
_TIMEOUT = timedelta(minutes=30)
_FROM_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# torch 2.13 deprecates the old name.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel.__init__).parameters
)


class TrainingInterrupted(RuntimeError):
    """Training cannot go on for a reason outside it; the message says how to resume."""


@contextmanager
def setup() -> Iterator[None]:
    """Join the processes that torchrun started, until the end of the block; without torchrun do nothing.

    CPU tensors go over gloo and CUDA tensors over NCCL; process i of a machine uses its GPU i. A process group that is
    there already is left as it is.

    Raises:
        ValueError: some of torchrun's environment variables are missing, or the group that is there has NCCL only.
    """
    if world_size() > 1 and distributed.get_backend() == "nccl":
        raise ValueError(
            "the process group must serve CPU tensors too, got nccl; initialise it with 'cpu:gloo,cuda:nccl', or leave "
            "that to fit."
        )
    if world_size() > 1 or os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    missing = [name for name in _FROM_TORCHRUN if name not in os.environ]
    if missing:
        raise ValueError(
            f"the environment must hold {', '.join(_FROM_TORCHRUN)} for WORLD_SIZE = {os.environ['WORLD_SIZE']}, got "
            f"no {', '.join(missing)}; start the processes with torchrun."
        )
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=_TIMEOUT)
    yield
    distributed.destroy_process_group()  # not after an error: it might wait for processes that are gone


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0; 0 without a process group."""
    return distributed.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Return whether this is the process that evaluates, logs and writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        distributed.all_reduce(torch.zeros(1))  # on the CPU: distributed.barrier would need to know the GPU


def agreed(value: float) -> float:
    """Return the main process' value in all of them: clocks differ, but all must stop at the same step."""
    if world_size() == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    distributed.broadcast(shared, 0)
    return float(shared)


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in at least one process."""
    return bool(mean(torch.tensor(float(flag))) > 0.0)


def mean(value: Tensor) -> Tensor:
    """Return the mean over the processes of a tensor of any shape, without gradient."""
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / world_size()


def wrap(module: nn.Module) -> nn.Module:
    """Return the module in DistributedDataParallel, or as it is for one process.

    Every parameter must have a part in every loss. Buffers are not exchanged: u and v of the spectral norms come out
    the same in all processes, and ActNorm sums its statistics over them.
    """
    if world_size() == 1:
        return module
    options: dict[str, Any] = {_SYNC_BUFFERS: False}
    return DistributedDataParallel(module, gradient_as_bucket_view=True, **options)


def sharded_spectral_norms(model: nn.Module) -> AbstractContextManager[None]:
    """Let every process iterate its share of the spectral norms only, inside the block.

    All processes must then run the model the same number of times, as training does. Copies are not affected: run
    evaluation on one.

    Args:
        model: any module; for one process nothing changes.
    """
    return nullcontext() if world_size() == 1 else shard_spectral_norms(model)


@contextmanager
def translate_errors(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what torch.distributed raises when a process is gone into TrainingInterrupted, with one sentence.

    Args:
        folder: of the run, whose newest checkpoint the sentence names.

    Raises:
        TrainingInterrupted: a collective failed inside the block.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not _is_of_a_collective(error):
            raise
        raise TrainingInterrupted(
            f"process {rank()} of {world_size()} no longer hears from another one, which was killed or hangs; "
            f"{how_to_resume(folder)}"
        ) from error


def how_to_resume(folder: str | os.PathLike[str]) -> str:
    """Return the end of a sentence: the newest checkpoint of a run, and how to go on from it."""
    newest = checkpoint.paths(Path(folder))[:1]
    if not newest:
        return f"{folder} holds no checkpoint yet, start again."
    return f"go on from {newest[0]} with the same command and --resume, or fit(..., resume=True)."


def _is_of_a_collective(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()
