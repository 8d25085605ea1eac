"""Choice of the backend and of the instruction set; a missing, broken or stale extension."""

import os
import platform
import shutil
import subprocess
import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import iresnet_fast
from iresnet_fast import _library, reference
from iresnet_fast.__main__ import RAW_OPS, report

UNAVAILABLE = "iresnet_fast: compiled kernels unavailable"

# Serves an op by whatever is there and compares it with the reference.
USE_AN_OP = """
import torch
import iresnet_fast
from iresnet_fast import _library, ops, reference

print(_library.backend())
arguments = (torch.ones(3, 2), [0.3 * torch.eye(2)], [None], ["tanh"])
torch.testing.assert_close(ops.branch(*arguments), reference.branch(*arguments))
"""


def run_python(*arguments, path=None, cwd=None, **environment):
    """Run Python with these arguments, on another copy of the package if `path` or `cwd`, where it starts, has one."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith("IRESNET_FAST_")
    } | environment
    if path is not None:
        variables["PYTHONPATH"] = str(path)
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=variables, cwd=cwd or path, capture_output=True, text=True, check=False)


@pytest.fixture
def copied(tmp_path):
    """A copy of the package without its extension; returns the package folder."""
    # An editable install finds in its own tree what the copy lacks: take its finder away.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "sys.meta_path[:] = [finder for finder in sys.meta_path if 'Editable' not in getattr(finder, '__name__', '')]\n"
    )
    folder = tmp_path / "iresnet_fast"
    shutil.copytree(Path(iresnet_fast.__file__).parent, folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return folder


def test_the_extension_is_built_and_used():
    assert _library.EXTENSION_ERROR is None
    assert _library.HAS_EXTENSION
    _library.set_backend("kernels")
    assert _library.backend() == "kernels"
    assert _library.build_info()["version"] == iresnet_fast.__version__


def no_extension(folder):
    return "iresnet_fast._C was not built"


def extension_of_another_python(folder):
    (folder / "_C.cpython-27-x86_64-linux-gnu.so").touch()
    return "_C.cpython-27-x86_64-linux-gnu.so was built for another Python"


def broken_extension(folder):
    (folder / f"_C{EXTENSION_SUFFIXES[0]}").write_text("not a library")
    return f"iresnet_fast._C does not load under torch {torch.__version__}"


def stale_extension(folder):
    built = Path(_library._extension.__file__)
    shutil.copy(built, folder / built.name)
    (folder / "_version.py").write_text('__version__ = "9.9.9"\n')
    return f"iresnet_fast._C was built from version {iresnet_fast.__version__}, this is version 9.9.9"


@pytest.mark.parametrize("damage", [no_extension, extension_of_another_python, broken_extension, stale_extension])
def test_without_a_usable_extension_the_reference_serves(copied, damage):
    reason = damage(copied)
    result = run_python("-c", USE_AN_OP, path=copied.parent)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["reference"]
    assert result.stderr.count(UNAVAILABLE) == 1
    assert reason in result.stderr


def test_report_without_extension(copied):
    result = run_python("-m", "iresnet_fast", path=copied.parent)
    assert result.returncode == 0, result.stderr
    assert "extension         unavailable: iresnet_fast._C was not built" in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.startswith("residual_logdet "))
    assert row.split() == ["residual_logdet", "-", "-", "-", "-", "-", "yes"]


def test_forced_kernels_that_are_missing_fail_at_the_first_op(copied):
    result = run_python("-c", USE_AN_OP, path=copied.parent, IRESNET_FAST_BACKEND="kernels")
    assert result.returncode == 1
    assert UNAVAILABLE not in result.stderr
    assert result.stderr.splitlines()[-1] == (
        "RuntimeError: iresnet_fast: IRESNET_FAST_BACKEND=kernels asks for the compiled kernels, which are unavailable "
        "(iresnet_fast._C was not built). Rebuild with `pip install .`."
    )


def test_helpers_without_extension(copied):
    code = """
from iresnet_fast import _library

assert (_library.build_info(), _library.cpu_isa(), _library.cpu_isas()) == ({}, None, [])
for call in (lambda: _library.set_cpu_isa("scalar"), lambda: _library.set_backend("kernels")):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""
    result = run_python("-c", code, path=copied.parent, IRESNET_FAST_BACKEND="reference")
    assert result.stderr == ""  # the reference was asked for: nothing to warn about
    assert result.stdout.count("asks for the compiled kernels, which are unavailable") == 2


def test_environment_forces_reference_and_instruction_set():
    code = "from iresnet_fast import _library; print(_library.backend(), _library.cpu_isa())"
    result = run_python("-c", code, IRESNET_FAST_BACKEND="reference", IRESNET_FAST_CPU_ISA="scalar")
    assert (result.stdout.split(), result.stderr) == (["reference", "scalar"], "")


