"""Ops whose operands may be rounded are rounded only where tensor cores are modelled to be the cheaper way."""

import pytest
import torch
from problems import LIPSCHITZ, Case, make

from iresnet_fast import ops

from .conftest import FEW_SCHEDULES

FEW_SAMPLES = Case("few samples", (31,), (33,), batch=3)
TENSOR = Case("tensor images", (20, 5, 6), (40,), (3, 3), batch=3)


def branch(problem):
    return ops.branch(problem.x, *problem.branch, problem.parameters)


def inverse(problem):
    return ops.residual_inverse(problem.x, *problem.branch, LIPSCHITZ, 1e-3, 40, problem.parameters)[0]


@pytest.mark.parametrize("emulator", **FEW_SCHEDULES)
@pytest.mark.parametrize("precision", [1, 2])
@pytest.mark.parametrize(
    ("op", "case", "card", "slower"),
    [(branch, FEW_SAMPLES, "h100", True), (inverse, FEW_SAMPLES, "h100", True), (branch, TENSOR, "layered", False)],
    ids=lambda p: getattr(p, "name", getattr(p, "__name__", p)),
)
def test_tensor_cores_run_only_where_they_are_cheaper(emulated_ops, case, card, slower, op, precision):
    """Elsewhere the bits are those of full precision."""
    results = []
    for asked in (0, precision):
        emulated_ops(card, asked)
        results.append(op(make(case, torch.float32)))
    assert torch.equal(*results) == slower
