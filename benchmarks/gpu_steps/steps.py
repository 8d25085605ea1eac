"""Spectral norms of 48 blocks, inverses, whole training steps of density models: ours and plain torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import gpu_train_step
import torch
from bench_inverse import gpu_records as inverse_records
from bench_spectral_norm import gpu_records as norm_records
from gpu_cases import GPU_CASES, scaled
from gpu_records import GpuRecord
from gpu_train_step import TrainedFlow
from precision import FLOAT32, TF32
from step import Run, first_line
from train_steps import I_RESNET

from iresnet_fast.models import IResNetFlow, ResidualFlow

BATCHES, DRY_BATCH = (32, 256), 2
RESIDUAL_BATCH, RESIDUAL_RATE = 64, 1e-3  # of the recipe of Residual Flows
# At each scale. The preset has 16: the replays of one baseline, which compute all 24 terms of a graph, would then take
# most of the time of all jobs together.
RESIDUAL_BLOCKS = 2
# The stronger first: short of time, the last is left out first.
RESIDUAL_BASELINES = ("explicit", "neumann")
READING, DRY_READING = 0.006, 0.001
LEAST = 10.0  # seconds without which a job is not begun
LEAST_OF_OURS = 6.0  # of a job that leaves out baselines for which there is no time

Job = Callable[[], Iterable[GpuRecord]]


def main() -> None:
    """Run what there is time for, what takes least first."""
    run = Run("steps")
    run.need_kernels()
    torch.manual_seed(0)
    for what, (least, job) in jobs(run).items():
        if run.left() < least:
            run.record("left out", what=what)
            continue
        try:
            for record in job():
                run.record("times", **record)
        except Exception as failure:  # the other jobs are of interest
            run.record("failures", what=what, message=first_line(failure))


def jobs(run: Run) -> dict[str, tuple[float, Job]]:
    """Return what is timed, in this order, and the seconds without which it is not begun."""
    reading = DRY_READING if run.dry else READING
    found: dict[str, tuple[float, Job]] = {}
    for name in () if run.dry else ("cifar512", "mnist"):
        found[f"spectral norm, {name}"] = LEAST, lambda name=name: norm_records(name, run.device, reading)
    for name in ("toy2d",) if run.dry else ("toy2d", "mnist", "cifar512"):
        case = scaled(GPU_CASES[name], 0.05 if run.dry else 1.0)
        found[f"inverse, {name}"] = LEAST, lambda case=case: inverse_records(case, run.device, reading)
    mnist = cache(lambda batch: mnist_flow(batch, run.device, run.dry))
    for precision in (FLOAT32,) if run.dry else (FLOAT32, TF32):
        for batch in (DRY_BATCH,) if run.dry else BATCHES:
            found[f"training step, batch {batch}, {precision}"] = (
                LEAST,
                lambda batch=batch, precision=precision: gpu_train_step.run(
                    mnist(batch), batch, (precision,), False, run.device, reading, run.say
                ),
            )
    # TF32 first: convolutions are in it unless torch is told otherwise, and it takes less.
    residual, batch = cache(lambda: residual_flow(run.device, run.dry)), DRY_BATCH if run.dry else RESIDUAL_BATCH
    for precision in (FLOAT32,) if run.dry else (TF32, FLOAT32):
        found[f"training step, residual flow, {precision}"] = (
            LEAST_OF_OURS,
            lambda precision=precision: gpu_train_step.run(
                residual(), batch, (precision,), False, run.device, reading, run.say, run.left
            ),
        )
    return found


def mnist_flow(batch: int, device: str, dry: bool) -> TrainedFlow:
    """Return an i-ResNet for MNIST on random images."""
    small = {"blocks": (1, 1), "hidden": (4, 4)} if dry else {}
    return started("mnist flow", IResNetFlow.preset("mnist", **I_RESNET, **small), batch, device)


def residual_flow(device: str, dry: bool) -> TrainedFlow:
    """Return Residual Flow's CIFAR-10 model with fewer blocks, on random images.

    Without the series, (i), whose memory grows with the terms, of which a graph has 24.
    """
    blocks = 1 if dry else RESIDUAL_BLOCKS
    small = {"event_shape": (3, 8, 8), "hidden": (4, 4), "fc_hidden": (4, 4), "fc_blocks": 1} if dry else {}
    flow = ResidualFlow.preset("cifar10", blocks=(blocks,) * 3, **small)
    case = f"residual flow, 3 x {blocks} blocks"
    batch = DRY_BATCH if dry else RESIDUAL_BATCH
    return started(case, flow, batch, device, learning_rate=RESIDUAL_RATE, baselines=RESIDUAL_BASELINES)


def started(case: str, flow: IResNetFlow, batch: int, device: str, **recipe: Any) -> TrainedFlow:
    """Return a model after its first batch, which sets its ActNorms."""
    images = torch.randint(0, 256, (2 * batch, *flow.config.event_shape), dtype=torch.uint8, device=device)
    flow = flow.to(device)
    flow.initialize(images[:batch])
    return TrainedFlow(case, flow.train(), images, **recipe)


if __name__ == "__main__":
    main()
