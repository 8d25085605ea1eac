"""What benchmarks/emulated.py counts of our kernels."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


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
