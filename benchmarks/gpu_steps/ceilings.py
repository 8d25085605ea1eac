"""Rates and latencies that no kernel exceeds: torch's copies and products, and what ceilings.cu measures."""

from __future__ import annotations

import subprocess
import sys

import torch
from graphs import time_gpu
from precision import FLOAT32, TF32, products_in
from step import ROOT, Run

sys.path.insert(0, str(ROOT / "build_backend"))
from iresnet_fast_cuda import find_nvcc

COPIED, SIDE = 2**28, 8192  # float32 numbers; side of a square matrix
DRY_COPIED, DRY_SIDE = 2**16, 64


def main() -> None:
    """Measure; ceilings.cu needs a GPU."""
    run = Run("ceilings")
    if run.dry:
        run.say("ceilings.cu is left out: it needs a GPU")
    else:
        run_program(run)  # first: a card's large products may take the rest of the time
    source = torch.empty(DRY_COPIED if run.dry else COPIED, device=run.device)
    target = torch.empty_like(source)
    us = time_gpu(lambda: target.copy_(source), run.device).gpu_us
    run.record("ceilings", name="copy", value=2e-3 * source.nbytes / us, unit="GB/s")
    side = DRY_SIDE if run.dry else SIDE
    for name, precision, dtype in (
        ("sgemm float32", FLOAT32, torch.float32),
        ("sgemm tf32", TF32, torch.float32),
        ("sgemm bf16", FLOAT32, torch.bfloat16),
    ):
        a, b = (torch.randn(side, side, device=run.device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        with products_in(precision):
            us = time_gpu(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), run.device).gpu_us
        run.record("ceilings", name=name, value=2e-6 * side**3 / us, unit="TFLOP/s")


def run_program(run: Run) -> None:
    """Build ceilings.cu and record what it prints."""
    program = ROOT / "build/gpu/ceilings"
    program.parent.mkdir(parents=True, exist_ok=True)
    source_file = ROOT / "benchmarks/gpu_steps/ceilings.cu"
    subprocess.run([str(find_nvcc()), "-O3", "-std=c++17", "-arch=native", "-o", program, source_file], check=True)
    for line in subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines():
        name, value, unit = line.split()
        run.record("ceilings", name=name, value=float(value), unit=unit)


if __name__ == "__main__":
    main()
