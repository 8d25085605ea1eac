"""All layers of a model in one call of ops.spectral_norm, against a loop over the layers in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from cases import CASES, geometry_of, layers_of, start_vectors
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from iresnet_fast import ops, reference
from iresnet_fast.geometry import ConvGeometry

BLOCKS, ITERATIONS = 48, 5
FLOORS = {"cifar512": 3.0, "mnist": 8.0}
FUNCTIONS = {"ours": ops.spectral_norm, "loop": reference.spectral_norm}

Arguments = tuple[list[Tensor], list[Tensor], list[Tensor], list[ConvGeometry | None], int]


@cache
def model(name: str) -> Arguments:
    """Return the arguments of spectral_norm for a model of BLOCKS branches."""
    case = CASES[name]
    weights = [layer.weight.detach() for seed in range(BLOCKS) for layer in layers_of(case, seed)]
    geometry = geometry_of(case) * BLOCKS
    us, vs = start_vectors(weights, geometry)
    return weights, us, vs, geometry, ITERATIONS


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", FLOORS)
def test_time(benchmark: BenchmarkFixture, name: str, function: str) -> None:
    benchmark.group = f"spectral_norm, {BLOCKS} blocks of {name}, {ITERATIONS} iterations"
    benchmark(FUNCTIONS[function], *model(name))


@pytest.mark.parametrize("name", FLOORS)
def test_floor(check_speedup: Callable[..., None], name: str) -> None:
    arguments = model(name)
    sigmas = {function: call(*arguments)[0] for function, call in FUNCTIONS.items()}
    # Both round each of the few iterations to about 1e-6 relative, and sigma changes by the square of an error in u, v.
    torch.testing.assert_close(sigmas["ours"], sigmas["loop"], rtol=1e-5, atol=0.0)
    ours, loop = (lambda call=call: call(*arguments) for call in FUNCTIONS.values())
    check_speedup(f"spectral_norm, {BLOCKS} blocks of {name}", ours, loop, FLOORS[name])
