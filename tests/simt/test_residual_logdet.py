"""The log-determinant as users call it, with its gradients, on the emulated CUDA kernels."""

import pytest
import torch
from comparison import assert_within_rounding
from problems import CASES, DTYPES, LIPSCHITZ, TINY, Case, gradients, make, named

from iresnet_fast import ops, reference

from .conftest import FEW_SCHEDULES
from .emulator import Launch

# The kernels themselves run in every schedule in tests of their own.
pytestmark = pytest.mark.parametrize("emulator", **FEW_SCHEDULES)

# Large batches, and every activation, are left to the tests of chains and of the branch.
SMALL = [case for case in CASES if case.batch <= 17 and not case.name.startswith(("dense ", "conv "))]
LAYERED = Case("layer by layer", (3, 3, 4), (260,), (1, 3), batch=2, terms=2)
WIDE = Case("tensor images", (20, 5, 6), (40,), (3, 3), batch=3, terms=2)  # tensor cores are the cheaper way
ROUNDING = {1: 2.0**-11, 2: 2.0**-8}  # of one operand: TF32, bf16


def evaluate(package, case, dtype, gradient="neumann", **options):
    problem = make(case, dtype).requires_grad()
    outputs = package.residual_logdet(
        problem.x, *problem.branch, problem.probe, problem.coefficients, gradient, problem.parameters,
        factors=problem.factors, **options,
    )  # fmt: skip
    return [*outputs, *gradients(outputs, problem.leaves)]


def compare(case, dtype, gradient="neumann", **options):
    assert_within_rounding(
        case,
        evaluate(ops, case, dtype, gradient, **options),
        evaluate(reference, case, dtype, gradient, **options),
        evaluate(reference, case, torch.float64, gradient, **options),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", **named([*SMALL, LAYERED]))
def test_value_and_gradient_match_the_reference(emulated_ops, case, dtype):
    emulated_ops()
    compare(case, dtype)


@pytest.mark.parametrize("case", **named(TINY))
def test_gradient_of_the_series_matches_the_reference(emulated_ops, case):
    emulated_ops()
    compare(case, torch.float64, "series")


@pytest.mark.parametrize("card", ["t4", "rtx4090", "layered"])
@pytest.mark.parametrize("case", **named([*TINY, LAYERED]))
def test_samples_stop_alone(emulated_ops, card, case):
    emulated_ops(card)
    case = case._replace(batch=5, terms=12)
    results = []
    for package, dtype in ((ops, torch.float32), (reference, torch.float32), (reference, torch.float64)):
        problem = make(case, dtype)
        results.append(
            package.residual_logdet(
                problem.x, *problem.branch, problem.probe, problem.coefficients, "neumann", problem.parameters,
                tol=0.1, lipschitz=LIPSCHITZ, return_info=True, factors=problem.factors,
            )
        )  # fmt: skip
    assert torch.equal(results[0][2].terms, results[2][2].terms)
    assert not (results[0][2].terms == case.terms).all()
    assert_within_rounding(case, *((r[0], r[1], r[2].norms) for r in results))


@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("card", ["h100", "layered"])
@pytest.mark.parametrize("case", **named([*TINY, LAYERED, WIDE]))
def test_tensor_cores_round_only_operands(emulated_ops, card, precision, case):
    """Every product of the walk and of the chain rounds two operands; results are sums of terms of size 1.

    Where tensor cores are the slower way, as for what is resident and tiny, the bits are those of exact operands.
    """

    def logdet(package, p):
        arguments = p.x, *p.branch, p.probe, p.coefficients, "neumann", p.parameters
        return package.residual_logdet(*arguments, factors=p.factors)

    problem = make(case, torch.float32)
    emulated_ops(card)
    full = logdet(ops, problem)
    emulated_ops(card, precision)
    got, expected = logdet(ops, problem), logdet(reference, make(case))
    if case is WIDE or (case in TINY and card == "h100"):
        assert torch.equal(got[0], full[0]) == (case is not WIDE)
    for a, oracle in zip(got, expected, strict=True):
        limit = 2 * (len(case.hidden) + 1) * case.terms * ROUNDING[precision] * max(1.0, oracle.abs().max().item())
        assert (a - oracle).abs().max().item() <= limit


@pytest.mark.parametrize("card", ["t4", "h100", "layered"])
def test_a_call_is_launches_and_nothing_else(emulated_ops, card):
    """No allocation, no copy from or to the host, no wait: it can be captured in a CUDA graph.

    But for the first call of a process, which makes what others wait with.
    """
    emulator = emulated_ops(card)
    problem = make(TINY[1], torch.float32)
    arguments = problem.x, *problem.branch, problem.probe, problem.coefficients, "neumann", problem.parameters
    for _ in range(2):
        ops.residual_logdet(*arguments)
    assert emulator.launches
    others = {call for call in emulator.calls if not isinstance(call, Launch)}
    assert all("cudaFuncSetAttribute" in call for call in others)
