"""All layers of a model in one call of ops.spectral_norm, against a loop over the layers in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from baselines import OURS
from cases import CASES, geometry_of, layers_of, start_vectors
from gpu_records import PLAIN, GpuRecord, origin
from gpu_timing import Implementation, Step, records_of
from graphs import LEAST_SECONDS
from precision import FLOAT32, products_in
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from iresnet_fast import ops, reference
from iresnet_fast.geometry import ConvGeometry

BLOCKS, ITERATIONS = 48, 5
FLOORS = {"cifar512": 3.0, "mnist": 8.0}
FUNCTIONS = {"ours": ops.spectral_norm, "loop": reference.spectral_norm}

Arguments = tuple[list[Tensor], list[Tensor], list[Tensor], list[ConvGeometry | None], int]


@cache
def model(name: str, device: str = "cpu") -> Arguments:
    """Return the arguments of spectral_norm for a model of BLOCKS branches."""
    case = CASES[name]
    weights = [layer.weight.detach() for seed in range(BLOCKS) for layer in layers_of(case, seed)]
    geometry = geometry_of(case) * BLOCKS
    us, vs = start_vectors(weights, geometry)
    weights, us, vs = ([tensor.to(device) for tensor in tensors] for tensors in (weights, us, vs))
    return weights, us, vs, geometry, ITERATIONS


def gpu_records(name: str, device: str, least_seconds: float = LEAST_SECONDS) -> list[GpuRecord]:
    """Return the records of ours and of the loop on a GPU, or of a try on a CPU; norms are never iterated in TF32."""
    weights, us, vs, *rest = arguments = model(name, device)
    exact = reference.spectral_norm(*([t.double() for t in tensors] for tensors in (weights, us, vs)), *rest)[0]

    def error(implementation: str, step: Step) -> float:
        return float((step()[0] / exact - 1.0).abs().max())

    functions = {OURS: ops.spectral_norm, PLAIN: reference.spectral_norm}
    with products_in(FLOAT32):
        steps = {key: Implementation.of(partial(call, *arguments), device) for key, call in functions.items()}
        about = {
            **origin(device),
            "case": name,
            "subject": f"{len(weights)} layers of {BLOCKS} blocks, {CASES[name].label}",
            "batch": 1,
            "terms": ITERATIONS,
            "mode": "spectral norm",
            "precision": FLOAT32,
        }
        return records_of(steps, about, device, least_seconds, error)


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


@pytest.mark.cuda
@pytest.mark.parametrize("name", FLOORS)
def test_gpu(keep_records: Callable[..., None], name: str) -> None:
    records = gpu_records(name, "cuda")
    keep_records("bench_spectral_norm", records)
    assert not [record["failed"] for record in records if record["failed"]]
    assert max(record["error"] for record in records) <= 1e-5  # as in test_floor
