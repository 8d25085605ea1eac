"""Every implementation is timed in every way and judged by its own results; tried on the CPU, cut down."""

import json
import weakref
from pathlib import Path

import pytest
import torch
from timed_flows import images, residual_flow

from iresnet_fast import _library

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCALE = 1 / 50
SHORT = 1e-5  # seconds of a reading


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """The cases are tiny."""


def try_logdet(module, output, cases, precisions=("float32", "tf32", "bf16")):
    """Run bench_logdet as on a GPU and return what it prints and the records it wrote."""
    bench_logdet, records = module("bench_logdet"), module("gpu_records")
    options = bench_logdet.parse(["--cases", "toy2d", "--output", str(output)])
    options.cases, options.precision, options.seconds, options.published = cases, precisions, SHORT, True
    options.quick, options.terms = True, 2  # nothing is compiled
    text = bench_logdet.run_gpu(options, "cpu", SCALE)
    (folder,) = output.iterdir()
    assert folder.name == records.card_folder(records.card("cpu"))
    return text, [json.loads(line) for line in (folder / "bench_logdet.jsonl").read_text().splitlines()]


def test_log_determinants_are_timed_in_every_way(module, tmp_path):
    text, records = try_logdet(module, tmp_path, ("toy100", "mnist"))
    schema = set(module("gpu_records").GpuRecord.__annotations__)
    ways = set()
    for record in records:
        assert set(record) == schema
        assert record["failed"] is None
        assert min(record["gpu_us"], record["host_us"], *record["passes_us"]) > 0
        assert record["spread"] >= 0
        ways.add((record["case"], record["mode"], record["precision"], record["implementation"], record["launch"]))
    torch_forms = {"eval": ("ours", "series", "explicit"), "train": ("ours", "series", "neumann", "explicit")}
    expected = {
        (case, mode, precision, name, launch)
        for case in ("toy100", "mnist")
        for mode, names in torch_forms.items()
        for precision in ("float32", "tf32", "bf16")
        for name in names
        for launch in ("graph", "eager")
    }
    assert {way for way in ways if not way[3].startswith("normflows")} == expected
    # normflows' block, where it is installed: one block, eagerly, not in bfloat16.
    others = {way for way in ways if way[3].startswith("normflows")}
    assert {(case, launch) for case, *_, launch in others} <= {("mnist", "eager")}
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 2 * 2 * 3
    card = module("gpu_records").card("cpu")
    assert all(f"| {card} " in row for row in rows)
    assert "Appended to: " in text


def test_errors_are_those_of_what_was_timed(module, tmp_path, monkeypatch):
    _, records = try_logdet(module, tmp_path / "right", ("mnist",), ("float32", "bf16"))
    errors = {(r["mode"], r["precision"], r["implementation"]): r["error"] for r in records if r["launch"] == "graph"}
    for mode, names in (("eval", ("ours", "series", "explicit")), ("train", ("ours", "series", "neumann", "explicit"))):
        for name in names:
            # Rounding of float32, 6e-8, over some hundred products; that of bfloat16 is 2^16 times as large.
            assert 0 < errors[mode, "float32", name] < 1e-5
            if name != "ours":  # whose operands only a GPU rounds
                assert 1e-5 < errors[mode, "bf16", name] < 0.1
    baselines = module("baselines")
    right = baselines.ops.residual_logdet

    def wrong(*arguments, **options):
        z, logdet = right(*arguments, **options)
        return z, 1.01 * logdet

    monkeypatch.setattr(baselines.ops, "residual_logdet", wrong)
    _, records = try_logdet(module, tmp_path / "wrong", ("mnist",), ("float32",))
    worse = {(r["mode"], r["implementation"]): r["error"] for r in records if r["launch"] == "graph"}
    for mode in ("eval", "train"):
        assert worse[mode, "ours"] > 100 * errors[mode, "float32", "ours"]
        assert worse[mode, "explicit"] < 1e-5


