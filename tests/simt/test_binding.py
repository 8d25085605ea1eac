"""The CUDA binding of csrc/torch on emulated kernels, by way of torch's dispatcher, through the tests for GPUs."""

import subprocess
import sys

import pytest

from .builder import ROOT

# Every op with its gradients, both kinds of branch, awkward layouts, no samples, and what torch asks of an op.
SELECTION = {
    "test_cuda.py": "opcheck or spectral or nan_stays or kernels_are_used or "
    "((primes or no-image or width-7 or strided) and matches)",
    "test_cuda_nn.py": "gives_the_numbers or autocast",
}


@pytest.mark.parametrize("file", SELECTION)
def test_tests_for_gpus_pass_on_the_emulator(file):
    arguments = ["-q", "-m", "cuda", "--device", "emulated", "-k", SELECTION[file], f"tests/{file}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


def test_the_kernels_of_the_gpu_run():
    """CPU and GPU keep as many numbers as their layouts have, which differ."""
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from problems import TINY, make\n"
        "from simt import binding\n"
        "op, arguments = make(TINY[0]).raw('residual_logdet', probe=make(TINY[0]).probe[:1].contiguous(), "
        "coefficients=make(TINY[0]).coefficients, neumann=True, keep=True)\n"
        "on_cpu = op(*arguments)\n"
        "binding.install()\n"
        "emulated = op(*arguments)\n"
        "assert on_cpu[5].numel() > 0 and emulated[5].numel() not in (0, on_cpu[5].numel())\n"
        "assert (on_cpu[1] - emulated[1]).abs().max() < 1e-12\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
