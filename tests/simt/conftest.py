import platform
import shutil
from pathlib import Path

import pytest

from . import gpu
from .emulator import project_emulator
from .raw_ops import emulated_ops

__all__ = ["emulated_ops"]

# The checker first: what it reports might crash the fast build.
SCHEDULES = [
    ("check", "reverse", 0),
    ("check", "random", 1),
    ("check", "random", 2),
    ("check", "random", 3),
    ("fast", "forward", 0),
]


def _name(schedule):
    return "-".join(map(str, schedule))


# pytest.mark.parametrize("emulator", **FEW_SCHEDULES): for whole ops, whose kernels have tests of their own.
FEW_SCHEDULES = {"argvalues": [SCHEDULES[1], SCHEDULES[-1]], "indirect": True, "ids": _name}


def pytest_addoption(parser):
    parser.addoption(
        "--emulator",
        choices=["cpu", "gpu"],
        default="cpu",
        help="where the CUDA kernels of tests/simt run: emulated on the CPU (default), or compiled by nvcc on the GPU "
        "that is there; on it, tests of what only the emulator sees are left out",
    )


def _on_gpu(config):
    return config.getoption("emulator", "cpu") == "gpu"  # unknown unless tests/simt is named on the command line


def pytest_configure(config):
    """Build for the GPU before any worker starts; say so if there is none: its tests must not seem to pass."""
    if not _on_gpu(config) or config.option.collectonly:
        return
    try:
        gpu.this_gpu()
    except gpu.NoGpu as reason:
        raise pytest.UsageError(f"tests/simt cannot run on a GPU: {reason}") from None


def pytest_collection_modifyitems(config, items):
    """On a GPU keep the tests that call kernels through a fixture, once each instead of in every build and order."""
    if _on_gpu(config):
        left_out = [item for item in items if Path(__file__).parent in item.path.parents and not _runs_on_gpu(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _runs_on_gpu(item):
    if "checker" in item.fixturenames or not {"emulator", "every_emulator"} & set(item.fixturenames):
        return False
    return "emulator" not in item.fixturenames or item.callspec.params["emulator"] == SCHEDULES[-1]


def pytest_runtest_setup(item):
    if _on_gpu(item.config):
        return
    if platform.machine() != "x86_64" or not all(map(shutil.which, ("g++", "addr2line", "objcopy"))):
        pytest.skip("the emulator needs g++ and binutils on x86-64")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Skip what a GPU does not tell at the point where it is asked for: what was compared before has counted."""
    try:
        return (yield)
    except gpu.OnlyEmulated as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=SCHEDULES, ids=_name)
def emulator(request):
    """The project's kernels, in each build and order; or on the GPU."""
    if _on_gpu(request.config):
        yield gpu.this_gpu()
        return
    kind, order, seed = request.param
    with project_emulator(kind).schedule(order, seed) as scheduled:
        yield scheduled


@pytest.fixture
def every_emulator(request):
    """Call it for the emulators of all builds and orders, one after the other; on a GPU for the same one twice."""

    def each():
        if _on_gpu(request.config):
            yield from [gpu.this_gpu()] * 2
            return
        for kind, order, seed in SCHEDULES:
            with project_emulator(kind).schedule(order, seed) as scheduled:
                yield scheduled

    return each


@pytest.fixture
def checker():
    """The checker build, in the order of thread numbers: for counters and single checks."""
    return project_emulator("check")
