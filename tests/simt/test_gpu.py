"""The twin of the emulator on a GPU, as far as it runs without one."""

import shutil
import subprocess
import sys

import pytest

from . import gpu
from .builder import ROOT

OWN = ROOT / "tests/simt/on_gpu"


def test_pages_are_merged():
    page = gpu.mmap.PAGESIZE
    pieces = [(10 * page + 5, 10), (10 * page + 100, page), (20 * page, 1), (21 * page, 3 * page), (50 * page, 0)]
    assert gpu.page_ranges(pieces) == [(10 * page, 12 * page), (20 * page, 24 * page)]


def test_on_a_gpu_tests_of_the_emulator_are_left_out():
    command = [sys.executable, "-m", "pytest", "tests/simt", "--emulator", "gpu", "--collect-only", "-q", "-n", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    tests = [line for line in done.stdout.splitlines() if "::" in line]
    assert any("test_resident_chain.py::test_transposed[fast-forward-0-" in test for test in tests)
    assert any("test_branch_backward.py::test_matches_autograd" in test for test in tests)
    for left_out in ("check-", "test_shim", "test_plan.py", "bank_conflicts"):
        assert not [test for test in tests if left_out in test]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU")
def test_without_a_gpu_one_sentence_says_so():
    command = [sys.executable, "-m", "pytest", "tests/simt/test_layered_inverse.py", "--emulator", "gpu", "-n", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "tests/simt cannot run on a GPU: " in done.stderr


def test_what_only_the_emulator_knows_is_refused():
    twin = object.__new__(gpu.Gpu)
    for ask in ("launches", "calls"):
        with pytest.raises(gpu.OnlyEmulated):
            getattr(twin, ask)
    for ask in (twin.capturing, twin.counting):
        with pytest.raises(gpu.OnlyEmulated, match="by the emulator only"):
            ask()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["on_gpu/python_api.cpp", "on_gpu/driver.cpp", "entries/resident_chain.cpp",
                                    "entries/one_product.cu"])  # fmt: skip
def test_the_entries_compile_for_a_gpu(tmp_path, source):
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc")
    flags = ["-std=c++20", f"-I{OWN}", "-Icsrc", "-Icsrc/include", "-Werror", "all-warnings"]
    subprocess.run(["nvcc", *flags, "-c", f"tests/simt/{source}", "-o", tmp_path / "x.o"], cwd=ROOT, check=True)


@pytest.mark.slow
def test_the_rates_of_a_card_compile(tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc")
    source = "benchmarks/gpu_steps/ceilings.cu"
    subprocess.run(["nvcc", "-arch=sm_90", "-c", source, "-o", tmp_path / "x.o"], cwd=ROOT, check=True)
