"""Python started in a checkout whose kernels are installed elsewhere, as after `pip install .`."""

import shutil
from pathlib import Path

import pytest
from test_library import UNAVAILABLE, USE_AN_OP, copied, run_python

import iresnet_fast
from iresnet_fast import _library

__all__ = ["copied"]  # a fixture

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def installed(tmp_path):
    """A folder of sys.path with the installed package, its extension the one in use."""
    folder = tmp_path / "site" / "iresnet_fast"
    shutil.copytree(Path(iresnet_fast.__file__).parent, folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(_library.extension().__file__, folder)
    return folder


@pytest.fixture
def checkout(copied, installed):
    """A checkout without libraries; returns its root."""
    shutil.copytree(ROOT / "csrc", copied.parent / "csrc")
    # An editable install would serve what is missing here.
    shutil.copy(copied.parent / "sitecustomize.py", installed.parent)
    return copied.parent


def test_the_installed_library_serves_the_checkout(checkout, installed):
    result = run_python("-c", USE_AN_OP, path=installed.parent, cwd=checkout)
    assert (result.returncode, result.stderr, result.stdout.split()) == (0, "", ["kernels"])


def test_the_report_names_the_library_in_use(checkout, installed):
    result = run_python("-m", "iresnet_fast", path=installed.parent, cwd=checkout)
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert f"package           {checkout / 'iresnet_fast'}" in lines
    assert f"library           {installed / Path(_library.extension().__file__).name}" in lines


def test_a_library_of_other_sources_is_named_and_not_loaded(checkout, installed):
    with (checkout / "csrc/library.cpp").open("a") as file:
        file.write("// A change.\n")
    code = f"{USE_AN_OP}\nprint(hasattr(torch.ops.iresnet_fast, 'branch'))"
    result = run_python("-c", code, path=installed.parent, cwd=checkout)
    assert result.stdout.split() == ["reference", "False"]
    assert result.stderr.count(UNAVAILABLE) == 1
    package = checkout / "iresnet_fast"
    assert (
        f"Python runs the source folder {package}, and the kernels installed in {installed} were built from other "
        "sources: in another folder Python runs what is installed"
    ) in result.stderr
    assert "Rebuild with `pip install .`." in result.stderr


def test_a_broken_installed_library_is_named(checkout, installed):
    digest = _library.build_info()["sources"]
    library = installed / Path(_library.extension().__file__).name
    library.write_text(digest)
    result = run_python("-c", USE_AN_OP, path=installed.parent, cwd=checkout)
    assert result.stdout.split() == ["reference"]
    assert f"{library} does not load under torch" in result.stderr


def test_nothing_installed(checkout, installed):
    shutil.rmtree(installed)
    result = run_python("-c", USE_AN_OP, path=installed.parent, cwd=checkout)
    assert result.stdout.split() == ["reference"]
    assert "iresnet_fast._C was not built" in result.stderr
