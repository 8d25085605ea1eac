"""Shared by the pytest-benchmark suites: run by naming them, `pytest benchmarks/bench_spectral_norm.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from gpu_records import GpuRecord, card_folder, write
from machine import environment, why_no_gpu
from report_gpu import full_table
from timing import interleave, medians

SECONDS, ROUNDS = 5.0, 5
RESULTS = Path(__file__).parent / "results"
_LINES = pytest.StashKey[list[str]]()
_RECORDS = pytest.StashKey[list[GpuRecord]]()

CheckSpeedup = Callable[[str, Callable[[], object], Callable[[], object], float], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --device, which tests/conftest.py has too, with other choices: run tests and benchmarks apart."""
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where to time (default: cpu)")


def pytest_configure(config: pytest.Config) -> None:
    """Time here even though the test suite's own settings turn pytest-benchmark off."""
    config.stash[_LINES], config.stash[_RECORDS] = [], []
    if "--benchmark-disable" not in config.invocation_params.args:
        config.option.benchmark_disable = False
    reason = why_no_gpu() if config.option.device == "cuda" else None
    if reason is not None:
        raise pytest.UsageError(f"--device cuda {reason}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for the other device: pytest-benchmark reads the clock of the host."""
    on_gpu = config.option.device == "cuda"
    left_out = [item for item in items if (item.get_closest_marker("cuda") is not None) != on_gpu]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _describe(request: pytest.FixtureRequest) -> None:
    """Write what the figures depend on into every record of --benchmark-json."""
    if "benchmark" in request.fixturenames:
        request.getfixturevalue("benchmark").extra_info.update(environment())


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


@pytest.fixture
def keep_records(request: pytest.FixtureRequest) -> Callable[[str, list[GpuRecord]], None]:
    """Append the records of a suite to its file of the card, and print them at the end; (suite, records)."""

    def keep(suite: str, records: list[GpuRecord]) -> None:
        path = RESULTS / card_folder(records[0]["card"]) / f"{suite}.jsonl"
        request.config.stash[_RECORDS].extend(write(records, path))

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the speed-ups."""
    lines = config.stash[_LINES] + full_table(config.stash[_RECORDS]).splitlines() * bool(config.stash[_RECORDS])
    for i, line in enumerate(lines):
        if i == 0:
            terminalreporter.section("speed-up over plain torch, medians of interleaved calls")
        terminalreporter.write_line(line)
