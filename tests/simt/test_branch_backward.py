"""The gradient of  <grad, g(x)> + sum_j sum_b weight_b / m <cotangent_j, J tangent_j>  against autograd."""

import math

import pytest
import torch
from comparison import assert_within_rounding
from problems import DTYPES, KERNEL_ACTIVATIONS, Case, make, named, upstream

from iresnet_fast import reference

from . import operands
from .branches import raw_branch
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
    Case("a mask of the input", (5,), (7,), batch=33, sample_factor=(0,), activations=("identity", "relu")),
    Case(
        "contexts and masks",
        (5,),
        (33, 6, 7),
        batch=9,
        sample_bias=(0, 2),
        sample_factor=(0, 1, 2, 3),
        activations=("lipswish", "sin(3)", "half_abs", "identity"),
    ),
    Case(
        "images with contexts and masks",
        (3, 5, 9),
        (17, 6),
        (3, 1, 3),
        batch=2,
        sample_bias=(0, 2),
        pixel_bias=(1,),
        sample_factor=(1,),
        pixel_factor=(0, 2),
        activations=("leaky_relu(0.25)", "lipswish", "half_abs"),
    ),
    Case(
        "more contexts and masks",
        (2, 4, 5),
        (35,),
        (3, 3),
        batch=3,
        sample_bias=(0,),
        pixel_bias=(1,),
        sample_factor=(0, 1),
        activations=("elu", "lipswish"),
    ),
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
WIDE_CONTEXTS = [
    Case("tensor contexts", (8,), (40, 24), batch=140, activations=("elu",), sample_bias=(0, 2), sample_factor=(0, 1)),
    Case(
        "tensor images with contexts",
        (20, 5, 6),
        (40,),
        (3, 3),
        batch=3,
        activations=("lipswish", "tanh"),
        sample_bias=(0,),
        pixel_bias=(1,),
        pixel_factor=(0,),
        sample_factor=(1,),
    ),
]


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
    *lists, activations, constants = raw_branch(problem)
    lists = [[t.detach() for t in tensors] for tensors in lists]
    upper = grad, tangents, cotangents, weight, residual, input_gradient
    grad_x, packed = operands.branch_backward(
        emulator, problem.x.detach(), *lists, activations, constants, *upper, **target
    )
    stages = list(zip(*lists, strict=True))  # packed stage by stage
    pieces = iter(packed.split([t.numel() for stage in stages for t in stage]))
    shaped = [[next(pieces).view(t.shape) for t in stage] for stage in stages]
    gradients = [t for tensors in zip(*shaped, strict=True) for t in tensors if t.numel()]
    return [grad_x if input_gradient else None, *gradients]


def by_autograd(case, request, dtype):
    pairs, with_grad, residual, input_gradient = request
    problem, grad, tangents, cotangents, weight = arguments(case, pairs, with_grad, dtype)

    def g(x):
        return reference.branch(x, *problem.branch, problem.parameters, problem.factors)

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
@pytest.mark.parametrize("case", **named([WIDE_CASE, WIDE_IMAGES, *WIDE_CONTEXTS]))
def test_tensor_cores_round_their_operands_only(emulator, case, precision, eps):
    request = REQUESTS["all"]
    got = by_kernel(emulator, case, request, torch.float32, precision=precision)
    exact = by_autograd(case, request, torch.float64)
    full = by_kernel(emulator, case, request, torch.float32)
    pixels = math.prod(case.event[1:])
    for a, b, oracle in zip(got, full, exact, strict=True):
        # Terms of each of its numbers: over all rows, or over those of a sample that it does not tell apart.
        summed = pixels / math.prod(a.shape[2:]) if a.shape[:1] == (case.batch,) else case.batch * pixels
        scale = max(summed**0.5, oracle.abs().max().item())
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
