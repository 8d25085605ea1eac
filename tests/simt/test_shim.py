"""The emulator on kernels with planted bugs, known traffic and every form of CUDA C++ it claims to know."""

import ctypes
import re
from functools import cache

import pytest
import torch

from .builder import BUILD, HERE, ROOT, BuildError
from .conftest import SCHEDULES
from .emulator import Buffer, Emulator, Launch, SimtError
from .translate import translate

KERNELS = HERE / "kernels"
SOURCES = sorted(path.relative_to(ROOT) for path in (ROOT / KERNELS).glob("*.cu"))

# Bug -> what the checker says.
MEMORY_BUGS = {
    "no_barrier_in_loop": "race on s",
    "no_barrier_after_store": "race on s|uninitialised read of s",
    "write_after_read": "race on s",
    "global_bounds": "global memory out of bounds",
    "shared_bounds": "shared memory out of bounds",
    "barrier_in_branch": "divergent barrier",
    "two_barriers": "divergent barrier",
    "barrier_after_exit": "divergent barrier",
    "uninitialised_shared": "uninitialised read of s",
    "shuffle_mask": "outside the mask|different collectives",
    "no_warp_barrier": "race on s|uninitialised read of s",
    "blocks_without_atomic": "race on out|uninitialised read of out",
    "copy_without_wait": "uninitialised read of s",
    "misaligned_vector": "misaligned",
    "copy_over_old_values": "uninitialised read of s",
    "fill_without_wait": "uninitialised read of s",
    "copy_before_read": "race on s|uninitialised read of s",
    "wait_for_too_few": "uninitialised read of s",
    "uninitialised_global": "uninitialised read of out|race on out",
    "unwritten": r"never written: out\+68",
    "host_memory": "global memory out of bounds",
    "write_to_input": "read-only buffer in",
}
# These are caught in the fast build, too.
LAUNCH_BUGS = {
    "no_blocks": "invalid launch",
    "too_many_threads": "1025 threads",
    "no_dynamic_shared": "launch gave none",
    "shared_over_48_kb": "more than 48 KB",
    "shared_over_the_card": "invalid launch",
    "static_shared_over_48_kb": "too much shared memory",
    "allowed_more_than_the_card_has": "too much shared memory: 232704 bytes",
    "allocation": "cudaMalloc is forbidden",
    "synchronisation": "cudaStreamSynchronize is forbidden",
    "other_stream": "not on the stream",
    "copy_to_memory_that_can_be_paged": "the target is not page-locked",
    "copy_over_a_copy": "another copy to the same place is under way",
    "wait_beside_a_capture": "cudaEventSynchronize outside the relaxed capture mode",
    "allocation_beside_a_capture": "cudaHostAlloc outside the relaxed capture mode",
    "capture_mode_left_behind": "left in another capture mode",
}


@cache
def shim(kind):
    return Emulator(kind, SOURCES, "shim")


@pytest.fixture(params=SCHEDULES, ids=lambda p: "-".join(map(str, p)))
def scheduled(request):
    kind, order, seed = request.param
    with shim(kind).schedule(order, seed) as emulator:
        yield emulator


def call(emulator, function, x, out, *more, name=None, written=True):
    leading = () if name is None else (ctypes.c_char_p(name.encode()),)
    emulator.call(function, *leading, x, out, *more, buffers=[Buffer("in", x), Buffer("out", out, written)])
    return out


def planted(emulator, bug):
    function = "planted" if bug in MEMORY_BUGS else "launched"
    return call(emulator, function, torch.arange(1.0, 65.0), torch.empty(64), name=bug)


@pytest.mark.parametrize("order", ["forward", "reverse", "random 1", "random 2", "random 3"])
@pytest.mark.parametrize("bug", MEMORY_BUGS)
def test_memory_bugs_are_caught_in_every_order(bug, order):
    order, seed = (*order.split(), "0")[:2]
    with (
        shim("check").schedule(order, int(seed)) as emulator,
        pytest.raises(SimtError, match=MEMORY_BUGS[bug]) as error,
    ):
        planted(emulator, bug)
    if bug != "unwritten":
        assert re.search(r"at tests/simt/kernels/bugs\.cu:\d+", str(error.value))


@pytest.mark.parametrize("bug", LAUNCH_BUGS)
def test_launch_bugs_are_caught(bug, scheduled):
    with pytest.raises(SimtError, match=LAUNCH_BUGS[bug]):
        planted(scheduled, bug)


