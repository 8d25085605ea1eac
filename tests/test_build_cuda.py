"""Whether CUDA kernels are built, and for which GPUs: decided by nvcc and torch, said in one sentence."""

import re
import stat
from importlib import import_module
from pathlib import Path

import pytest
from test_build import ROOT, run_setup

DEFAULT = ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]
KNOWN = {"7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"}

# Answers what the build asks of nvcc. {top} is the toolkit, elsewhere than this script.
NVCC = """#!/bin/sh
case "$*" in
  *--version*) echo "Cuda compilation tools, release {version}, V{version}.1" ;;
  *--list-gpu-arch*) printf 'compute_75\\ncompute_80\\ncompute_90\\n' ;;
  *--dryrun*) printf '#$ TOP=x\\n#$ INCLUDES="-I{top}/bin/../include"\\n#$ LIBRARIES=  "-L{top}/lib"\\n' >&2 ;;
  *) {answer} ;;
esac
"""


@pytest.fixture
def cuda(monkeypatch):
    """The module that decides, with no variable of the environment set."""
    monkeypatch.syspath_prepend(ROOT / "build_backend")
    for name in ("FORCE_CUDA", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    return import_module("iresnet_fast_cuda")


@pytest.fixture
def nvcc(cuda, monkeypatch, tmp_path):
    """Puts an nvcc of a version on PATH, a script far from its toolkit; returns the toolkit."""

    def install(version="13.0", answer="exit 0"):
        top = tmp_path / "toolkit"
        (top / "lib").mkdir(parents=True)
        (top / "lib/libcudart_static.a").touch()
        script = tmp_path / "bin/nvcc"
        script.parent.mkdir()
        script.write_text(NVCC.format(version=version, answer=answer, top=top))
        script.chmod(script.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", str(script.parent), prepend=":")
        return top

    return install


def torch_for(cuda, version="13.0"):
    return cuda.Torch(Path("torch"), "2.14.1+cu130", version)


def test_an_nvcc_on_path_tells_where_its_toolkit_is(cuda, nvcc, tmp_path):
    top = nvcc()
    chosen = cuda.choose(torch_for(cuda), ["g++"])
    assert (chosen.nvcc, chosen.version) == (tmp_path / "bin/nvcc", "13.0")
    assert (chosen.includes, chosen.libraries) == ([f"-I{top}/include"], [f"-L{top}/lib"])
    assert chosen.architectures == ["7.5", "8.0", "9.0+PTX"]
    assert chosen.gencode[-2:] == ["-gencode=arch=compute_90,code=sm_90", "-gencode=arch=compute_90,code=compute_90"]


def test_cuda_home_comes_first(cuda, nvcc, monkeypatch, tmp_path):
    nvcc()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(cuda.Unavailable, match="elsewhere holds no bin/nvcc"):
        cuda.choose(torch_for(cuda), ["g++"])


@pytest.mark.parametrize(("version", "torch_version"), [("12.9", "13.0"), ("13.0", "12.6")])
def test_two_major_versions_are_named(cuda, nvcc, version, torch_version):
    nvcc(version)
    with pytest.raises(cuda.Unavailable) as error:
        cuda.choose(torch_for(cuda, torch_version), ["g++"])
    assert str(error.value).startswith(
        f"nvcc is of CUDA {version} and torch 2.14.1+cu130 is built for CUDA {torch_version}: set CUDA_HOME to"
    )


def test_minor_versions_may_differ(cuda, nvcc):
    nvcc("13.2")
    assert cuda.choose(torch_for(cuda), ["g++"]).version == "13.2"


def test_an_unsupported_host_compiler_is_named(cuda, nvcc):
    nvcc(answer="echo 'error: unsupported GNU version! gcc later than 15' >&2; exit 1")
    with pytest.raises(cuda.Unavailable, match="nvcc does not work: error: unsupported GNU version"):
        cuda.choose(torch_for(cuda), ["g++"])


def test_the_static_runtime_is_needed(cuda, nvcc):
    (nvcc() / "lib/libcudart_static.a").unlink()
    with pytest.raises(cuda.Unavailable, match=r"libcudart_static.a is missing beside .*nvcc"):
        cuda.choose(torch_for(cuda), ["g++"])


def test_reasons_not_to_build(cuda, nvcc, monkeypatch):
    nvcc()
    with pytest.raises(cuda.Unavailable, match=re.escape("torch 2.14.1+cu130 is not built for CUDA")):
        cuda.choose(torch_for(cuda, None), ["g++"])
    monkeypatch.setenv("FORCE_CUDA", "0")
    assert not cuda.forced()
    with pytest.raises(cuda.Unavailable, match="FORCE_CUDA=0"):
        cuda.choose(torch_for(cuda), ["g++"])


@pytest.mark.parametrize(
    ("wanted", "architectures"),
    [
        ("", DEFAULT),
        ("8.0", ["8.0"]),
        ("8.0;9.0+PTX", ["8.0", "9.0+PTX"]),
        (" 7.5 8.6,10.0 ", ["7.5", "8.6", "10.0"]),
        ("9.0a", ["9.0a"]),
    ],
)
def test_list_of_architectures(cuda, monkeypatch, wanted, architectures):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
    assert cuda._architectures(KNOWN) == architectures


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("Ampere", "must list compute capabilities such as 8.0;9.0+PTX, got 'Ampere' in 'Ampere'."),
        ("8.0;sm_90", "must list compute capabilities such as 8.0;9.0+PTX, got 'sm_90' in '8.0;sm_90'."),
        ("3.5", "names 3.5, which this nvcc does not compile for; it knows 7.5, 8.0, 8.6"),
    ],
)
def test_wrong_architectures_are_one_sentence(cuda, monkeypatch, wanted, sentence):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
    with pytest.raises(SystemExit) as error:
        cuda._architectures(KNOWN)
    assert str(error.value).startswith(f"TORCH_CUDA_ARCH_LIST {sentence}")


def test_an_old_nvcc_gets_the_default_it_knows(cuda):
    assert cuda._architectures({"7.5", "8.0", "8.6", "5.0"}) == ["7.5", "8.0", "8.6+PTX"]


@pytest.mark.parametrize(
    ("command", "compiler"), [(["g++"], "g++"), (["ccache", "/usr/bin/clang++", "-m64"], "/usr/bin/clang++")]
)
def test_host_compiler_without_its_launcher(cuda, command, compiler):
    assert cuda.host_compiler(command) == compiler


def test_forced_cuda_is_one_sentence(tmp_path):
    result = run_setup(FORCE_CUDA="1", CUDA_HOME=str(tmp_path))
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert re.match(
        r"FORCE_CUDA=1 was set, and CUDA kernels cannot be built: (torch .* is not built for CUDA"
        rf"|CUDA_HOME={tmp_path} holds no bin/nvcc)\.$",
        result.stderr,
    )


def test_torch_tells_the_cuda_it_is_built_for(cuda, monkeypatch, tmp_path):
    backend = import_module("iresnet_fast_build")
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(backend.sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "torch").mkdir()
    for line, version in (("cuda: Optional[str] = '13.0'", "13.0"), ("cuda = '12.8'", "12.8"), ("cuda = None", None)):
        (tmp_path / "torch/version.py").write_text(f"__version__ = '2.14.1+x'\ndebug = False\n{line}\nhip = '6.0'\n")
        assert backend.find_torch() == (tmp_path / "torch", "2.14.1+x", version)
