"""The CUDA binding of csrc/torch on emulated kernels, by way of torch's dispatcher, through the tests for GPUs."""

import os
import subprocess
import sys

import pytest

from .builder import ROOT

# Every op with its gradients, both kinds of branch, awkward layouts, no samples, and what torch asks of an op.
SELECTION = {
    "test_cuda.py": "opcheck or spectral or nan_stays or kernels_are_used or (exact_first_terms and masks) or "
    "((primes or no-image or width-7 or strided or masks-of-everything or images-with-a-context) and matches)",
    "test_cuda_flow.py": "matches or match_reference or bits or one_call or exact",
    "test_cuda_nn.py": "gives_the_numbers or autocast",
}


@pytest.mark.parametrize("file", SELECTION)
def test_tests_for_gpus_pass_on_the_emulator(file):
    arguments = ["-q", "-m", "cuda", "--device", "emulated", "-k", SELECTION[file], f"tests/{file}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


def test_the_binding_lends_a_call_what_it_waits_with_unless_it_is_captured():
    """Two pieces of iterations, of which the first was enough; in a graph those that bring 1/2 down to eps."""
    code = (
        "import ctypes, sys, torch; sys.path.insert(0, 'tests')\n"
        "from problems import Case, make\n"
        "from simt import binding\n"
        "case = Case('layer by layer', (3, 4, 4), (520,), (3, 1), batch=2)\n"
        "def arguments(dtype, most, lipschitz, accelerate=False):\n"
        "    given = {'residual_limit': 1e-3, 'max_iterations': most, 'lipschitz': lipschitz}\n"
        "    given['accelerate'] = accelerate\n"
        "    return make(case, dtype).raw('residual_inverse', **given)[1]\n"
        "op = torch.ops.iresnet_fast.residual_inverse.default\n"
        "on_cpu = op(*arguments(torch.float64, 1000, 0.5))\n"
        "assert on_cpu[1].max() < 16\n"
        "simt = ctypes.CDLL(str(binding.install()))\n"
        "simt.simt_calls.restype = ctypes.c_char_p\n"
        "for dtype, count in ((torch.float32, 23), (torch.float64, 52)):\n"
        "    assert 0.5**count <= torch.finfo(dtype).eps < 0.5 ** (count - 1)\n"
        "    for captured, most, lipschitz, accelerate, evaluations in (\n"
        "        (True, 1000, 0.5, False, count + 1), (True, 1000, 0.5, True, count + 2), (True, 7, 0.5, True, 8),\n"
        "        (True, 1000, 0.0, False, 2), (False, 1000, 0.5, False, 32), (False, 1000, 0.5, True, 32),\n"
        "    ):\n"
        "        simt.simt_configure(0, ctypes.c_uint64(0), ctypes.c_size_t(0), False, captured)\n"
        "        x, iterations, _ = op(*arguments(dtype, most, lipschitz, accelerate))\n"
        "        calls = simt.simt_calls().decode().splitlines()\n"
        "        assert sum('advance_kernel' in call for call in calls) == evaluations\n"
        "        assert ('cudaEventSynchronize' in calls) == (not captured)\n"
        "        if lipschitz and most == 1000:\n"
        "            assert (x - on_cpu[0]).abs().max() < (1e-2 if accelerate else 1e-5)\n"
        "            assert accelerate or iterations.equal(on_cpu[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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


def test_products_of_libraries_give_the_same_numbers():
    """The binding calls torch's operator for cuDNN with the precision of the call, under autocast too."""
    command = [sys.executable, "-m", "simt.library_products"]
    environment = os.environ | {"SIMT_CARD": "b200"}
    done = subprocess.run(command, cwd=ROOT / "tests", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