def test_code_without_a_bug_passes(scheduled):
    x = torch.arange(1.0, 65.0)
    expected = torch.where(torch.arange(64) % 2 == 0, x, 0.0).flip(0)
    torch.testing.assert_close(planted(scheduled, "none"), expected, rtol=0, atol=0)
    assert scheduled.calls == [Launch("none", (1, 1, 1), (64, 1, 1), 0)]
    assert torch.equal(planted(scheduled, "two_launches"), expected)
    planted(scheduled, "shared_of_any_size")
    assert scheduled.calls == ["cudaFuncSetAttribute|8|232448", Launch("copy_dynamic", (1, 1, 1), (64, 1, 1), 232448)]


def test_an_element_that_no_thread_writes_is_found_without_the_checker():
    with pytest.raises(SimtError, match=r"never written: out\[17\] and 0 more"):
        planted(shim("fast"), "unwritten")


def test_forbidden_calls_are_recorded():
    with pytest.raises(SimtError):
        planted(shim("fast"), "synchronisation")
    assert shim("fast").calls[1] == "cudaStreamSynchronize"


def test_a_copy_to_the_host_arrives_when_it_is_waited_for(scheduled):
    out = call(scheduled, "read_back", torch.arange(5.0, 7.0), torch.empty(4))
    assert out.tolist() == [1.0, 5.0, 1.0, 6.0]


def test_waiting_is_forbidden_in_a_capture(scheduled):
    planted(scheduled, "wait")
    with scheduled.capturing(), pytest.raises(SimtError, match="cudaEventSynchronize is forbidden while the stream is"):
        planted(scheduled, "wait")


def counted(kernel, elements):
    emulator = shim("check")
    with emulator.counting() as counters:
        call(
            emulator, "traffic", torch.arange(512.0 if elements == 512 else 1024.0), torch.empty(elements), name=kernel
        )
    return counters


def marked(comment):
    """The line of kernels/traffic.cu that bears a comment."""
    lines = (ROOT / KERNELS / "traffic.cu").read_text().splitlines()
    (number,) = [i for i, text in enumerate(lines, 1) if text.endswith(f"// {comment}")]
    return f"tests/simt/kernels/traffic.cu:{number}"


@pytest.mark.parametrize(
    ("kernel", "line", "sectors"),
    [("copy", "copy", 4), ("copy_vectors", "vectors", 16), ("copy_strided", "strided", 4)],
)
def test_sectors_per_request(kernel, line, sectors):
    counters = counted(kernel, 32 if kernel == "copy_strided" else 512)
    written = counters.lines[marked(line), "write", "global"]
    assert written.sectors == sectors * written.requests
    read = counters.total("read", "global")
    assert read.sectors == (32 if kernel == "copy_strided" else sectors) * read.requests
    assert read.bytes == written.bytes == (128 if kernel == "copy_strided" else 2048)


@pytest.mark.parametrize(("kernel", "columns"), [("transpose", 32), ("transpose_padded", 1)])
def test_bank_conflicts(kernel, columns):
    counters = counted(kernel, 1024)
    store, load = counters.lines[marked("rows"), "write", "shared"], counters.lines[marked("columns"), "read", "shared"]
    assert (store.requests, store.wavefronts, load.requests, load.wavefronts) == (32, 32, 32, 32 * columns)
    both = counters.total(space="shared", line="traffic.cu")
    assert both.wavefronts / both.requests == {32: 16.5, 1: 1.0}[columns]
    assert counters.barriers == 1


@pytest.mark.parametrize(("element", "passes"), [("float", 1), ("double", 2)])
def test_asynchronous_copies_and_wide_accesses(element, passes):
    counters = counted(f"staged_{element}", 32)
    copied = counters.lines[marked("staged copy"), "read", "global"]
    assert (copied.requests, copied.bytes, copied.sectors) == (1, 512, 16)
    assert counters.lines[marked("staged copy"), "write", "shared"].wavefronts == 4
    assert counters.lines[marked("staged read"), "read", "shared"].wavefronts == passes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 31, 33, 100, 1023, 5000])
