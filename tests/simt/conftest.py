import platform
import shutil

import pytest

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


def pytest_runtest_setup():
    if platform.machine() != "x86_64" or not all(map(shutil.which, ("g++", "addr2line", "objcopy"))):
        pytest.skip("the emulator needs g++ and binutils on x86-64")


@pytest.fixture(params=SCHEDULES, ids=_name)
def emulator(request):
    """The project's kernels, in each build and order."""
    kind, order, seed = request.param
    with project_emulator(kind).schedule(order, seed) as scheduled:
        yield scheduled


@pytest.fixture
def checker():
    """The checker build, in the order of thread numbers: for counters and single checks."""
    return project_emulator("check")
