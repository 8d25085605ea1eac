"""What our CUDA kernels ask of a device, counted while the emulator of tests/simt runs their real launch code."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from cases import Problem

from iresnet_fast import activations

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))


@dataclass(frozen=True)
class Work:
    """One evaluation of the log-determinant without gradient."""

    kernels: tuple[str, ...]  # launches, in order
    bytes: int  # of global memory asked for: reads and writes of all threads, whatever cache answers them


def emulate(problem: Problem, card: str) -> Work:
    """Count the kernels that run a problem in float32 on a card.

    Plans depend on the batch and on the number of multiprocessors. A quarter of a batch of images is planned on a
    quarter of the card as the whole batch on the whole card, every block doing the same; so a quarter is emulated, and
    its bytes times four, but for those of packing the weights, are exactly those of the whole.
    """
    from simt import operands
    from simt.emulator import project_emulator

    parts = 4 if problem.is_conv and len(problem.x) % 4 == 0 else 1
    part = problem.head(len(problem.x) // parts)
    emulator = project_emulator("check")
    ids, none = [activations.get(name).kernel_id for name in part.activations], [None] * len(part.weights)
    with emulator.counting() as counters:
        operands.residual_logdet(
            emulator, part.x, part.weights, part.biases, none, none, ids, [0.0] * len(ids), part.probe[None],
            part.coefficients, None, 0.0, False, False, card=card if parts == 1 else f"{card}/{parts}",
        )  # fmt: skip
    packing = counters.total(space="global", line="pack_weights.cu").bytes
    everything = counters.total(space="global").bytes
    kernels = tuple(launch.kernel for launch in emulator.launches)
    return Work(kernels, packing + parts * (everything - packing))


def least_bytes(problem: Problem, mode: str = "eval") -> int:
    """Return the bytes no implementation can avoid: operands read once, z and the log-determinant written once.

    In training also the gradients of these two read, and those of x and of all parameters written.
    """
    tensors = [problem.x, problem.probe, *problem.weights, *problem.biases, problem.coefficients, problem.x]
    if mode == "train":
        tensors += [problem.grad_z, problem.grad_logdet, problem.x, *problem.weights, *problem.biases]
    return sum(tensor.numel() for tensor in tensors) * 4 + len(problem.x) * 4
