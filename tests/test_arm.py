"""The kernels for AArch64 run under qemu, and what is missing for that is said in one sentence."""

import importlib
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ARM = Path(__file__).parent / "arm"


@pytest.fixture
def toolchain(monkeypatch, tmp_path):
    """tests/arm/toolchain.py on a machine that has nothing for AArch64 yet."""
    monkeypatch.syspath_prepend(str(ARM))
    module = importlib.import_module("toolchain")
    monkeypatch.setattr(module, "BUILD", tmp_path)
    return module


def on_path(monkeypatch, module, *names):
    """Let only these programs be on PATH; folders named outright are looked into as ever."""
    which = shutil.which
    monkeypatch.setattr(
        module.shutil, "which", lambda name, path=None: which(name, path=path) if path else name in names and name
    )


@pytest.mark.slow
def test_neon_agrees_with_scalar_and_with_float64():
    result = subprocess.run([sys.executable, str(ARM)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    counted = re.findall(r"^(.+), (float\d+): (\d+) (?:branches|layers), ok$", result.stdout, re.MULTILINE)
    groups = {(kind, dtype) for kind, dtype, count in counted if int(count) > 0}
    assert groups == set(itertools.product(("dense", "images", "operands", "spectral norms"), ("float32", "float64")))
    judged = dict(re.findall(r"^(\w+), float32: .* at most ([\d.]+) of what is allowed$", result.stdout, re.MULTILINE))
    assert set(judged) == {"neon", "scalar"}
    assert all(0 < float(share) <= 1 for share in judged.values())


def test_what_is_on_path_is_used(toolchain, monkeypatch):
    on_path(monkeypatch, toolchain, "aarch64-linux-gnu-g++", "qemu-aarch64")
    assert toolchain.compiler() == "aarch64-linux-gnu-g++"
    assert toolchain.emulator() == "qemu-aarch64"


def test_without_debian_one_sentence(toolchain, monkeypatch):
    on_path(monkeypatch, toolchain)
    with pytest.raises(SystemExit, match="qemu-aarch64 is missing and there is no apt-get to fetch them with"):
        toolchain.emulator()


def test_packages_that_cannot_be_had_leave_nothing_behind(toolchain, monkeypatch):
    on_path(monkeypatch, toolchain, "apt-get", "dpkg")
    failed = subprocess.CompletedProcess([], 100, "", "W: slow\nE: Unable to fetch some archives\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: failed)
    for _ in range(2):  # the second try is not taken for done
        with pytest.raises(SystemExit, match="`apt-get` could not fetch them: E: Unable to fetch some archives"):
            toolchain.compiler()
    assert not (toolchain.BUILD / "debian").exists()


def test_what_was_unpacked_is_found(toolchain, monkeypatch):
    on_path(monkeypatch, toolchain)
    folder = toolchain.BUILD / "debian" / "usr" / "bin"
    folder.mkdir(parents=True)
    program = folder / "aarch64-linux-gnu-objdump"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert toolchain.disassembler() == str(program)
    with pytest.raises(SystemExit, match="Debian's packages have none: remove"):
        toolchain.emulator()