def test_what_cannot_be_timed_stops_nothing_and_is_told(module, tmp_path, monkeypatch):
    baselines, gpu_timing = module("baselines"), module("gpu_timing")

    def explicit(problem, mode):
        def forward():
            raise RuntimeError("out of memory\nand more")

        return forward, []

    def graphed(step, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setitem(baselines.MAKERS, "explicit", explicit)
    monkeypatch.setattr(gpu_timing, "graphed", graphed)
    text, records = try_logdet(module, tmp_path, ("toy2d",), ("float32",))
    failed = {(r["mode"], r["implementation"], r["launch"]): r["failed"] for r in records if r["failed"]}
    assert failed["eval", "explicit", "eager"] == failed["eval", "explicit", "graph"] == "RuntimeError: out of memory"
    assert failed["train", "ours", "graph"].endswith("when stream is capturing")
    timed = {(r["implementation"], r["launch"]) for r in records if r["gpu_us"]}
    assert timed >= {("ours", "eager"), ("series", "eager")}
    assert "toy2d eval float32 on " in text
    assert "(iii) explicit, graph, could not be timed: RuntimeError: out of memory" in text


def test_a_whole_training_step_is_timed_in_every_way(module, flow):
    gpu_train_step = module("gpu_train_step")
    trained = gpu_train_step.TrainedFlow("mnist flow", flow, images(flow))
    records = list(gpu_train_step.run(trained, 4, ("float32", "tf32", "bf16"), False, "cpu", least_seconds=SHORT))
    schema = set(module("gpu_records").GpuRecord.__annotations__)
    assert all(set(record) == schema and record["failed"] is None and record["gpu_us"] > 0 for record in records)
    assert {(r["precision"], r["implementation"], r["launch"]) for r in records} == {
        (precision, name, launch)
        for precision in ("float32", "tf32", "bf16")
        for name in ("ours", "series", "neumann", "explicit")
        for launch in ("graph", "eager")
    }
    for record in records:
        narrow = record["precision"] == "bf16" and (record["implementation"] != "ours" or _library.cpu_bf16())
        # The loss and the worst entry of a gradient, of two blocks; float32 as GRADIENT_LIMIT allows.
        assert (1e-3 if narrow else 0.0) < record["error"] < (0.3 if narrow else 1e-3)
        assert record["case"] == "mnist flow"
        assert record["subject"] == "IResNetFlow, 1x8x8, 2 blocks, 6 channels"


def run_residual_flow(gpu_train_step, left):
    """Return the records of a residual flow's step for which so many seconds are left."""
    flow = residual_flow()
    trained = gpu_train_step.TrainedFlow("residual flow", flow, images(flow), 1e-3, ("explicit", "neumann"))
    return list(gpu_train_step.run(trained, 4, ("float32",), False, "cpu", least_seconds=SHORT, left=left))


def test_a_step_of_a_residual_flow_is_timed(module):
    records = run_residual_flow(module("gpu_train_step"), left=lambda: 1e6)
    assert {(r["implementation"], r["launch"]) for r in records} == {
        (name, launch) for name in ("ours", "neumann", "explicit") for launch in ("graph", "eager")
    }
    for record in records:
        assert record["failed"] is None
        assert record["gpu_us"] > 0
        assert 0.0 < record["error"] < 1e-3
        assert (record["case"], record["terms"]) == ("residual flow", 24)
        assert (
            record["subject"]
            == "ResidualFlow, 3x8x8, 4 blocks, 6 channels, roulette: in a graph baselines compute all its terms"
        )


def test_baselines_without_time_for_a_warm_up_are_left_out(module, monkeypatch):
    gpu_train_step = module("gpu_train_step")
    monkeypatch.setattr(gpu_train_step, "agreeing", lambda *_: pytest.fail("not even checked"))
    records = run_residual_flow(gpu_train_step, left=lambda: 2.0)
    assert {(r["implementation"], r["launch"]) for r in records if r["gpu_us"]} == {
        ("ours", "graph"),
        ("ours", "eager"),
    }
    assert [(r["implementation"], r["failed"]) for r in records if r["launch"] == "graph" and r["failed"]] == [
        (name, "TimeoutError: left out: its warm-up may take 8 s, 2 s were left") for name in ("explicit", "neumann")
    ]


def test_baselines_too_slow_for_the_time_that_is_left_are_left_out(module, monkeypatch):
    """The last is dropped first, and what was warmed up for nothing is told."""
    gpu_train_step, gpu_timing = module("gpu_train_step"), module("gpu_timing")
    monkeypatch.setattr(gpu_timing.Implementation, "seconds_to_time", lambda one, device: 10.0)
    records = run_residual_flow(gpu_train_step, left=lambda: 21.0)
    assert {r["implementation"] for r in records if r["gpu_us"]} == {"ours", "explicit"}
    assert {(r["implementation"], r["failed"]) for r in records if r["failed"]} == {
        ("neumann", "TimeoutError: left out: timing it with the others may take 30 s, 21 s were left")
    }


def test_a_peak_of_memory_that_cannot_be_known_leaves_the_times(module, monkeypatch):
    gpu_timing = module("gpu_timing")

    def peak_mib(step, device):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(gpu_timing, "peak_mib", peak_mib)
    records = run_residual_flow(module("gpu_train_step"), left=lambda: 1e6)
    assert len(records) == 6
    assert all(r["gpu_us"] > 0 and r["error"] and r["peak_mib"] is r["failed"] is None for r in records)
    assert "residual flow step" in module("report_gpu").full_table(records)


def test_the_slower_format_of_a_baseline_is_gone_when_the_next_is_built(module, monkeypatch):
    gpu_train_step, alive, at_the_start = module("gpu_train_step"), weakref.WeakSet(), {}
    right = gpu_train_step._Measurement._baseline

    def baseline(measurement, name, *form):
        if name not in at_the_start:
            at_the_start[name] = len(alive)
        made = right(measurement, name, *form)
        alive.add(made.launches["graph"])
        return made

    monkeypatch.setattr(gpu_train_step._Measurement, "_baseline", baseline)
    run_residual_flow(gpu_train_step, left=lambda: 1e6)
    assert at_the_start == {"explicit": 0, "neumann": 1}


def test_the_time_to_time_an_implementation_is_that_of_its_launches(module, monkeypatch):
    gpu_timing = module("gpu_timing")
    monkeypatch.setattr(gpu_timing, "quick_us", lambda step, device: step())
    one = gpu_timing.Implementation(launches={"graph": lambda: 2e6, "eager": lambda: 1e6})
    assert one.seconds_to_time("cpu") == 3.0 * module("graphs").READINGS


def test_a_baseline_that_computes_something_else_is_not_timed(module, flow, monkeypatch):
    gpu_train_step = module("gpu_train_step")
    agreeing = gpu_train_step.agreeing

    def disagreeing(flow, x, name):
        if name == "explicit":
            raise RuntimeError("explicit must compute what ours computes")
        return agreeing(flow, x, name)

    monkeypatch.setattr(gpu_train_step, "agreeing", disagreeing)
    trained = gpu_train_step.TrainedFlow("mnist flow", flow, images(flow))
    records = list(gpu_train_step.run(trained, 4, ("float32",), True, "cpu", least_seconds=SHORT))
    failed = {(r["implementation"], r["launch"]) for r in records if r["failed"]}
    assert failed == {(name, launch) for name in ("explicit", "compiled") for launch in ("graph", "eager")}
    assert {r["implementation"] for r in records if r["gpu_us"]} == {"ours", "series", "neumann"}


def test_the_inverse_and_the_spectral_norm_are_timed(module, monkeypatch):
    bench_inverse, bench_spectral_norm = module("bench_inverse"), module("bench_spectral_norm")
    case = module("gpu_cases").scaled(module("gpu_cases").GPU_CASES["mnist"], SCALE)
    monkeypatch.setattr(bench_spectral_norm, "BLOCKS", 2)
    with torch.no_grad():
        inverse = bench_inverse.gpu_records(case, "cpu", SHORT)
        norm = bench_spectral_norm.gpu_records("mnist", "cpu", SHORT)
    schema = set(module("gpu_records").GpuRecord.__annotations__)
    assert all(set(record) == schema and record["gpu_us"] > 0 for record in (*inverse, *norm))
    ways = [(record["implementation"], record["launch"]) for record in inverse]
    assert ways == [("ours", "eager"), ("ours", "graph"), ("plain", "eager")]  # plain torch waits in every iteration
    assert len(norm) == 4
    assert max(record["error"] for record in inverse) <= 2 * bench_inverse.TOLERANCE
    assert max(record["error"] for record in norm) <= 1e-5
