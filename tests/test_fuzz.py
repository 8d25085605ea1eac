"""Arguments that nobody should pass, in a process of its own: its crash is a failure, not the end of the tests."""

import subprocess
import sys

import pytest
from fuzz.runner import run

N_CALLS = 250
# Two layers, so that both threads take memory: 7 GiB of scratch each, and 4 GiB of addresses for all.
OUT_OF_MEMORY = """
import resource
import torch
import iresnet_fast
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
torch.set_num_threads(2)
weights, vectors = [torch.ones(1, 1, 1, 1)] * 2, [torch.ones(9), torch.ones(9)]
geometry = 2 * [4, 4, 20000, 20000, 20000, 20000, 1, 1, 1, 1]
for _ in range(2):  # the second call finds everything as it was
    try:
        torch.ops.iresnet_fast.spectral_norm(weights, vectors, [torch.ones(16)] * 2, geometry, 1, -1.0)
    except RuntimeError as error:
        print(error)
matrix, vector = torch.ones(1, 1), torch.ones(1)
torch.ops.iresnet_fast.spectral_norm([matrix], [vector], [vector], [0, 0, 1, 1, 0, 0, 1, 1, 1, 1], 1, -1.0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process are those of Linux")
def test_random_calls_return_or_raise():
    outcomes, wrong = run(calls=N_CALLS, seed=1)
    assert not wrong, "\n".join(wrong)
    assert sum(outcomes.values()) == N_CALLS
    assert sum(count for (_, outcome), count in outcomes.items() if outcome == "returned") > N_CALLS / 4


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process are those of Linux")
def test_memory_that_runs_out_in_a_thread_is_an_error():
    result = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("bytes of scratch memory and there are not as many") == 2
