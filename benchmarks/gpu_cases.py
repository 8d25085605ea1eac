"""The cases timed on a GPU: those of a CPU and the sizes people train on a GPU, all on random events from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from cases import CASES, Case, Events, Problem, build
from numpy.typing import NDArray
from torch import Tensor

EVENT_SETS = 4  # events that replays take in turn


def gaussian(*event: int) -> Events:
    """Return standard normal events of that shape: no time depends on the numbers, and no data set is needed."""

    def events(count: int, rng: np.random.Generator) -> NDArray[Any]:
        return rng.standard_normal((count, *event))

    return events


def _dense(name: str, widths: tuple[int, ...], batch: int, blocks: int = 1) -> Case:
    return Case(name, gaussian(widths[0]), widths, None, None, batch, 10, blocks=blocks)


def _conv(name: str, channels: int, size: int) -> Case:
    """One block of a Residual Flow (arXiv:1906.02735) on CIFAR-10 that squeezes its images first."""
    image = (size, size)
    return Case(name, gaussian(channels, *image), (channels, 512, 512, channels), (3, 1, 3), image, 64, 10)


def _on_noise(case: Case) -> Case:
    return replace(case, events=gaussian(case.widths[0], *(case.image or ())), floors=None)


GPU_CASES = {
    case.name: case
    for case in (
        _on_noise(CASES["toy2d"]),
        _dense("toy100", CASES["toy2d"].widths, 500, blocks=100),
        _dense("tabular43", (43, 128, 128, 43), 1000),
        _on_noise(CASES["mnist"]),
        replace(_on_noise(CASES["mnist"]), name="mnist256", batch=256),
        _conv("rf16", 12, 16),
        _conv("rf8", 48, 8),
        _conv("rf4", 192, 4),
        *(_on_noise(CASES[name]) for name in ("tabular", "cifar128", "cifar512", "deep512")),
    )
}


def build_gpu(case: Case, device: str, scale: float = 1.0) -> Problem:
    """Return the problem of a case in float32 on a device.

    Args:
        case: one of `GPU_CASES`.
        device: "cuda", or "cpu" for a try without a GPU.
        scale: factor of the batch, the hidden widths and the number of blocks, for tries; events keep their shape.
    """
    return build(scaled(case, scale), device=device)


def scaled(case: Case, scale: float) -> Case:
    """Return a case with that share of its samples, hidden channels and blocks, at least two, two and one."""

    def part(count: int, least: int) -> int:
        return max(least, round(count * scale))

    first, *hidden, last = case.widths
    return replace(
        case,
        batch=part(case.batch, 2),
        widths=(first, *(part(width, 2) for width in hidden), last),
        blocks=part(case.blocks, 1),
    )


def event_sets(problems: list[Problem]) -> Callable[[], object]:
    """Return a function that writes the next of a few sets of events into the problems, which are of one case.

    What was captured in a CUDA graph reads the same memory at every replay: so events are copied there.
    """
    x = problems[0].x
    generator = np.random.default_rng(1)
    others = [x.new_tensor(generator.standard_normal(x.shape)) for _ in range(EVENT_SETS - 1)]
    sets: list[Tensor] = [*others, x.clone()]
    turn = 0

    def write() -> None:
        nonlocal turn
        for problem in problems:
            problem.x.copy_(sets[turn])
        turn = (turn + 1) % EVENT_SETS

    return write
