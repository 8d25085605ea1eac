"""A training step whose forward pass keeps activations and tangents: n + 5 evaluations, and the same numbers."""

import ctypes

import pytest
import torch
from comparison import assert_within_rounding
from problems import DTYPES, KERNEL_ACTIVATIONS, Case, gradients, make, named, upstream

from iresnet_fast import ops, reference

from . import operands
from .branches import probes_of, raw_branch, run
from .conftest import FEW_SCHEDULES, SCHEDULES
from .emulator import project_emulator
from .structs import struct_of

few_schedules = pytest.mark.parametrize("emulator", **FEW_SCHEDULES)

CASES = [
    Case("one number", (1,), (3,), batch=1, activations=("tanh",), terms=1),
    Case("two terms", (3,), (5, 7), batch=5, activations=("softplus", "relu"), terms=2, no_bias=(1,)),
    Case("ten terms", (5,), (33, 9), batch=33, activations=("identity", "lipswish"), terms=10, per_sample=True),
    Case("four stages", (3,), (9, 17, 5), batch=9, activations=("lipswish", "sin", "identity", "elu"), terms=3),
    Case("one pixel", (3, 1, 1), (5,), (3, 1), batch=33, activations=("relu", "lipswish"), terms=2),
    Case("images", (3, 5, 9), (17, 5), (3, 1, 3), batch=2, activations=("lipswish", "tanh"), per_sample=True),
    Case("square images", (1, 8, 8), (5, 4), (3, 1, 5), batch=3, activations=("elu", "lipswish"), terms=1),
    Case(
        "contexts and masks",
        (5,),
        (9, 6, 7),
        batch=9,
        sample_bias=(0, 2),
        sample_factor=(0, 1, 2, 3),
        terms=3,
        activations=("sin(3)", "identity", "half_abs", "lipswish"),
    ),
    Case(
        "images with contexts and masks",
        (3, 4, 5),
        (6, 5),
        (3, 1, 3),
        batch=3,
        sample_bias=(1,),
        pixel_bias=(0,),
        sample_factor=(2,),
        pixel_factor=(1,),
        activations=("tanh", "leaky_relu(0.25)", "lipswish"),
    ),
]
ACTIVATIONS = [Case(name, (3,), (5, 5), batch=4, activations=(name,), terms=3) for name in KERNEL_ACTIVATIONS]
ONE_STAGE = Case("one stage", (5,), batch=7, activations=("elu",), terms=3)
# Tensor cores are the cheaper way on every card, and bf16 the cheapest; rows of 36 + 20 channels are padded to 56, 64
# and 80 in full precision, TF32 and bf16.
TENSOR = Case("tensor cores", (20, 3, 3), (36, 20), (3, 3, 1), batch=3, activations=("lipswish", "elu"), terms=3)
# Rows that no precision pads.
EQUAL = Case("equal rows", (32, 3, 3), (48, 32), (3, 3, 1), batch=3, activations=("lipswish", "elu"), terms=3)
RUNS_ON = ["h100", "single", "layered", "no memory"]
ROUNDING = {1: 2.0**-11, 2: 2.0**-8}  # of one operand: TF32, bf16


def evaluate(package, problem):
    problem = problem.requires_grad()
    outputs = package.residual_logdet(
        problem.x, *problem.branch, problem.probe, problem.coefficients, "neumann", problem.parameters,
        factors=problem.factors,
    )  # fmt: skip
    return [*outputs, *gradients(outputs, problem.leaves)]


def walk(emulator, case, dtype, keep=True, **target):
    """Return the results of the raw forward op."""
    problem = make(case, dtype)
    arguments = probes_of(problem), problem.coefficients, None, 0.0, False, True
    return run(emulator, operands.residual_logdet, problem, *arguments, keep=keep, **target)


def pull_back(emulator, case, dtype, neumann, kept, with_logdet=True, **target):
    """Return the results of the raw backward op under gradients that differ everywhere."""
    problem = make(case, dtype)
    grad, weight = (t.detach() for t in upstream([problem.x, problem.x.flatten(1)[:, 0]], seed=5))
    pair = (probes_of(problem), neumann, weight) if with_logdet else (None, None, None)
    return run(emulator, operands.branch_backward, problem, grad, *pair, True, True, kept=kept, **target)


@few_schedules
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("card", RUNS_ON)
@pytest.mark.parametrize("case", **named([*CASES, ONE_STAGE]))
def test_step_matches_the_reference(emulated_ops, case, card, dtype):
    emulated_ops(card)
    results = (
        evaluate(package, make(case, type_))
        for package, type_ in ((ops, dtype), (reference, dtype), (reference, torch.float64))
    )
    assert_within_rounding(case, *results)


