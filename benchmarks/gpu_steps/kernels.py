"""GPU time of every kernel in one evaluation and one training step of ours, as torch's profiler sees it."""

from __future__ import annotations

from functools import cache

import torch
from baselines import MODES, OURS, make_step
from cases import Problem
from gpu_cases import GPU_CASES, build_gpu
from precision import BF16, FLOAT32, PRECISIONS, products_in
from step import Run
from torch.profiler import ProfilerActivity, profile

CASES = ("toy2d", "mnist", "rf16", "rf8", "rf4", "cifar512", "deep512", "tabular43")
CALLS = 5


def main() -> None:
    """Profile every case while there is time."""
    run = Run("kernels")
    run.need_kernels()
    for precision in (FLOAT32,) if run.dry else PRECISIONS:
        for name in CASES[:1] if run.dry else CASES:
            for mode in MODES:
                if run.left() <= 0:
                    run.record("left out", case=name, mode=mode, precision=precision)
                    continue
                profile_step(run, name, mode, precision)


@cache
def built(name: str, device: str, scale: float) -> Problem:
    """Return the problem of a case, built once: its norms take seconds, and every mode and precision needs it."""
    return build_gpu(GPU_CASES[name], device, scale)


def profile_step(run: Run, name: str, mode: str, precision: str) -> None:
    """Record the kernels of one step; in a dry run, the operators."""
    problem = built(name, run.device, 0.05 if run.dry else 1.0)
    with products_in(precision):
        step = make_step(OURS, problem, mode, autocast=precision == BF16)
        for _ in range(2):
            step()
        with profile(activities=[ProfilerActivity.CPU if run.dry else ProfilerActivity.CUDA]) as seen:
            for _ in range(CALLS):
                step()
            if not run.dry:
                torch.cuda.synchronize()
    time = "self_cpu_time_total" if run.dry else "self_device_time_total"
    rows = sorted(((getattr(event, time) / CALLS, event) for event in seen.key_averages()), key=lambda row: -row[0])
    total = sum(us for us, _ in rows)
    for us, event in rows[:12]:
        run.record("kernels", case=name, mode=mode, precision=precision, kernel=event.key[:90], us=us,
                   launches=event.count / CALLS, share=us / total if total else 0.0)  # fmt: skip


if __name__ == "__main__":
    main()