def test_unknown_values_in_the_environment():
    result = run_python("-c", "import iresnet_fast._library", IRESNET_FAST_BACKEND="cuda")
    assert result.stderr.splitlines()[-1] == (
        "ValueError: IRESNET_FAST_BACKEND must be reference or kernels, got 'cuda': correct it or unset it."
    )
    code = "from iresnet_fast import _library; print(_library.cpu_isa())"
    result = run_python("-c", code, IRESNET_FAST_CPU_ISA="neon")
    best = _library.cpu_isas()[-1]
    sentence = f"IRESNET_FAST_CPU_ISA=neon is unknown or not available on this CPU: using {best} instead."
    assert result.stdout.split() == [best]
    assert result.stderr.count(sentence) == 1


def test_a_cuda_library_of_other_sources_is_not_loaded(monkeypatch, tmp_path):
    """Its kernels may take other arguments than the ops of the extension."""
    (tmp_path / "libiresnet_fast_cuda.so").write_text("built from 2c3d")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_library, "_extension", SimpleNamespace(__file__=str(tmp_path / "_C.so")))
    monkeypatch.setattr(_library, "build_info", lambda: {"cuda_archs": ["8.0"], "cuda": "nvcc 13.0", "sources": "0a1b"})
    assert _library._load_cuda() == "libiresnet_fast_cuda.so was built from other sources than _C.so"


def test_a_cuda_library_that_does_not_load_is_named(monkeypatch, tmp_path):
    library = tmp_path / "libiresnet_fast_cuda.so"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_library, "_extension", SimpleNamespace(__file__=str(tmp_path / "_C.so")))
    monkeypatch.setattr(_library, "build_info", lambda: {"cuda_archs": ["8.0"], "cuda": "nvcc 13.0", "sources": "0a1b"})
    assert _library._load_cuda() == f"{library} is missing or cannot be read"
    library.write_text("0a1b, and no library")
    sentence = f"{library.name} does not load under torch {torch.__version__}: {library}: "
    assert _library._load_cuda().startswith(sentence)


def test_cuda_kernels_that_were_not_built_say_why(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_library, "build_info", lambda: {"cuda_archs": [], "cuda": "nvcc was not found"})
    assert _library._load_cuda() == "they were not built: nvcc was not found"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert _library._load_cuda() == f"torch {torch.__version__} is not built for CUDA"


def test_use_backend_restores_also_after_an_error():
    def fail_inside():
        with _library.use_backend("reference"):
            assert _library.backend() == "reference"
            raise KeyError

    _library.set_backend("kernels")
    with pytest.raises(KeyError):
        fail_inside()
    assert _library.backend() == "kernels"


def test_set_backend_names_the_choices():
    with pytest.raises(ValueError, match="must be 'kernels', 'reference' or None, got 'cuda'"):
        _library.set_backend("cuda")


def test_backend_is_seen_by_compiled_code():
    @torch.compile(fullgraph=True, backend="eager")
    def scaled(x):
        return 2 * x if _library.backend() == "kernels" else 3 * x

    for name, factor in (("kernels", 2.0), ("reference", 3.0), ("kernels", 2.0)):
        _library.set_backend(name)
        assert scaled(torch.ones(())).item() == factor


def test_every_usable_instruction_set_can_be_chosen():
    assert "scalar" in _library.cpu_isas()
    assert set(_library.cpu_isas()) <= set(_library.build_info()["isas"])
    assert ("neon" in _library.cpu_isas()) == (platform.machine().lower() in ("aarch64", "arm64"))
    for isa in _library.cpu_isas():
        _library.set_cpu_isa(isa)
        assert _library.cpu_isa() == isa


@pytest.mark.parametrize("name", ["mmx", "", "AVX2"])
def test_set_cpu_isa_names_the_choices(name):
    before = _library.cpu_isa()
    with pytest.raises(ValueError, match=rf"instruction set of this CPU and build \(scalar.*\), got '{name}'"):
        _library.set_cpu_isa(name)
    assert _library.cpu_isa() == before


def test_report_lists_every_op_and_activation():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = report().splitlines()
    rows = {line.split("  ")[0].strip(): line for line in lines if line}
    for op in RAW_OPS:
        assert hasattr(reference, op)
        assert rows[op].count("yes") == 1 + len(_library.cpu_isas())
    assert rows["elu"].split()[:2] == ["elu", "kernel"]
    assert rows["maxmin"].split()[:2] == ["maxmin", "kernel"]
    assert rows["fullsort"].split()[:2] == ["fullsort", "twin"]
    assert rows["torch"].startswith(f"torch             {torch.__version__}")
