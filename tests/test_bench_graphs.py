"""Steps are captured and timed on a GPU as CUDA asks for it; a clock and a CUDA of our own stand in for both."""

import importlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def graphs(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("graphs")


class Machine:
    """A host and a GPU that runs what the host launches, in order, each with a clock in seconds."""

    def __init__(self):
        self.host = self.gpu = 0.0
        self.log = []
        self.capturing = None

    def launch(self, host, gpu):
        """Take the host so long, and then the GPU."""
        self.host += host
        if self.capturing is not None:
            self.capturing.seconds += gpu
        else:
            self.gpu = max(self.gpu, self.host) + gpu

    def cuda(self):
        machine = self

        class Event:
            def __init__(self, enable_timing=False):
                assert enable_timing

            def record(self):
                self.at = max(machine.gpu, machine.host)

            def synchronize(self):
                machine.host = max(machine.host, self.at)

            def elapsed_time(self, end):
                return 1e3 * (end.at - self.at)

        class Stream:
            def wait_stream(self, other):
                machine.log.append("wait")

        class CUDAGraph:
            seconds = 0.0

            def replay(self):
                machine.launch(1e-6, self.seconds)
                machine.log.append("replay")

        @contextmanager
        def stream(_):
            machine.log.append("side")
            yield
            machine.log.append("main")

        @contextmanager
        def capture(graph):
            machine.capturing = graph
            machine.log.append("capture")
            current[0] = side
            yield
            machine.capturing, current[0] = None, main  # as torch does, only if nothing fails
            machine.log.append("captured")

        main, side = Stream(), Stream()
        current = [main]
        return SimpleNamespace(
            Event=Event, Stream=Stream, CUDAGraph=CUDAGraph, stream=stream, graph=capture,
            current_stream=lambda: current[0], synchronize=self.synchronize,
            set_stream=lambda s: current.__setitem__(0, s),
        )  # fmt: skip

    def synchronize(self):
        self.host = max(self.host, self.gpu)


@pytest.fixture
def machine(graphs, monkeypatch):
    found = Machine()
    monkeypatch.setattr(
        graphs, "torch", SimpleNamespace(cuda=found.cuda(), zeros=lambda size, device: torch.zeros(size))
    )
    monkeypatch.setattr(graphs, "time", SimpleNamespace(perf_counter=lambda: found.host))
    return found


def test_times_of_the_gpu_and_of_the_host_are_apart(graphs, machine):
    calls = []

    def step():
        calls.append(1)
        machine.launch(10e-6, 100e-6)

    timing = graphs.time_gpu(step, "cuda")
    assert timing.gpu_us == pytest.approx(100.0, rel=1e-2)  # the first kernel waits for its launch
    assert timing.host_us == pytest.approx(10.0, rel=1e-9)
    assert len(timing.passes_us) == 2
    assert timing.spread == pytest.approx(0.0, abs=1e-9)
    # Each of the ten readings takes 30 ms: 300 calls.
    assert len(calls) > 10 * 300


def test_a_step_that_the_host_cannot_launch_fast_enough_takes_the_time_of_the_host(graphs, machine):
    timing = graphs.time_gpu(lambda: machine.launch(50e-6, 2e-6), "cuda")
    assert timing.gpu_us == pytest.approx(50.0, rel=1e-2)
    assert timing.host_us == pytest.approx(50.0, rel=1e-9)


def test_the_spread_is_the_difference_of_the_two_passes(graphs, machine):
    prepared = []

    def step():
        machine.launch(1e-6, 100e-6 if len(prepared) <= 5 else 110e-6)

    timing = graphs.time_gpu(step, "cuda", prepare=lambda: prepared.append(1))
    assert len(prepared) == 10  # before every round of both passes
    assert timing.passes_us == pytest.approx((100.0, 110.0), rel=1e-2)
    assert timing.gpu_us == pytest.approx(105.0, rel=1e-2)
    assert timing.spread == pytest.approx(10.0 / 105.0, rel=5e-2)


def test_steps_are_timed_in_turn(graphs, machine):
    order = []
    steps = {
        name: lambda name=name, seconds=seconds: (order.append(name), machine.launch(1e-6, seconds))
        for name, seconds in (("a", 0.05), ("b", 0.04))
    }
    times = graphs.time_together(steps, "cuda")
    # One reading each to see how often to call it, then one in all rounds of both passes, of a call since it is long.
    assert "".join(order) == "ab" + 10 * "ab"
    assert len(order) == 2 * graphs.READINGS
    assert [times[name].gpu_us for name in "ab"] == pytest.approx([50e3, 40e3], rel=1e-3)


def test_a_step_is_warmed_up_aside_captured_once_and_replayed(graphs, machine):
    def step():
        machine.log.append("step")
        machine.launch(200e-6, 30e-6)
        return "result"

    replay = graphs.graphed(step, "cuda")
    assert machine.log == ["wait", "side", *3 * ["step"], "main", "wait", "capture", "step", "captured"]
    assert replay() == "result"
    assert machine.log[-1] == "replay"
    timing = graphs.time_gpu(replay, "cuda")
    assert (timing.gpu_us, timing.host_us) == pytest.approx((30.0, 1.0), rel=1e-2)
    assert machine.log.count("step") == 4


def test_after_a_capture_that_fails_others_can_be_made(graphs, machine):
    calls = []

    def reads_on_the_host():
        calls.append(1)
        if machine.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")

    cuda = graphs.torch.cuda
    before = cuda.current_stream()
    with pytest.raises(RuntimeError, match="not permitted"):
        graphs.graphed(reads_on_the_host, "cuda")
    assert len(calls) == 4
    assert machine.log[-2:] == ["capture", "captured"]  # a capture that ends well ends the generator's
    assert machine.capturing is None
    assert cuda.current_stream() is before


def test_without_a_gpu_a_step_is_its_own_graph(graphs):
    calls = []
    assert graphs.graphed(calls.append, "cpu") == calls.append
    timing = graphs.time_gpu(lambda: calls.append(1), "cpu", least_seconds=1e-4)
    assert timing.gpu_us == timing.host_us > 0
    assert graphs.quick_us(lambda: torch.zeros(1), "cpu") > 0
