"""The gradient of  <grad, g(x)> + sum_j sum_b weight_b / m <cotangent_j, J tangent_j>  against autograd."""

import math

import pytest
import torch
from comparison import assert_within_rounding
from problems import DTYPES, KERNEL_ACTIVATIONS, Case, make, named, upstream

from iresnet_fast import activations as registry
from iresnet_fast import reference

from . import operands
from .emulator import project_emulator

TF32, BF16 = 1, 2

CASES = [
    Case("one number", (1,), batch=1, activations=("tanh",)),
    Case("dense", (3,), (33, 5), batch=33, activations=("identity", "elu", "softplus"), no_bias=(1,)),
    Case("many samples", (5,), (130,), batch=140, activations=("lipswish", "sin"), no_bias=(0, 1)),
    Case("slopes", (5,), (3, 33), batch=9, activations=("lipswish",)),
    Case("one pixel", (3, 1, 1), (5,), (3, 1), batch=33, activations=("relu", "lipswish")),
    Case("images", (3, 5, 9), (33,), (3, 3), batch=2, activations=("lipswish", "tanh"), no_bias=(1,)),
    Case("square images", (1, 8, 8), (5, 4), (3, 1, 5), batch=3, activations=("elu", "lipswish")),
]
# What is asked for: pairs, the ordinary gradient, x + g(x), the gradient of x.
REQUESTS = {
    "all": (1, True, True, True),
    "gradient only": (0, True, False, True),
    "pairs only": (1, False, False, True),
    "three pairs": (3, True, True, True),
    "parameters only": (1, True, False, False),
}
# Wide enough for tensor cores to be the cheaper way.
WIDE_CASE = Case("tensor cores", (8,), (40, 24), batch=140, activations=("elu",))
WIDE_IMAGES = Case("tensor images", (20, 5, 6), (40,), (3, 3), batch=3, activations=("lipswish", "tanh"), no_bias=(1,))


def arguments(case, pairs, with_grad, dtype):
    problem = make(case, dtype).requires_grad()
    grad = upstream([problem.x], seed=5)[0] if with_grad else None
    shape = (pairs, *problem.x.shape)
    tangents, cotangents = upstream([torch.empty(shape, dtype=dtype)] * 2, seed=6) if pairs else (None, None)
    weight = upstream([problem.x.flatten(1)[:, 0]], seed=7)[0]
    return problem, grad, tangents, cotangents, weight if pairs else None


def by_kernel(emulator, case, request, dtype, **target):
    pairs, with_grad, residual, input_gradient = request
    problem, grad, tangents, cotangents, weight = arguments(case, pairs, with_grad, dtype)
    lists = ([t if t is None else t.detach() for t in ts] for ts in problem.branch[:2])
    weights, biases = ([t if t is not None else torch.empty(0, dtype=dtype) for t in ts] for ts in lists)
    betas = [torch.empty(0, dtype=dtype) if t is None else t.detach() for t in problem.parameters]
    grad_x, packed = operands.branch_backward(
        emulator, problem.x.detach(), weights, biases, betas,
        [registry.get(name).kernel_id for name in problem.activations],
        grad, tangents, cotangents, weight, residual, input_gradient, **target,
    )  # fmt: skip
    sizes = [t.numel() for stage in zip(weights, biases, betas, strict=True) for t in stage]
    pieces = iter(packed.split(sizes))
    shaped = [[next(pieces).view(t.shape) for t in stage] for stage in zip(weights, biases, betas, strict=True)]
    gradients = [t for ts in zip(*shaped, strict=True) for t in ts if t.numel()]
    return [grad_x if input_gradient else None, *gradients]


def by_autograd(case, request, dtype):
    pairs, with_grad, residual, input_gradient = request
    problem, grad, tangents, cotangents, weight = arguments(case, pairs, with_grad, dtype)

    def g(x):
        return reference.branch(x, *problem.branch, problem.parameters)

    total = problem.x.new_zeros(())
    if with_grad:
        total = total + (grad * g(problem.x)).sum() + (residual * grad * problem.x).sum()
    for j in range(pairs):
        y = g(problem.x)
        scaled = (weight / pairs).view(-1, *[1] * (y.dim() - 1)) * cotangents[j]
        pulled = torch.autograd.grad(y, problem.x, scaled, create_graph=True)[0]
        total = total + (pulled * tangents[j]).sum()
    gradients = torch.autograd.grad(total, problem.leaves, allow_unused=True, materialize_grads=True)
    return [gradients[0] if input_gradient else None, *gradients[1:]]


def assert_matches(every_emulator, case, request, dtype):
    """Every build and order gives the same bits, and they are right."""
    results = [by_kernel(emulator, case, request, dtype) for emulator in every_emulator()]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
    assert_within_rounding(
        case, results[0], by_autograd(case, request, dtype), by_autograd(case, request, torch.float64)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wanted", REQUESTS)
@pytest.mark.parametrize("case", **named(CASES))
def test_matches_autograd(every_emulator, case, wanted, dtype):
    assert_matches(every_emulator, case, REQUESTS[wanted], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNEL_ACTIVATIONS)
def test_every_activation(every_emulator, name, dtype):
    case = Case(name, (3,), (5,), batch=4, activations=(name,))
    assert_matches(every_emulator, case, REQUESTS["three pairs"], dtype)


@pytest.mark.parametrize(("precision", "eps"), [(TF32, 2.0**-11), (BF16, 2.0**-8)])
@pytest.mark.parametrize("case", [WIDE_CASE, WIDE_IMAGES], ids=lambda case: case.name.replace(" ", "-"))
def test_tensor_cores_round_their_operands_only(emulator, case, precision, eps):
    request = REQUESTS["all"]
    got = by_kernel(emulator, case, request, torch.float32, precision=precision)
    exact = by_autograd(case, request, torch.float64)
    full = by_kernel(emulator, case, request, torch.float32)
    summed = (case.batch * math.prod(case.event[1:])) ** 0.5
    for a, b, oracle in zip(got, full, exact, strict=True):
        scale = max(summed if a is not got[0] else 1.0, oracle.abs().max().item())
        assert (a.double() - oracle).abs().max().item() <= 4 * eps * scale
        assert not torch.equal(a, b) or a.dim() == 1


@pytest.mark.parametrize("precision", [TF32, BF16])
def test_without_tensor_cores_products_stay_exact(precision):
    emulator, request = project_emulator("fast"), REQUESTS["all"]
    full, got = (by_kernel(emulator, CASES[2], request, torch.float32, card="t4", precision=p) for p in (0, precision))
    assert all(map(torch.equal, got, full))


def test_pairs_share_launches(emulator):
    launches = []
    for wanted in ("all", "three pairs"):
        by_kernel(emulator, CASES[2], REQUESTS[wanted], torch.float32)
        launches.append([launch.kernel for launch in emulator.launches])
        assert len(launches[-1]) == len(emulator.calls)  # nothing else reaches the runtime
    assert launches[0] == launches[1]


def test_memory_traffic_is_in_whole_sectors(checker):
    case = Case("whole sectors", (8,), (32, 64), batch=128, activations=("elu",))
    with checker.counting() as counters:
        by_kernel(checker, case, REQUESTS["three pairs"], torch.float32)
    for kind in ("read", "write"):
        traffic = counters.total(kind, "global", "linearized.cuh")
        assert traffic.bytes > 0
        assert traffic.sectors == traffic.bytes / 32
