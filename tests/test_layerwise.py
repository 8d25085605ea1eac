"""The layer-by-layer way of the CPU kernels, forced: the comparisons of every op, and what is its own."""

import itertools

import pytest
import torch
from comparison import assert_within_rounding
from problems import CASES, DTYPES, LIPSCHITZ, WIDE, Case, gradients, make, named
from test_branch import test_deterministic as test_branch_is_deterministic  # noqa: F401
from test_branch import test_function_transforms as test_branch_under_transforms  # noqa: F401
from test_branch import test_matches_reference as test_branch_matches_reference  # noqa: F401
from test_residual_inverse import (
    check_accelerated,
    test_zero_weights,  # noqa: F401
)
from test_residual_inverse import test_deterministic as test_inverse_is_deterministic  # noqa: F401
from test_residual_inverse import test_matches_reference as test_inverse_matches_reference  # noqa: F401
from test_residual_logdet import test_deterministic, test_information_matches_reference  # noqa: F401
from test_residual_logdet import test_function_transforms as test_logdet_under_transforms  # noqa: F401
from test_residual_logdet import test_matches_reference as test_logdet_matches_reference  # noqa: F401
from test_residual_logdet_properties import (  # noqa: F401
    call,
    test_a_sample_does_not_depend_on_its_neighbours,
    test_machine_may_change_before_the_backward_pass,
    test_two_backward_passes_through_one_forward_pass,
)

from iresnet_fast import _library, ops, reference

WAYS = ["tiles", "layers"]
# More samples than a slab holds (csrc/cpu/layerwise_walk.h), the last slab a part.
SLABS = [
    Case("dense", (3,), (2048, 5), batch=1100, activations=("elu", "lipswish")),
    Case("derivatives not from values", (3,), (2048,), batch=600, activations=("softplus", "sin"), no_bias=(0,)),
    Case("conv", (2, 32, 32), (64,), (3, 1), batch=21, activations=("identity", "tanh")),
    Case("given", (3,), (2048,), batch=600, activations=("tanh", "lipswish"), sample_bias=(0, 1), sample_factor=(0, 1)),
    Case(
        "given to images",
        (2, 32, 32),
        (64,),
        (3, 1),
        batch=21,
        activations=("identity", "elu"),
        sample_bias=(0,),
        pixel_bias=(1,),
        pixel_factor=(0,),
        sample_factor=(1,),
    ),
]


@pytest.fixture(autouse=True)
def force():
    """Force the layer-by-layer way; a test may force the other."""
    force = _library.extension().force_cpu_way
    force("layers")
    yield force
    force("")


def evaluate(package, case, dtype):
    problem = make(case, dtype).requires_grad()
    outputs = call(package, problem)
    return [*outputs, *gradients(outputs, problem.leaves)]


def assert_close(got, expected):
    """Compare gradients whose sums of some thousand terms only come in another order."""
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=100 * torch.finfo(a.dtype).eps * max(1.0, b.abs().max()))