def test_templates_shuffles_and_atomics(dtype, n, scheduled):
    x = (torch.arange(n) % 7).to(dtype)
    out = call(scheduled, "sum_float" if dtype == torch.float32 else "sum_double", x, x.new_empty(1), n)
    assert out == x.sum()
    assert scheduled.calls[0] == f"cudaMemsetAsync|{x.element_size()}"
    assert scheduled.launches[0].kernel == ("kernel" if n > 100 else "sum<T, Block>")


def test_large_parameters_and_three_dimensions(scheduled):
    x = torch.arange(1440.0)
    out = call(scheduled, "reverse", x, torch.empty(1440))
    assert torch.equal(out, x.view(12, 120).flip(1).reshape(-1))


def test_collectives(scheduled):
    lane = torch.arange(64)
    out = call(scheduled, "collectives", lane.int(), torch.empty(64, 16, dtype=torch.int32)).long()
    first = lane // 32 * 32
    assert (out[:, 0] & 0xFFFFFFFF == 0xAAAAAAAA).all()
    assert torch.equal(out[:, 1], torch.where(lane < 32, 3, 2))
    assert torch.equal(out[:, 2], first + 5)
    assert torch.equal(out[:, 3], torch.where(lane % 32 < 3, lane, lane - 3))
    assert torch.equal(out[:, 4], torch.where(lane % 8 < 5, lane + 3, lane))
    assert torch.equal(out[:, 5], lane ^ 7)
    assert torch.equal(out[:, 6], first * 32 + 496)
    assert torch.equal(out[:, 7], (first + 31) * 1000 + first)
    assert torch.equal(out[:, 8], first + torch.where(lane % 32 < 16, 15, 16))
    assert (out[:, 9] == 32).all()
    assert (out[:, 10] == 3).all()
    assert out[5, 11] == 10000 + 200 + 29
    assert (out[:, 12] == 1).all()
    assert torch.equal(out[:, 13], lane.clamp(max=7) + 5)
    assert torch.equal(out[:, 14], first + (lane + 1) % 32)


def test_histogram(scheduled):
    x = (torch.arange(1000, dtype=torch.int32) * 37) % 101
    out = call(scheduled, "histogram", x, torch.empty(16, dtype=torch.int32), 1000)
    assert torch.equal(out.long(), torch.bincount(x.long() & 15))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions(dtype, scheduled):
    x = torch.linspace(-2, 2, 32, dtype=dtype)
    out = call(scheduled, "functions_float" if dtype == torch.float32 else "functions_double", x, torch.empty_like(x))
    expected = x.sin() * x.cos() + x.exp() + x.expm1() + x.abs().log1p() + (x.abs() + 1).rsqrt() + x * x + 1 + x.relu()
    torch.testing.assert_close(out, expected)


def test_partial_warp_barriers(scheduled):
    x = torch.arange(32.0)
    out = call(scheduled, "pairs", x, torch.empty(32))
    other = torch.arange(32) ^ 1
    assert torch.equal(out, x[other] + other // 2)


def test_translation_keeps_lines_and_unknown_forms():
    source = "/* a\n b */ __shared__ float s[2]\n[3]; // k<<<1, 2>>>(x)\nextern __shared__ __align__(16) T d[];\n"
    source += 'f(a, ns::k<A, (B > 2)>\n  <<<g, dim3(1, 2), 3, st>>>(p, q));\nauto s = "<<<";\n__shared__ float a[2], b;'
    text = translate(source, "x.cu")
    lines = text.splitlines()
    assert lines[0] == '#line 1 "x.cu"'
    assert len(lines) == source.count("\n") + 2
    assert "float v[2] [3]; };" in lines[2]
    assert "k<<<" not in text
    assert lines[4].startswith("T* d = static_cast<T*>(simt::dynamic_shared_storage());")
    assert lines[5] == "f(a, simt::launcher(ns::k<A, (B > 2)>"
    assert lines[6].strip() == ', "ns::k<A, (B > 2)>", g, dim3(1, 2), 3, st)(p, q));'
    assert lines[-1] == "__shared__ float a[2], b;"


def test_sources_that_do_not_compile_are_named():
    broken = BUILD / "broken.cu"
    (ROOT / BUILD).mkdir(parents=True, exist_ok=True)
    (ROOT / broken).write_text("__global__ void k() {\n  __shared__ float a[2], b;\n}\n")
    with pytest.raises(BuildError, match=r"build/simt/broken\.cu:2:\d+: error"):
        Emulator("fast", [broken], "broken")
