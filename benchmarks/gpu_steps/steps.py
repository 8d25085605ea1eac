"""Spectral norms of 48 blocks, inverses, whole training steps of the MNIST density model: ours and plain torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import gpu_train_step
import torch
from bench_inverse import gpu_records as inverse_records
from bench_spectral_norm import gpu_records as norm_records
from gpu_cases import GPU_CASES, scaled
from gpu_records import GpuRecord
from precision import FLOAT32, TF32
from step import Run, first_line

from iresnet_fast.models import IResNetFlow

BATCHES, DRY_BATCH = (32, 256), 2
READING, DRY_READING = 0.006, 0.001
LEAST = 10.0  # seconds without which a job is not begun


def main() -> None:
    """Run what there is time for, what takes least first."""
    run = Run("steps")
    run.need_kernels()
    reading = DRY_READING if run.dry else READING
    images = torch.randint(0, 256, (2 * max(BATCHES), 1, 28, 28), dtype=torch.uint8, device=run.device)
    jobs: dict[str, Callable[[], Iterable[GpuRecord]]] = {}
    flow_of = cache(lambda batch: model(images, batch, run.dry))
    for name in () if run.dry else ("cifar512", "mnist"):
        jobs[f"spectral norm, {name}"] = lambda name=name: norm_records(name, run.device, reading)
    for name in ("toy2d",) if run.dry else ("toy2d", "mnist", "cifar512"):
        case = scaled(GPU_CASES[name], 0.05 if run.dry else 1.0)
        jobs[f"inverse, {name}"] = lambda case=case: inverse_records(case, run.device, reading)
    for precision in (FLOAT32,) if run.dry else (FLOAT32, TF32):
        for batch in (DRY_BATCH,) if run.dry else BATCHES:
            jobs[f"training step, batch {batch}, {precision}"] = lambda batch=batch, precision=precision: (
                gpu_train_step.run(flow_of(batch), images, batch, (precision,), False, run.device, reading, run.say)
            )
    for what, job in jobs.items():
        if run.left() < LEAST:
            run.record("left out", what=what)
            continue
        try:
            for record in job():
                run.record("times", **record)
        except Exception as failure:  # the other jobs are of interest
            run.record("failures", what=what, message=first_line(failure))


def model(images: torch.Tensor, batch: int, dry: bool) -> IResNetFlow:
    """Return the model after its first batch, which sets its ActNorms."""
    torch.manual_seed(0)
    small = {"blocks": (1, 1), "hidden": (4, 4)} if dry else {}
    flow = IResNetFlow.preset("mnist", **small).to(images.device)
    flow.initialize(images[:batch])
    return flow.train()


if __name__ == "__main__":
    main()