@few_schedules
@pytest.mark.parametrize("card", ["h100", "layered"])
@pytest.mark.parametrize("case", **named(ACTIVATIONS))
def test_every_activation(emulated_ops, case, card):
    emulated_ops(card)
    results = (evaluate(package, make(case, torch.float64)) for package in (ops, reference, reference))
    assert_within_rounding(case, *results)


@few_schedules
@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("card", ["h100", "layered"])
def test_tensor_cores_round_only_operands(emulated_ops, card, precision):
    """Every product rounds two operands of sums of size 1; a parameter's gradient sums so many samples."""
    emulated_ops(card, precision)
    got, exact = evaluate(ops, make(TENSOR, torch.float32)), evaluate(reference, make(TENSOR))
    products = (len(TENSOR.hidden) + 1) * (TENSOR.terms + 3)
    for a, oracle in zip(got, exact, strict=True):
        scale = max(1.0 if len(a.shape) and len(a) == TENSOR.batch else TENSOR.batch**0.5, oracle.abs().max().item())
        assert (a - oracle).abs().max().item() <= 2 * products * ROUNDING[precision] * scale


@pytest.mark.parametrize("card", ["h100", "layered"])
@pytest.mark.parametrize("case", **named([CASES[2], CASES[5]]))
def test_every_order_of_threads_gives_the_same_bits(case, card):
    results = []
    for kind, order, seed in SCHEDULES:
        with project_emulator(kind).schedule(order, seed) as emulator:
            *outputs, kept = walk(emulator, case, torch.float32, card=card)
            results.append([*outputs, *pull_back(emulator, case, torch.float32, outputs[2], kept, card=card)])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("card", ["h100", "layered"])
