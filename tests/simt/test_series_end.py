"""A series ends with its last coefficient that is not zero, and the kernels compute nothing behind it."""

import pytest
import torch
from comparison import assert_within_rounding
from problems import DTYPES, TINY, Case, gradients, make, named

from iresnet_fast import ops, reference

from . import operands
from .branches import probes_of, run
from .conftest import FEW_SCHEDULES

CASES = [
    Case("dense", (3,), (5, 7), batch=9, activations=("softplus", "elu"), terms=3),
    Case("two probes", (5,), (33,), batch=13, activations=("elu",), terms=3, probes=2),
    Case("images", (3, 5, 9), (17,), (3, 1), batch=3, activations=("lipswish", "tanh"), terms=3),
    Case("one stage", (2, 7, 5), kernels=(3,), batch=3, activations=("sin",), terms=3),
]
CARDS = ["h100", "layered"]


def series(emulator, problem, card, **options):
    """Return z, value, Neumann vectors, norms and terms of the raw op in a graph, where the host knows no depth."""
    arguments = probes_of(problem), problem.coefficients, None, 0.0, False, True
    with emulator.capturing():
        return run(emulator, operands.residual_logdet, problem, *arguments, card=card, **options)


def ragged(problem, n=5):
    """Return the problem with a last coefficient for each sample, 0 (none is left) to n."""
    batch = len(problem.x)
    q = torch.linspace(0.5, 1.5, batch * n, dtype=problem.x.dtype).view(batch, n)
    ends = torch.arange(batch) % (n + 1)
    q[torch.arange(1, n + 1) > ends[:, None]] = 0.0
    return problem._replace(coefficients=q), ends.clamp(min=1)


@pytest.mark.parametrize("emulator", **FEW_SCHEDULES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("case", **named(CASES))
def test_zeros_behind_the_last_change_no_bit(emulator, case, card, dtype):
    problem = make(case, dtype)
    plain, padded = series(emulator, problem, card), series(emulator, problem.with_zeros(20), card)
    assert all(map(torch.equal, plain, padded))


@pytest.mark.parametrize("emulator", **FEW_SCHEDULES)
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("case", **named([*CASES, *TINY]))
def test_every_item_has_its_own_last(emulator, case, card):
    problem, ends = ragged(make(case))
    z, value, y, norms, terms = series(emulator, problem, card)
    assert torch.equal(terms, ends.expand_as(terms))
    exact_z, exact, info = reference.residual_logdet(
        problem.x, *problem.branch, problem.probe, problem.coefficients, "neumann", problem.parameters,
        return_info=True, factors=problem.factors,
    )  # fmt: skip
    got = z, value, norms
    assert_within_rounding(case, got, *[(exact_z, exact, info.norms)] * 2)
    alone = [series(emulator, make(case)._replace(coefficients=problem.coefficients[:, :n].contiguous()), card)[2]
             for n in range(1, 6)]  # fmt: skip
    if len(probes_of(problem)) == 1:
        assert torch.equal(series(emulator, problem, card, keep=True)[4], terms)
    for b, end in enumerate(ends.tolist()):
        torch.testing.assert_close(y[:, b], alone[end - 1][:, b], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("emulator", **FEW_SCHEDULES)
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("case", **named([CASES[0], CASES[2]]))
def test_a_training_step_of_a_graph(emulated_ops, case, card):
    """What is kept for the backward pass is kept all the same."""
    emulator, results = emulated_ops(card), []
    for package, zeros in ((ops, 20), (reference, 0)):
        problem = make(case).requires_grad().with_zeros(zeros)
        with emulator.capturing():
            outputs = package.residual_logdet(
                problem.x, *problem.branch, problem.probe, problem.coefficients, "neumann", problem.parameters
            )
            results.append([*outputs, *gradients(outputs, problem.leaves)])
    assert_within_rounding(case, results[0], results[1], results[1])


@pytest.mark.parametrize(("card", "file"), [("h100", "resident/product.cuh"), ("layered", "layered/product_fetch.cuh")])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("case", **named(CASES))
def test_products_behind_the_last_are_not_computed(checker, card, file, per_sample, case):
    problem = make(case._replace(per_sample=per_sample), torch.float32)
    traffic = []
    for zeros in (1, 20):
        with checker.counting() as counters:
            series(checker, problem.with_zeros(zeros), card)
        traffic.append(counters.total("read", line=file))
    assert traffic[0] == traffic[1]
    assert traffic[0].bytes > 0
