"""What benchmarks/bench_floor.py counts of our kernels, and that the kernels it models are those that are launched."""

import dataclasses
import importlib
from collections import Counter
from pathlib import Path

import pytest
import torch
from problems import Case, make

from . import operands
from .branches import probes_of, raw_branch, run
from .costs import kernel_costs
from .emulator import project_emulator
from .resident import FULL, TF32, Shape

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

DENSE = Case("dense", (3,), (33, 9), batch=33, activations=("identity", "elu"), terms=3)
CURVED = Case("curved entry", (5,), (17, 70), batch=40, activations=("elu", "relu", "sin"), terms=1)
IMAGES = Case("images", (3, 8, 8), (36, 20), (3, 1, 3), batch=6, activations=("identity", "elu"), terms=4)
WIDE = Case("wide images", (2, 6, 6), (136,), (3, 3), batch=8, activations=("identity", "elu"), terms=2)
DEEP = Case("more stages than a launch packs", (2,), (2,) * 17, batch=3, activations=("identity", "elu"), terms=2)


@pytest.mark.parametrize("name", ["toy2d", "mnist"])
def test_work_of_a_case(monkeypatch, name):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    cases, emulated = importlib.import_module("cases"), importlib.import_module("emulated")
    problem = cases.build(cases.CASES[name], terms=2).head(4)
    whole, more = emulated.emulate(problem, "h100"), emulated.emulate(problem.head(3), "h100")
    assert whole.kernels
    assert all("kernel" in kernel for kernel in whole.kernels)
    assert whole.bytes >= emulated.least_bytes(problem)
    assert whole.bytes > more.bytes
    small = dataclasses.replace(cases.CASES[name], batch=4, terms=2)
    modelled = importlib.import_module("modelled").our_kernels(small, "eval", "h100", "float32")
    assert {kernel.name: kernel.launches for kernel in modelled} == Counter(
        kernel.partition("<")[0] for kernel in whole.kernels
    )


def launched(emulator, problem, training, target):
    """Return the launches of an evaluation, or of a training step."""
    series = probes_of(problem), problem.coefficients, None, 0.0, False, training
    outputs = run(emulator, operands.residual_logdet, problem, *series, keep=training, **target)
    launches = emulator.launches
    if training:
        upstream = problem.x, probes_of(problem), outputs[2], problem.x.flatten(1)[:, 0].contiguous()
        run(emulator, operands.branch_backward, problem, *upstream, True, True, kept=outputs[-1], **target)
        launches += emulator.launches
    return launches


RUNS = [
    (DENSE, "h100", FULL),
    (DENSE, "no memory", TF32),
    (CURVED, "h100", FULL),
    (CURVED, "layered", TF32),
    (IMAGES, "h100", FULL),
    (IMAGES, "layered", TF32),
    (WIDE, "single", FULL),
    (WIDE, "no memory", FULL),
    (DEEP, "no memory", FULL),
]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("case", "card", "precision"), RUNS, ids=lambda value: getattr(value, "name", value))
def test_the_modelled_kernels_are_those_launched(case, card, precision, training):
    """In the same order; weight gradients with as many blocks, in which their tiles and splits show."""
    emulator, problem = project_emulator("fast"), make(case, torch.float32)
    weights, *_, activations, _ = raw_branch(problem)
    kernels = [weight.shape[-1] if weight.dim() == 4 else 1 for weight in weights]
    shape = Shape((case.event[0], *map(len, weights)), case.batch, tuple(kernels), tuple(case.event[1:]))
    modelled = kernel_costs(shape, activations, case.terms, training, card, precision, library=emulator)
    real = launched(emulator, problem, training, {"card": card, "precision": precision})
    assert [kernel.name for kernel in modelled] == [launch.kernel.partition("<")[0] for launch in real]
    for kernel, launch in zip(modelled, real, strict=True):
        if kernel.blocks:
            assert kernel.blocks == launch.grid[0] * launch.grid[1] * launch.grid[2]
        assert kernel.microseconds > 0
        assert kernel.bytes > 0


def test_where_a_library_is_faster_its_product_is_in_the_place_of_ours():
    shape, card = Shape((1024, 1024), 64, (3,), (16, 16)), "h100"
    ours, either = (kernel_costs(shape, [0], 2, False, card, TF32, libraries) for libraries in (False, True))
    products = [kernel.name for kernel in ours if kernel.name in ("stage_product_kernel", "gather_sums_kernel")]
    assert set(products) == {"stage_product_kernel"}
    names = [kernel.name for kernel in either]
    assert "stage_product_kernel" not in names
    at = [i for i, name in enumerate(names) if name == "library product"]
    assert len(at) == len(products)
    assert all(names[i + 1] == "gather_sums_kernel" for i in at)
    assert sum(kernel.microseconds for kernel in either) < sum(kernel.microseconds for kernel in ours)
