"""`import iresnet_fast` costs little beside `import torch`."""

import json
import subprocess
import sys

# Compilers and what only training, data sets or pictures use.
HEAVY = {
    "torch._dynamo", "torch._inductor", "torch._functorch.aot_autograd", "sympy", "matplotlib", "PIL", "rich",
    "safetensors", "scipy", "sklearn", "tensorboard", "iresnet_fast.cli",
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
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
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
