"""The inverse of a residual block to the same certified error: ops.residual_inverse against plain torch.

Evaluations, times and errors by Lipschitz constant, on trained branches: inverse_methods.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from baselines import OURS
from cases import CASES, Case, build
from gpu_cases import GPU_CASES, build_gpu
from gpu_records import EAGER, PLAIN, GpuRecord, origin
from gpu_timing import Implementation, Step, records_of
from graphs import LEAST_SECONDS
from precision import FLOAT32, products_in
from pytest_benchmark.fixture import BenchmarkFixture

from iresnet_fast import ops, reference

TOLERANCE = 1e-5  # bound on the Euclidean error of a sample
FLOORS = {"toy2d": 4.0, "mnist": 4.0}
ON_GPU = ("toy2d", "mnist", "cifar512")
# Plain torch iterates plainly: on few samples Anderson's method would cost it more than it saves.
FUNCTIONS = {"ours": ops.residual_inverse, "torch": partial(reference.residual_inverse, accelerate=False)}


@cache
def arguments(name: str) -> tuple[Any, ...]:
    """Return the arguments of residual_inverse: z of real events."""
    problem = build(CASES[name])
    branch = (problem.weights, problem.biases, problem.activations)
    z = problem.x + reference.branch(problem.x, *branch)
    return z, *branch, problem.lipschitz, TOLERANCE


def gpu_records(case: Case, device: str, least_seconds: float = LEAST_SECONDS) -> list[GpuRecord]:
    """Return the records of ours and of plain torch on a GPU, or of a try on a CPU; only float32 gets so exact.

    Plain torch asks after every iteration which samples go on, so it is not captured in a graph.
    """
    problem = build_gpu(case, device)
    branch, double = problem.branches[0], problem.to(torch.float64)
    z = (double.x + reference.branch(double.x, *double.branches[0])).float()
    with products_in(FLOAT32):
        both = [partial(call, z, *branch, problem.lipschitz, TOLERANCE) for call in FUNCTIONS.values()]
        steps = {OURS: Implementation.of(both[0], device), PLAIN: Implementation.of(both[1], device, launches=(EAGER,))}

        def error(implementation: str, step: Step) -> float:
            return float((step()[0] - problem.x).flatten(1).norm(dim=1).max())

        about = {
            **origin(device),
            "case": case.name,
            "subject": f"{case.label}, certified error {TOLERANCE:g}",
            "batch": len(z),
            "terms": 0,
            "mode": "inverse",
            "precision": FLOAT32,
        }
        return records_of(steps, about, device, least_seconds, error)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", FLOORS)
def test_time(benchmark: BenchmarkFixture, name: str, function: str) -> None:
    benchmark.group = f"residual_inverse, {name}, certified error {TOLERANCE:g}"
    benchmark(FUNCTIONS[function], *arguments(name))


@pytest.mark.parametrize("name", FLOORS)
def test_floor(check_speedup: Callable[..., None], name: str) -> None:
    x = build(CASES[name]).x
    lipschitz = arguments(name)[-2]
    for call in FUNCTIONS.values():
        inverse, _, residual = call(*arguments(name))
        assert residual.max() / (1.0 - lipschitz) <= TOLERANCE
        # z itself is x + g(x) rounded: that moves the inverse by as much again.
        assert (inverse - x).flatten(1).norm(dim=1).max() <= 2.0 * TOLERANCE
    ours, plain = (lambda call=call: call(*arguments(name)) for call in FUNCTIONS.values())
    check_speedup(f"residual_inverse, {name}", ours, plain, FLOORS[name])


@pytest.mark.cuda
@pytest.mark.parametrize("name", ON_GPU)
def test_gpu(keep_records: Callable[..., None], name: str) -> None:
    records = gpu_records(GPU_CASES[name], "cuda")
    keep_records("bench_inverse", records)
    assert not [record["failed"] for record in records if record["failed"]]
    assert max(record["error"] for record in records) <= 2.0 * TOLERANCE  # as in test_floor
