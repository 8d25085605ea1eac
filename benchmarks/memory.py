"""Peak memory of one step, measured in a process of its own that has done nothing else."""

from __future__ import annotations

import ctypes
import multiprocessing
import pickle
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from baselines import make_step
from cases import Problem

# The fork server imports these once and never runs a parallel region: a process forked from it starts in milliseconds
# and, unlike a fork of the benchmark itself, may start OpenMP threads.
_PRELOAD = ["torch", "normflows", "tqdm", "iresnet_fast.ops", "iresnet_fast.reference"]
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mib(name: str, problem: Problem, mode: str, threads: int) -> float | None:
    """Return by how many MiB a step raises the memory in use at its peak, None where the system does not tell."""
    if not _RESET.exists():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    receiver, sender = context.Pipe(duplex=False)
    # Pickled here: multiprocessing would move the tensors of this process into shared memory.
    job = pickle.dumps((name, problem, mode, threads))
    process = context.Process(target=_measure, args=(sender, job))
    process.start()
    sender.close()
    try:
        result: float = receiver.recv()
    except EOFError:  # the process died, of memory most likely
        return None
    finally:
        process.join()
    return result


def _measure(sender: Connection, job: bytes) -> None:
    name, problem, mode, threads = pickle.loads(job)
    torch.set_num_threads(threads)
    # Loads code, starts threads: none of that is the memory of a step.
    make_step(name, problem.miniature(), mode)()
    step = make_step(name, problem, mode)
    ctypes.CDLL(None).malloc_trim(0)
    _RESET.write_text("5")  # sets the peak, VmHWM, back to what is in use now
    before = _status("VmRSS")
    step()
    sender.send((_status("VmHWM") - before) / 1024)


def _status(field: str) -> int:
    """Return a line of /proc/self/status in KiB."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])
