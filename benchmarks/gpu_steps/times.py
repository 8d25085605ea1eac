"""Ours and the baselines: every case, mode and precision, replayed from graphs and eagerly, until the time is over."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from baselines import MODES
from cases import Problem
from gpu_cases import GPU_CASES, build_gpu, scaled
from gpu_logdet import Truth, measure, truth
from precision import BF16, FLOAT32, TF32
from step import Run

# In the order of what is most worth knowing; 100 blocks are warmed up and captured launch by launch, so last.
FIRST = ("toy2d", "mnist", "tabular43", "rf16", "rf8", "rf4", "cifar128", "cifar512", "deep512", "mnist256", "tabular")
COMPILED = ("toy2d", "mnist")
# Seconds that must be left for what takes long: a compilation, 100 blocks, of which (i) is not timed eagerly.
COMPILATION, HUNDRED_BLOCKS = 40.0, 40.0
READING, DRY_READING = 0.006, 0.001  # seconds; a reading at full length would not leave time for all
DRY_SCALE = 0.05


def main() -> None:
    """Time everything there is time for."""
    run = Run("times")
    run.need_kernels()
    scale = DRY_SCALE if run.dry else 1.0

    @cache
    def prepared(name: str, mode: str) -> tuple[Problem, Truth]:
        problem = build_gpu(scaled(GPU_CASES[name], scale), run.device)
        return problem, truth(problem, mode)

    for name, mode, precision, compiled in order(run.dry):
        if run.left() <= (COMPILATION if compiled else HUNDRED_BLOCKS if name == "toy100" else 0.0):
            run.record("left out", case=name, mode=mode, precision=precision, compiled=compiled)
            continue
        problem, exact = prepared(name, mode)
        case = scaled(GPU_CASES[name], scale)
        reading = DRY_READING if run.dry else READING
        eager_series = name != "toy100"
        records = measure(case, problem, mode, precision, exact, compiled, run.device, reading, run.say, eager_series)
        for record in records:
            run.record("times", **record)


def order(dry: bool) -> Iterator[tuple[str, str, str, bool]]:
    """Yield case, mode, precision, and whether the compiled baseline is timed too."""
    if dry:
        yield from (("toy2d", mode, FLOAT32, False) for mode in MODES)
        return
    for precisions in ((FLOAT32, TF32), (BF16,)):
        for name in FIRST:
            yield from ((name, mode, precision, False) for mode in MODES for precision in precisions)
    yield from (("toy100", mode, FLOAT32, False) for mode in MODES)
    yield from ((name, mode, FLOAT32, True) for name in COMPILED for mode in MODES)


if __name__ == "__main__":
    main()
