"""What the build says before it starts: what is built, for what, and about how long that takes."""

import math
import platform

from iresnet_fast_build import Torch
from iresnet_fast_cuda import Toolkit

# Seconds of one core of an AMD EPYC with g++ 12.2 and nvcc 13.0: the CPU's library (sum of .ninja_log), all
# .cu files for sm_90 (user and system time), the slowest of them, which no number of jobs makes shorter.
CPU_SECONDS, CUDA_SECONDS, SLOWEST_SECONDS = 51.0, 77.0, 10.0


def estimate(architectures: int, jobs: int) -> float:
    """Return about how many seconds a build takes that finds nothing built before.

    Args:
        architectures: of GPUs.
        jobs: that run in parallel, on as many cores that do nothing else.
    """
    # The two libraries are built one after the other.
    cuda = max(architectures * CUDA_SECONDS / jobs, SLOWEST_SECONDS) if architectures else 0.0
    return CPU_SECONDS / jobs + cuda


def announcement(
    version: str, torch: Torch, compiler: str, isas: list[str], cuda: Toolkit | None, cuda_note: str, jobs: int
) -> str:
    """Return the first lines of a build; the first of them is all that most will read.

    Args:
        version: of the package.
        torch: whose headers are used.
        compiler: its name and version.
        isas: instruction sets of the CPU kernels.
        cuda: what builds the CUDA kernels, None if there are none.
        cuda_note: the name of the nvcc, or why there are none.
        jobs: that run in parallel.
    """
    time = duration(estimate(len(cuda.architectures) if cuda else 0, jobs))
    kernels = (
        f"CUDA kernels for {', '.join(cuda.architectures)} ({cuda.chosen_by})"
        if cuda
        else f"no CUDA kernels ({cuda_note})"
    )
    workers = f"{jobs} jobs" if jobs > 1 else "1 job"
    lines = [
        f"iresnet_fast {version}: about {time} with {workers} for CPU kernels ({', '.join(isas)}) and {kernels}",
        f"for Python {platform.python_version()} and torch >= 2.11, with headers of torch {torch.version}, {compiler}"
        + (f", {cuda_note} ({cuda.nvcc})" if cuda else ""),
    ]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Return an estimate in words, rounded up: it is one."""
    if seconds < 60.0:
        return f"{10 * math.ceil(seconds / 10)} seconds"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} minute{'s' if minutes > 1 else ''}"
