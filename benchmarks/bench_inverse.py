"""The inverse of a residual block to the same certified error: ops.residual_inverse against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from cases import CASES, build
from pytest_benchmark.fixture import BenchmarkFixture

from iresnet_fast import ops, reference

TOLERANCE = 1e-5  # bound on the Euclidean error of a sample
FLOORS = {"toy2d": 4.0, "mnist": 4.0}
FUNCTIONS = {"ours": ops.residual_inverse, "torch": reference.residual_inverse}


@cache
def arguments(name: str) -> tuple[Any, ...]:
    """Return the arguments of residual_inverse: z of real events."""
    problem = build(CASES[name])
    branch = (problem.weights, problem.biases, problem.activations)
    z = problem.x + reference.branch(problem.x, *branch)
    return z, *branch, problem.lipschitz, TOLERANCE


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
