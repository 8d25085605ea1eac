"""Inner products of thousands of terms on the CPU: tiles add them in runs, and round no more than a library does."""

import pytest
import torch
from comparison import assert_within_rounding
from problems import DTYPES, ISAS, LIPSCHITZ, Case, named, run_on
from test_residual_logdet import GRADIENTS, evaluate, expected

from iresnet_fast import _library, ops

CASES = [
    Case("dense", (6,), (20_000,), activations=("identity", "softplus"), batch=5, terms=3),
    Case("networks of 80 nodes", (80,), (6400,), activations=("identity", "tanh"), batch=16, terms=10),
    Case("conv", (5, 6, 7), (200, 200), (3, 3, 3), activations=("identity", "elu", "lipswish"), batch=2, terms=3),
]


@pytest.fixture(autouse=True)
def tiles():
    force = _library.extension().force_cpu_way
    force("tiles")
    yield
    force("")


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_sums_of_thousands_round_as_the_reference(isa, dtype, case):
    run_on(isa)
    for gradient in GRADIENTS:
        got = evaluate(ops, case, dtype, gradient, lipschitz=LIPSCHITZ)
        assert_within_rounding(case, got, expected(case, dtype, gradient), expected(case, torch.float64, gradient))
