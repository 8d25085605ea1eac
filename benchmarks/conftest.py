"""Shared by the pytest-benchmark suites: run by naming them, `pytest benchmarks/bench_spectral_norm.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from machine import environment
from timing import interleave, medians

SECONDS, ROUNDS = 5.0, 5
_LINES = pytest.StashKey[list[str]]()

CheckSpeedup = Callable[[str, Callable[[], object], Callable[[], object], float], None]


def pytest_configure(config: pytest.Config) -> None:
    """Time here even though the test suite's own settings turn pytest-benchmark off."""
    config.stash[_LINES] = []
    if "--benchmark-disable" not in config.invocation_params.args:
        config.option.benchmark_disable = False


@pytest.fixture(autouse=True)
def _describe(request: pytest.FixtureRequest) -> None:
    """Write what the figures depend on into every record of --benchmark-json."""
    if "benchmark" in request.fixturenames:
        request.getfixturevalue("benchmark").extra_info.update(environment("cpu"))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def check_speedup(request: pytest.FixtureRequest) -> CheckSpeedup:
    """Time ours and a baseline interleaved and assert the ratio of the medians; (name, ours, baseline, floor)."""

    def check(name: str, ours: Callable[[], object], baseline: Callable[[], object], floor: float) -> None:
        times = medians(interleave({"ours": ours, "baseline": baseline}, SECONDS, ROUNDS))
        ratio = times["baseline"] / times["ours"]
        line = (
            f"{name}: {1e3 * times['ours']:.2f} ms against {1e3 * times['baseline']:.2f} ms, {ratio:.2f}x "
            f"(>= {floor:g}x: {'met' if ratio >= floor else 'MISSED'})"
        )
        request.config.stash[_LINES].append(line)
        assert ratio >= floor, line

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the speed-ups."""
    for i, line in enumerate(config.stash[_LINES]):
        if i == 0:
            terminalreporter.section("speed-up over plain torch, medians of interleaved calls")
        terminalreporter.write_line(line)
