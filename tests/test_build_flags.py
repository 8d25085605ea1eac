"""What the build compiles and links with, on machines that are not here."""

from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def flags(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "build_backend")
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("MACOSX_DEPLOYMENT_TARGET", raising=False)
    return import_module("iresnet_fast_flags")


def on_python_for(monkeypatch, flags, macos):
    monkeypatch.setattr(flags.sysconfig, "get_config_var", {"MACOSX_DEPLOYMENT_TARGET": macos}.get)


@pytest.mark.parametrize(
    ("machine", "isas"),
    [
        ("x86_64", ["scalar", "avx2", "avx512"]),
        ("AMD64", ["scalar", "avx2", "avx512"]),
        ("aarch64", ["scalar", "neon"]),
        ("arm64", ["scalar", "neon"]),  # as macOS calls it
        ("riscv64", ["scalar"]),
        ("i686", ["scalar"]),
    ],
)
def test_instruction_sets_of_an_architecture(flags, monkeypatch, machine, isas):
    monkeypatch.setattr(flags.platform, "machine", lambda: machine)
    target = flags.architecture()
    assert [isa for isa in flags.isa_flags(target) if isa in isas] == isas
    sources = flags.kernel_sources(target)
    built = {Path(path).stem for path in sources}
    assert {f"kernels_{isa}" for isa in isas} <= built
    assert {name for name in built if name.startswith("kernels_")} == {f"kernels_{i}" for i in flags.isa_flags(target)}
    assert {"isa", "kernels", "workspace"} <= built
    assert not any(flag.startswith("-m") for flag in sources["csrc/cpu/kernels.cpp"])  # must run on any CPU


def test_every_kernel_unit_belongs_to_an_architecture(flags):
    isas = {isa for target in flags.ISA_FLAGS.values() for isa in target}
    units = {path.stem for path in (ROOT / "csrc/cpu").glob("kernels_*.cpp")}
    assert units == {f"kernels_{isa}" for isa in isas}


def test_scalar_kernels_round_products_on_aarch64(flags):
    assert "-ffp-contract=off" in flags.kernel_sources("aarch64")["csrc/cpu/kernels_scalar.cpp"]
    assert "-ffp-contract=off" not in flags.kernel_sources("aarch64")["csrc/cpu/kernels_neon.cpp"]


def test_linux_is_linked_without_an_rpath(flags):
    assert flags.link_flags(Path("torch/lib"), "linux") == [
        "-shared", "-Wl,--no-as-needed", "-Ltorch/lib", "-ltorch_cpu"
    ]  # fmt: skip
    assert flags.system_flags("linux") == []


@pytest.mark.parametrize(
    ("python", "oldest"), [("10.9", "11.0"), ("10.13", "11.0"), ("11.0", "11.0"), ("13.3", "13.3"), (None, "11.0")]
)
def test_macos_is_linked_for_the_oldest_system_that_python_runs_on(flags, monkeypatch, python, oldest):
    on_python_for(monkeypatch, flags, python)
    link = flags.link_flags(Path("torch/lib"), "darwin")
    assert link == [
        f"-mmacosx-version-min={oldest}", "-bundle", "-undefined", "dynamic_lookup", "-Ltorch/lib", "-ltorch_cpu"
    ]  # fmt: skip
    assert not any(flag.startswith("-Wl,") for flag in link)  # Apple's linker refuses those of GNU's


def test_macos_deployment_target_of_the_environment_comes_first(flags, monkeypatch):
    on_python_for(monkeypatch, flags, "12.0")
    monkeypatch.setenv("MACOSX_DEPLOYMENT_TARGET", "14.0")
    assert flags.system_flags("darwin") == []  # the compiler reads it
    assert "-bundle" in flags.link_flags(Path("torch/lib"), "darwin")


def test_jobs_where_no_process_has_cores_of_its_own(flags, monkeypatch):
    ninja = import_module("iresnet_fast_ninja")
    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.delattr(ninja.os, "sched_getaffinity")
    monkeypatch.setattr(ninja.os, "cpu_count", lambda: 1)
    assert ninja.max_jobs() == 1


def test_sources_use_no_builtin_that_clang_lacks():
    """IRF_SHUFFLE (macros.h) is what both compilers have."""
    folders = (ROOT / "csrc" / name for name in ("cpu", "torch", "include"))
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".h", ".cpp")]
    users = [path.name for path in files if "__builtin_shuffle(" in path.read_text()]
    assert users == ["macros.h"]
