"""Whether CUDA kernels are built, and for which GPUs: decided by nvcc, torch and the GPUs here, said in a sentence."""

import re
import stat
import subprocess
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
    """The module that decides, in a machine with an H100, with no variable of the environment set."""
    monkeypatch.syspath_prepend(ROOT / "build_backend")
    for name in ("FORCE_CUDA", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "MAX_JOBS"):
        monkeypatch.delenv(name, raising=False)
    module = import_module("iresnet_fast_cuda")
    monkeypatch.setattr(module, "find_capabilities", lambda: ["9.0"])
    return module


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
    assert (chosen.architectures, chosen.chosen_by) == (["9.0"], "the GPUs of this machine")
    assert chosen.gencode == ["-gencode=arch=compute_90,code=sm_90"]


def test_forced_is_for_all_gpus(cuda, nvcc, monkeypatch):
    nvcc()
    monkeypatch.setenv("FORCE_CUDA", "1")
    chosen = cuda.choose(torch_for(cuda), ["g++"])
    assert (chosen.architectures, chosen.chosen_by) == (["7.5", "8.0", "9.0+PTX"], "all, as FORCE_CUDA=1 asks")
    assert chosen.gencode[-2:] == ["-gencode=arch=compute_90,code=sm_90", "-gencode=arch=compute_90,code=compute_90"]


@pytest.mark.parametrize(
    ("gpus", "architectures"),
    [
        (["9.0"], ["9.0"]),
        (["8.6", "12.0"], ["8.6", "12.0"]),
        (["6.1", "8.0"], ["8.0"]),  # an old display adapter beside
        (["13.5"], ["12.1+PTX"]),  # newer than nvcc
        (["12.1", "13.5"], ["12.1+PTX"]),
    ],
)
def test_the_gpus_that_are_here(cuda, monkeypatch, gpus, architectures):
    monkeypatch.setattr(cuda, "find_capabilities", lambda: gpus)
    assert cuda._architectures(KNOWN) == (architectures, "the GPUs of this machine")


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [
        (
            [],
            "there is no GPU in this machine: FORCE_CUDA=1 builds for all GPUs, TORCH_CUDA_ARCH_LIST for those",
        ),
        (["6.1"], "the kernels need a GPU of compute capability 7.5 or later, here is 6.1"),
    ],
)
def test_kernels_that_nobody_here_can_run_are_not_built(cuda, nvcc, monkeypatch, gpus, reason):
    nvcc()
    monkeypatch.setattr(cuda, "find_capabilities", lambda: gpus)
    with pytest.raises(cuda.Unavailable, match=re.escape(reason)):
        cuda.choose(torch_for(cuda), ["g++"])
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    assert cuda.choose(torch_for(cuda), ["g++"]).architectures == ["8.0"]


# A driver with two H100 and an RTX 30, and one that knows no GPU.
DRIVER = """
static int devices[3][2] = {{9, 0}, {8, 6}, {9, 0}};
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int* count) { *count = 3; return 0; }
int cuDeviceGet(int* device, int index) { *device = 100 + index; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = devices[device - 100][attribute == 76];
  return attribute == 75 || attribute == 76 ? 0 : 1;
}
"""


@pytest.mark.parametrize(("init", "capabilities"), [(0, ["8.6", "9.0"]), (100, [])])
def test_gpus_are_asked_of_the_driver(cuda, tmp_path, init, capabilities):
    (tmp_path / "driver.c").write_text(DRIVER)
    command = ["g++", "-x", "c", "-shared", "-fPIC", f"-DINIT={init}", "-o", "driver.so", "driver.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert import_module("iresnet_fast_gpus").find_capabilities(str(tmp_path / "driver.so")) == capabilities


def test_without_a_driver_there_is_no_gpu(cuda, tmp_path):
    assert import_module("iresnet_fast_gpus").find_capabilities(str(tmp_path / "none.so")) == []


def test_the_first_line_says_what_for_what_and_how_long(cuda, nvcc):
    nvcc()
    announce = import_module("iresnet_fast_announce")
    chosen = cuda.choose(torch_for(cuda), ["g++"])
    about = ("1.2.3", torch_for(cuda), "g++ 15.1", ["scalar", "avx2"])
    seconds = announce.CPU_SECONDS / 4 + max(announce.CUDA_SECONDS / 4, announce.SLOWEST_SECONDS)
    assert announce.announcement(*about, chosen, "nvcc 13.0", 4).splitlines()[0] == (
        f"iresnet_fast 1.2.3: about {announce.duration(seconds)} with 4 jobs for CPU kernels (scalar, avx2) and CUDA "
        "kernels for 9.0 (the GPUs of this machine)"
    )
    assert announce.announcement(*about, None, "there is no GPU", 4).splitlines()[0] == (
        f"iresnet_fast 1.2.3: about {announce.duration(announce.CPU_SECONDS / 4)} with 4 jobs for CPU kernels "
        "(scalar, avx2) and no CUDA kernels (there is no GPU)"
    )
    assert announce.estimate(7, 1) == announce.CPU_SECONDS + 7 * announce.CUDA_SECONDS
    assert announce.estimate(7, 1000) > announce.SLOWEST_SECONDS > 0


@pytest.mark.parametrize(
    ("seconds", "words"), [(1.0, "10 seconds"), (50.0, "50 seconds"), (59.0, "60 seconds"), (60.1, "2 minutes")]
)
def test_durations_are_rounded_up(cuda, seconds, words):
    assert import_module("iresnet_fast_announce").duration(seconds) == words


def test_jobs(cuda, monkeypatch):
    ninja = import_module("iresnet_fast_ninja")
    memory = {"SC_PHYS_PAGES": 3 << 18, "SC_PAGE_SIZE": 4096}  # 3 GiB
    monkeypatch.setattr(ninja.os, "sysconf", memory.__getitem__)
    monkeypatch.setattr(ninja.os, "sched_getaffinity", lambda process: set(range(16)))
    assert ninja.max_jobs() == 3
    monkeypatch.setenv("MAX_JOBS", "8")  # whoever names a number knows the memory
    assert ninja.max_jobs() == 8
    for wrong in ("0", "-1", "many"):
        monkeypatch.setenv("MAX_JOBS", wrong)
        with pytest.raises(SystemExit, match=f"MAX_JOBS must be a positive whole number, got '{wrong}': correct it"):
            ninja.max_jobs()


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
        ("8.0", ["8.0"]),
        ("8.0;9.0+PTX", ["8.0", "9.0+PTX"]),
        (" 7.5 8.6,10.0 ", ["7.5", "8.6", "10.0"]),
        ("9.0a", ["9.0a"]),
    ],
)
def test_list_of_architectures(cuda, monkeypatch, wanted, architectures):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
    monkeypatch.setenv("FORCE_CUDA", "1")  # asks for the kernels, the list says for which GPUs
    assert cuda._architectures(KNOWN) == (architectures, "TORCH_CUDA_ARCH_LIST")


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


def test_all_gpus_are_those_that_nvcc_knows(cuda, monkeypatch):
    monkeypatch.setenv("FORCE_CUDA", "1")
    assert cuda._architectures(KNOWN)[0] == DEFAULT
    assert cuda._architectures({"7.5", "8.0", "8.6", "5.0"})[0] == ["7.5", "8.0", "8.6+PTX"]


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
