"""`import iresnet_fast` costs little beside `import torch`, and its parts import each other one way."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import iresnet_fast

PACKAGE = Path(iresnet_fast.__file__).parent

# Compilers, what only training, data sets or pictures use, and what is loaded when it is first used.
HEAVY = {
    "torch._dynamo", "torch._inductor", "torch._functorch.aot_autograd", "sympy", "matplotlib", "pandas", "PIL",
    "pyarrow", "rich", "safetensors", "scipy", "sklearn", "tensorboard", "yaml", "iresnet_fast.cli",
    "iresnet_fast.data", "iresnet_fast.models", "iresnet_fast.sklearn", "iresnet_fast.training",
}  # fmt: skip
MEASURE = """
import json, resource, sys, time
import torch

before = set(sys.modules)
memory, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
import iresnet_fast
seconds = time.process_time() - seconds
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
print(json.dumps({"seconds": seconds, "mib": memory / 1024, "modules": sorted(set(sys.modules) - before)}))
"""


def measure():
    # An installed package has its bytecode; a checkout gets it from the first run, unless that is forbidden.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def test_the_import_loads_nothing_heavy():
    modules = set(measure()["modules"])
    assert HEAVY & modules == set()
    assert "iresnet_fast.nn" in modules


def test_the_import_is_quick_and_small():
    """Time of the processor, the least of several: other processes wait in the clock, not in it."""
    runs = [measure() for _ in range(5)]
    assert min(run["seconds"] for run in runs) < 0.2
    assert min(run["mib"] for run in runs) < 10.0


LATER = """
import iresnet_fast
assert "training" in dir(iresnet_fast)
assert iresnet_fast.training.fit.__module__ == "iresnet_fast.training.fit"
from iresnet_fast import data
assert data is iresnet_fast.data
assert not hasattr(iresnet_fast, "no_such_part")
"""


def test_parts_that_are_loaded_later_are_there_as_if_they_were():
    subprocess.run([sys.executable, "-c", LATER], check=True)


def test_private_modules_of_the_ops_stay_among_them():
    """And the ops take nothing from the layers above them."""
    of_the_ops = re.compile(r"from \.+ops(\._\w+ import| import .*\b_\w+)")
    above = re.compile(r"from (\.\.|iresnet_fast\.)(nn|models|certify|training|cli|data)\b")
    outside = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "ops"]
    assert [str(path) for path in outside if of_the_ops.search(path.read_text())] == []
    assert [str(path) for path in (PACKAGE / "ops").glob("*.py") if above.search(path.read_text())] == []