@pytest.mark.parametrize("case", **named([CASES[3], CASES[5]]))
def test_what_is_kept_is_read_and_stays(case, card):
    """A second backward pass of the same graph gives the same bits; so does one of z alone without the tangents."""
    emulator = project_emulator("check")
    *outputs, kept = walk(emulator, case, torch.float64, card=card)
    before = kept.clone()
    first = pull_back(emulator, case, torch.float64, outputs[2], kept, card=card)
    assert torch.equal(kept, before)
    assert all(map(torch.equal, first, pull_back(emulator, case, torch.float64, outputs[2], kept, card=card)))
    assert not torch.equal(first[1], pull_back(emulator, case, torch.float64, outputs[2], 0.5 * kept, card=card)[1])
    alone = [pull_back(emulator, case, torch.float64, None, k, with_logdet=False, card=card) for k in (kept, None)]
    torch.testing.assert_close(*alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("card", RUNS_ON[:3])
def test_each_precision_keeps_rows_of_its_own(card):
    sizes = [
        walk(project_emulator("fast"), TENSOR, torch.float32, card=card, precision=p)[-1].numel() for p in (0, 1, 2)
    ]
    # Rows of a, h, t and D t; h and D t as operands, which bf16 halves. One or two elements more tell the precision.
    rows = TENSOR.batch * 9
    assert sizes == [rows * 4 * 56, rows * 4 * 64 + 1, rows * (2 + 2 * 0.5) * 80 + 2]


def test_what_is_kept_is_of_the_cheapest_precision():
    case = Case("few samples", (9,), (37, 27), batch=130, activations=("lipswish", "elu"), terms=3)
    exact, *others = (walk(project_emulator("check"), case, torch.float32, precision=p) for p in (0, 1, 2))
    assert all(all(map(torch.equal, exact, other)) for other in others)


def test_another_size_is_computed_again():
    emulator = project_emulator("check")
    *outputs, kept = walk(emulator, CASES[3], torch.float32)
    bits = [pull_back(emulator, CASES[3], torch.float32, outputs[2], k) for k in (None, kept[:-1].clone())]
    assert all(map(torch.equal, *bits))


@pytest.mark.parametrize("case", **named([TENSOR, EQUAL]))
@pytest.mark.parametrize("kept_at", [0, 1, 2])
def test_backward_pass_takes_the_precision_of_what_was_kept(case, kept_at):
    """It follows from the size: any precision no less exact than the one asked for may have written the rows.

    Layer by layer the bits are those of walking again.
    """
    emulator = project_emulator("check")
    *outputs, kept = walk(emulator, case, torch.float32, card="layered", precision=kept_at)
    got = pull_back(emulator, case, torch.float32, outputs[2], kept, card="layered", precision=2)
    assert products(emulator.launches) == [2 * 3, 3]  # no forward walk, no tangents
    wanted = pull_back(emulator, case, torch.float32, outputs[2], None, card="layered", precision=kept_at)
    assert all(map(torch.equal, got, wanted))


@pytest.mark.parametrize("kept_at", [1, 2])
def test_what_was_kept_less_exactly_is_computed_again(kept_at):
    emulator = project_emulator("check")
    target = {"card": "layered", "precision": kept_at}
    *outputs, kept = walk(emulator, TENSOR, torch.float32, **target)
    target["precision"] -= 1
    bits = [pull_back(emulator, TENSOR, torch.float32, outputs[2], k, **target) for k in (None, kept)]
    assert all(map(torch.equal, *bits))


def test_tangents_of_several_pairs_are_computed_again():
    """Those of one probe were kept."""
    emulator, problem = project_emulator("check"), make(CASES[3])
    *outputs, kept = walk(emulator, CASES[3], torch.float64)
    probe, neumann = (torch.cat([t, 0.5 * t]) for t in (probes_of(problem), outputs[2]))
    arguments = problem.x.cos(), probe, neumann, outputs[1].cos(), True, True
    bits = [run(emulator, operands.branch_backward, problem, *arguments, kept=k) for k in (None, kept)]
    assert all(map(torch.equal, *bits))


@pytest.mark.parametrize("case", **named(CASES))
def test_the_norm_is_that_of_the_term_before_the_last(case):
    emulator = project_emulator("check")
    for card in ("h100", "layered"):
        *_, norms, terms, kept = walk(emulator, case, torch.float64, card=card)
        assert kept.numel() > 0
        assert (terms == case.terms).all()
        problem = make(case)
        shorter = problem.coefficients[..., : case.terms - 1]
        if case.terms == 1:
            expected = problem.probe.flatten(1).norm(dim=1)
        else:
            _, _, info = reference.residual_logdet(
                problem.x, *problem.branch, problem.probe, shorter, "neumann", problem.parameters, return_info=True,
                factors=problem.factors,
            )  # fmt: skip
            expected = info.norms.flatten()
        torch.testing.assert_close(norms.flatten(), expected, rtol=1e-10, atol=1e-12)


def products(launches):
    """Return how many launches are products of one stage, and how many are weight gradients of one stage."""
    names = [launch.kernel for launch in launches]
    return [sum(kernel in name for name in names) for kernel in ("stage_product_kernel", "weight_gradient_kernel")]


@pytest.mark.parametrize("terms", [1, 2, 10])
def test_evaluations_of_a_step(terms):
    """n + 5 evaluations of L products, of which a weight gradient is two; without memory n + 7."""
    case = Case("count", (5,), (7, 6), batch=3, activations=("elu",), terms=terms)
    emulator, L = project_emulator("fast"), 3
    # Neither the branch nor the tangents that a backward pass walks itself need the last product.
    for keep, expected in ((True, (terms + 3) * L), (False, (terms + 5) * L - 2)):
        results = walk(emulator, case, torch.float32, keep, card="layered")
        launches = list(emulator.launches)
        pull_back(emulator, case, torch.float32, results[2], results[5] if keep else None, card="layered")
        assert products([*launches, *emulator.launches]) == [expected, L]


def test_without_memory_nothing_is_kept():
    emulator = project_emulator("fast")
    *outputs, kept = walk(emulator, CASES[2], torch.float32, card="no memory")
    assert kept.numel() == 0
    plain = walk(emulator, CASES[2], torch.float32, keep=False)
    assert all(map(torch.equal, outputs, plain))


def test_a_resident_step_is_two_walks_in_one_launch():
    case = CASES[2]
    emulator = project_emulator("fast")
    *outputs, kept = walk(emulator, case, torch.float32)
    names = [launch.kernel for launch in emulator.launches]
    assert sum("resident_forward_kernel" in name for name in names) == 1
    assert sum("resident_chain_kernel" in name for name in names) == 1
    assert len(names) == 4  # and weights packed both ways
    pull_back(emulator, case, torch.float32, outputs[2], kept)
    assert products(emulator.launches) == [2 * 3 - 1, 3]  # the first activation is the identity: nobody wants r_0


def test_kept_memory_is_at_most_one_part_in_256():
    """Rows of a, h, t and D t of every inner stage: a softplus keeps four, a relu three, an identity two."""
    emulator = project_emulator("fast")
    case = Case("limit", (4,), (64, 64, 64), activations=("elu", "softplus", "relu", "identity"), batch=1)
    arguments = raw_branch(make(case, torch.float32))
    row = 64 * 4 * (4 + 3 + 2)
    most = 80 * 10**9 // 256 // row
    for batch, kept in ((most // 64 * 64, True), (most // 64 * 64 + 64, False)):
        x = torch.empty(1, 4).expand(batch, 4)
        struct, size = operands._branch(x, *arguments), ctypes.c_int64()
        given = struct_of("residual_logdet", ctypes.c_float)(probes=1, terms=3)
        emulator.call(
            "residual_logdet_kept_float", ctypes.pointer(struct), ctypes.pointer(given), operands._target({}),
            ctypes.pointer(size),
        )  # fmt: skip
        assert size.value == (batch * row // 4 if kept else 0)