@pytest.mark.parametrize("case", **named(SLABS))
def test_slabs_match_reference(case):
    for dtype in DTYPES:
        results = (
            evaluate(ops, case, dtype),
            evaluate(reference, case, dtype),
            evaluate(reference, case, torch.float64),
        )
        assert_within_rounding(case, *results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", **named([*WIDE, SLABS[1]]))
@pytest.mark.parametrize("ways", list(itertools.product(WAYS, WAYS)), ids="-".join)
def test_way_may_change_before_the_backward_pass(force, ways, case, dtype):
    expected = evaluate(ops, case, dtype)[2:]
    problem = make(case, dtype).requires_grad()
    force(ways[0])
    outputs = call(ops, problem)
    force(ways[1])
    assert_close(gradients(outputs, problem.leaves), expected)


def test_what_another_call_kept_is_not_used():
    """Words in front of what is kept say how it lies; of another size or layout it is computed again."""
    case = WIDE[1]
    raw, arguments = make(case, torch.float32).raw("branch_backward", residual=False, input_gradient=True)
    names = [argument.name for argument in raw._schema.arguments]
    given = dict(zip(names, arguments, strict=True))
    problem = make(case, torch.float32)
    given |= {
        "tangents": problem.probe[None],
        "cotangents": problem.probe[None],
        "weight": torch.ones(case.batch),
        "grad": problem.x,
    }
    expected = raw(**{**given, "kept": None})
    for kept in (torch.full((64,), -1.0), torch.zeros(1)):
        for got, want in zip(raw(**{**given, "kept": kept}), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
def test_inverse_accelerated(case, dtype):
    """A library sums in another order: a residual within rounding of the limit ends a sample an evaluation apart."""
    assert check_accelerated(dtype, case) <= 1


def test_inference_mode_and_a_mode_that_watches():
    problem = make(WIDE[0], torch.float32)
    expected = call(ops, problem)
    with torch.inference_mode():
        for a, b in zip(call(ops, problem), expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", **named(WIDE))
def test_a_sample_of_an_inverse_stops_by_itself(case, dtype):
    """Up to rounding what it is alone: a library's sums may depend on how many samples it is given."""
    problem = make(case, dtype)
    problem.x[::3] *= 100.0
    problem.x[4] = torch.nan

    def solve(problem):
        return ops.residual_inverse(
            problem.x, *problem.branch, LIPSCHITZ, 1e-3, 1000, problem.parameters, factors=problem.factors
        )

    x, iterations, residual = solve(problem)
    assert iterations.unique().numel() > 2
    assert iterations[4] == 0
    assert residual[4].isnan()
    for i in (0, 1, 2, 3, 5, 6):
        alone = solve(problem.of_samples(slice(i, i + 1)))
        torch.testing.assert_close(x[i], alone[0][0], rtol=0.0, atol=1e-3)
        assert abs(iterations[i] - alone[1][0]) <= 1


def test_inverse_of_several_slabs(force):
    case = SLABS[0]
    results = []
    for way in WAYS:
        force(way)
        problem = make(case, torch.float32)
        results.append(
            ops.residual_inverse(
                problem.x, *problem.branch, LIPSCHITZ, 1e-3, 100, problem.parameters, factors=problem.factors
            )[0]
        )
    torch.testing.assert_close(*results, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize("name", ["layer", "Tiles", "auto"])
def test_a_way_that_is_none_is_one_sentence(force, name):
    with pytest.raises(ValueError, match=f"force_cpu_way: name must be 'tiles', 'layers' or '', got '{name}'"):
        force(name)


def chosen(channels, kernels, image, batch, threads=2, element_bytes=4):
    way = _library.extension().cpu_way(channels, kernels, image, batch, 1, 1, 10, 1, False, threads, element_bytes)
    return "layers" if way["layers"] else "tiles"


def test_the_rule(force):
    force("")
    wide = [1024, 1024, 1024, 1024]
    assert chosen(wide, [1, 1, 1], (0, 0), 4) == "layers"  # weights are what costs
    assert chosen([2, 128, 128, 128, 2], [1, 1, 1, 1], (0, 0), 1000) == "tiles"
    assert chosen([4, 32, 32, 4], [3, 1, 3], (14, 14), 128) == "tiles"
    assert chosen([12, 128, 128, 12], [3, 1, 3], (16, 16), 32) == "tiles"
    assert chosen([192, 512, 512, 192], [3, 1, 3], (4, 4), 64) == "layers"  # pads are half of what tiles compute
    # Torch has no fast convolution of float64.
    assert chosen([192, 512, 512, 192], [3, 1, 3], (4, 4), 64, element_bytes=8) == "tiles"
    # A tile for each of many cores there is not.
    assert chosen([512, 512, 512], [1, 1], (0, 0), 16, threads=32) == "layers"
