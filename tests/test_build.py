"""The tree and the build: names that must agree, what must not be in a file, and what a failing build says."""

import os
import re
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import matrix
import pytest

import iresnet_fast
from iresnet_fast.__main__ import RAW_OPS
from iresnet_fast._optional import EXTRAS as OPTIONAL

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("op", RAW_OPS)
def test_one_op_has_one_name_everywhere(op):
    expected = [
        f"iresnet_fast/ops/{op}.py",
        f"iresnet_fast/reference/{op}.py",
        f"tests/test_{op}.py",
        f"csrc/torch/{op}.cpp",
        f"csrc/cpu/{op}.h",
    ]
    assert [path for path in expected if not (ROOT / path).is_file()] == []
    assert len(list((ROOT / "csrc/cuda").rglob(f"{op}.cu"))) == 1
    assert callable(getattr(iresnet_fast.ops, op))
    assert callable(getattr(iresnet_fast.reference, op))


def test_kernels_do_not_know_torch():
    include = re.compile(r"#\s*include\s*[<\"](torch|ATen|c10)/")
    free = [ROOT / "csrc/module.cpp"]
    for folder in ("cpu", "cuda", "include"):
        free += [path for path in (ROOT / "csrc" / folder).rglob("*") if path.is_file()]
    assert [str(path) for path in free if include.search(path.read_text())] == []


def test_no_machine_path_in_tracked_files():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    machine_path = re.compile(rb"(?<![\w.])/(?:work|tmp|root|home|Users|farm)/\w")
    tracked = [ROOT / name for name in listing.stdout.splitlines() if not name.endswith(".png")]
    assert [str(path) for path in tracked if path.is_file() and machine_path.search(path.read_bytes())] == []


def test_distribution_metadata():
    distribution = metadata.metadata("iresnet-fast")
    assert distribution["Version"] == iresnet_fast.__version__
    requirements = [line for line in distribution.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(requirements) == ["numpy", "torch>=2.11"]


def test_every_optional_module_is_in_the_extra_that_its_sentence_names():
    lines = metadata.metadata("iresnet-fast").get_all("Requires-Dist")
    found = [re.fullmatch(r"([\w-]+)(?:>=[\d.]+)?; extra == ['\"](\w+)['\"]", line) for line in lines]
    extras = {match.groups() for match in found if match}
    said = {(name.lower(), extra) for name, extra in OPTIONAL.values()}
    assert said | {(name, "all") for name, _ in said} <= extras
    assert {name for name, extra in extras if extra != "dev"} == {name for name, _ in said}


def test_the_matrix_begins_with_the_oldest_torch_allowed():
    requirements = metadata.metadata("iresnet-fast").get_all("Requires-Dist")
    (oldest,) = (line.removeprefix("torch>=") for line in requirements if line.startswith("torch>="))
    assert f"{oldest}.0" == matrix.TORCH[0]


def test_development_set_is_pinned():
    lines = (ROOT / "requirements/dev.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w-]+==[\w.]+(; sys_platform == \"linux\")?", line)] == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_make_targets_in_the_documents_exist(document):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = re.findall(r"(?:^|`|exec )make ((?:[\w-]+(?![\w=-]) ?)+)", (ROOT / document).read_text(), re.MULTILINE)
    named = {word for command in commands for word in command.split()}
    assert named
    assert named <= targets


def run_setup(**environment):
    variables = {name: value for name, value in os.environ.items() if name not in ("CXX", "FORCE_CUDA")} | environment
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("variable", "tried"), [("CXX", "CXX=no-such-compiler"), ("PATH", "tried g++, c++, clang++")], ids=["CXX", "PATH"]
)
def test_missing_compiler_is_one_sentence(variable, tried):
    result = run_setup(**{variable: "no-such-compiler"})
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert f"needs a C++20 compiler and found none ({tried}): install one" in result.stderr


@pytest.mark.parametrize(
    ("version", "requested"),
    [
        (None, ["torch>=2.11"]),
        ("1.13.1", ["torch>=2.11"]),
        ("2.10.1+cpu", ["torch>=2.11"]),
        ("2.11.0", []),
        ("2.13.0+cpu", []),
        ("3.0.0a0+git1234", []),
    ],
)
def test_backend_requests_torch_only_where_none_fits(monkeypatch, version, requested):
    monkeypatch.syspath_prepend(ROOT / "build_backend")
    backend = import_module("iresnet_fast_build")
    monkeypatch.delenv("IRESNET_FAST_SKIP_EXTENSION", raising=False)
    monkeypatch.setattr(backend, "find_torch", lambda: version and backend.Torch(Path("torch"), version))
    assert backend._torch_requirement() == requested


def test_backend_finds_the_torch_in_use(monkeypatch):
    import torch

    monkeypatch.syspath_prepend(ROOT / "build_backend")
    found = import_module("iresnet_fast_build").find_torch()
    assert found.version == torch.__version__
    assert found.folder.samefile(Path(torch.__file__).parent)
