"""The judge of the machine code is awake: it reads code right and complains about kernels that deserve it."""

import importlib
import re
import shutil
from pathlib import Path

import pytest

STATIC = Path(__file__).parent / "static"
SASS = """
		Function : _Zfirst
        /*0000*/                   MOV R1, c[0x0][0x28] ;                /* 0x00000a0000017a02 */
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, [R2.64] ;       /* 0x0000000802037981 */
        /*0020*/                   FFMA R5, R4.reuse, R6, R5 ;            /* 0x0000000604057223 */
        /*0030*/                   LDS.128 R8, [R3+0x10] ;                /* 0x0000100003087984 */
        /*0040*/             @!UP1 BRA 0x20 ;                            /* 0xffffff6000000947 */
        /*0050*/               @P1 BRA 0x10 ;                            /* 0xffffff6000000947 */
        /*0060*/                   DADD R4, R4, R6 ;                      /* 0x0000000604047229 */
        /*0070*/                   EXIT ;                                 /* 0x000000000000794d */
        /*0080*/                   BRA 0x80;                              /* 0xfffffff000007947 */
        /*0090*/                   NOP;                                   /* 0x0000000000007918 */
		Function : _Zsecond
        /*0000*/                   EXIT ;                                 /* 0x000000000000794d */
"""
LOG = """ptxas info    : Compiling entry function '_Zfirst' for 'sm_80'
ptxas info    : Function properties for _Zfirst
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 62 registers, used 1 barriers, 1536 bytes smem, 388 bytes cmem[0]
ptxas info    : Function properties for _Zsecond
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 388 bytes cmem[0]
"""
needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="there is no nvcc")


@pytest.fixture
def module(monkeypatch):
    """Import a module of tests/static by name, as its program does."""
    monkeypatch.syspath_prepend(str(STATIC))
    return importlib.import_module


@pytest.fixture
def complaints(module, tmp_path):
    """Compile a file of static/planted for sm_80 and return what is complained about, and its kernels."""

    def compiled(name):
        file = STATIC / "planted" / f"{name}.cu"
        (cubin,) = module("cubins").compile_all([file], [80], tmp_path / "out")
        assert not cubin.failed, cubin.log
        kernels = module("sass").read(cubin.path, cubin.log, file.name, 80)
        return [text for text in module("rules").violations([cubin], kernels) if file.name in text], kernels

    return compiled


def test_instructions_and_loops(module):
    sass = module("sass")
    functions = sass.parse_sass(SASS)
    assert list(functions) == ["_Zfirst", "_Zsecond"]
    kernel = sass.Kernel("file.cu", "first", 80, code=functions["_Zfirst"])
    assert kernel.mix == {"MOV": 1, "LDG.128": 1, "FFMA": 1, "LDS.128": 1, "BRA": 3, "DADD": 1, "EXIT": 1}
    assert [i.opcode for i in kernel.code if i.is_double] == ["DADD"]
    (loop,) = kernel.loops(least=1)  # not the outer one, not the endless one behind EXIT
    assert loop.mix == {"FFMA": 1, "LDS.128": 1, "BRA": 1}
    assert loop.share == pytest.approx(1 / 3)


def test_resources(module):
    assert module("sass").parse_log(LOG) == {
        "_Zfirst": {"registers": 62, "stack": 16, "spilled": 12, "static_shared": 1536},
        "_Zsecond": {"registers": 8, "stack": 0, "spilled": 0, "static_shared": 0},
    }


@pytest.mark.parametrize(
    ("demangled", "label"),
    [
        ("void irf::cuda::(anonymous namespace)::f<irf::cuda::Tile<float, 8>, true>(float*, int (&)[2])",
         "f<Tile<float, 8>, true>"),
        ("irf::cuda::(anonymous namespace)::g(irf::cuda::P<double>)", "g"),
        ("void irf::cuda::h<irf::cuda::Tile<(irf::cuda::Precision)1, 2> >(int)", "h<Tile<tf32, 2>>"),
        ("void f<(irf::Activation)3, (bool)1>(int)", "f<3, 1>"),
    ],
)  # fmt: skip
def test_labels_are_short(module, demangled, label):
    assert module("sass").shorten(demangled) == label


@needs_nvcc
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("good", []),
        ("array", ["keeps an array in local memory (LDL, STL)"]),
        ("unbound", ["has no __launch_bounds__"]),
        ("double", ["computes in double precision ("]),
        ("slow", ["instructions is only"]),
    ],
)
def test_complaints(complaints, name, expected):
    found, _ = complaints(name)
    assert len(found) == len(expected), found
    for text, fragment in zip(found, expected, strict=True):
        assert fragment in text


@needs_nvcc
def test_operands_are_not_rounded_in_inner_loops(module, complaints, monkeypatch):
    monkeypatch.setattr(module("rules"), "EXPECTED", ())
    share, conversion = complaints("converting")[0]
    assert "products, not 50%" in share
    assert "an inner loop has F2FP" in conversion


@needs_nvcc
def test_a_spill_does_not_compile(module, tmp_path):
    (cubin,) = module("cubins").compile_all([STATIC / "planted" / "spilling.cu"], [80], tmp_path)
    assert cubin.failed
    assert re.search(r"Registers are spilled", cubin.log)


@needs_nvcc
def test_what_must_be_there_is_asked_for(module, complaints, monkeypatch):
    rules = module("rules")
    monkeypatch.setattr(rules, "EXPECTED", ((r"tensor\.cu: tensor<7>", ("HMMA", "LDGSTS.128"), 80),))
    found, (kernel,) = complaints("tensor")
    assert kernel.mix["HMMA"] == 1
    assert found == ["tensor.cu: tensor<7> sm_80: has no LDGSTS.128"]
    assert r"rules.py: no kernel matches 'tensor\\.cu: tensor<7>'" in list(rules.violations([], []))


@needs_nvcc
def test_compiles_again_only_after_a_change(module, tmp_path):
    header, file = tmp_path / "header.h", tmp_path / "kernel.cu"
    header.write_text("#define VALUE 1\n")
    file.write_text('#include "header.h"\n__global__ void set(int* p) { *p = VALUE; }\n')
    made = []
    for text in ("#define VALUE 1\n", "#define VALUE 1\n", "#define VALUE 2\n"):
        header.write_text(text)
        (cubin,) = module("cubins").compile_all([file], [80], tmp_path / "out")
        made.append(cubin.path.stat().st_mtime_ns)
    assert made[0] == made[1] < made[2]


@needs_nvcc
def test_document_and_occupancy(module, complaints):
    _, (kernel,) = complaints("good")
    assert kernel.max_threads == 96
    (resident,) = module("occupancy").occupancy([(kernel, 96, 40000)])
    # 163 KB for blocks of 40000 bytes and the 1024 that the runtime takes of each.
    assert (resident.blocks, resident.warps, resident.most_warps, resident.limit) == (4, 12, 64, "shared")
    text = module("evidence").document([kernel])
    assert "| `scale<float>` | 96 | " in text
    assert f"nvcc {module('toolkit').nvcc_version()} " in text


def test_without_nvcc_one_sentence(module, monkeypatch):
    toolkit = module("toolkit")
    toolkit.nvcc.cache_clear()
    monkeypatch.setenv("CUDA_HOME", str(STATIC))
    with pytest.raises(SystemExit, match="nvcc is missing: install the CUDA toolkit and put its bin folder on PATH"):
        toolkit.nvcc()
