"""What the steps of the first run on a GPU make of what they measure and of what tools say."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from iresnet_fast.models import ResidualFlow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Import a module of benchmarks/ or of its steps by name, as its scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS / "gpu_steps"))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_the_fit_finds_known_constants_again(module):
    fitting = module("plan_fit")
    generator = np.random.default_rng(0)
    work, bytes_, waits = generator.uniform(1.0, 100.0, (3, 60))

    def model(c):
        return c["fixed"] * (np.maximum(c["cycles"] * work, bytes_ / c["rate"]) + c["latency"] * waits)

    truth = {"fixed": 2.0, "cycles": 3.0, "rate": 0.5, "latency": 1.2, "unused": 5.0}
    start = {"fixed": 2.0, "cycles": 1.5, "rate": 1.1, "latency": 0.4, "unused": 5.0}
    fitted = fitting.fit(model, model(truth), start, ["cycles", "rate", "latency", "unused"])
    assert fitted.constants == pytest.approx(truth, rel=1e-2)
    assert (fitted.constants["fixed"], fitted.constants["unused"]) == (2.0, 5.0)
    assert fitted.determined == fitted.moved == ["cycles", "rate", "latency"]
    assert fitted.finished


def alike(count):
    """A model of so many measurements in which two of the constants act alike and one on nothing."""
    work, waits = np.random.default_rng(0).uniform(1.0, 100.0, (2, count))
    return lambda c: c["cycles"] * work + (c["latency"] + c["other latency"]) * waits


def test_constants_are_determined_by_what_acts_alone(module):
    fitting, model = module("plan_fit"), alike(30)
    at = {"cycles": 3.0, "latency": 1.0, "other latency": 1.0, "unused": 5.0}
    assert fitting.determined(model, at, list(at), 0.02) == ["cycles"]
    assert fitting.determined(model, at, ["cycles", "latency", "unused"], 0.02) == ["cycles", "latency"]


def test_times_that_are_off_determine_less(module):
    fitting, model = module("plan_fit"), alike(30)
    at = {"cycles": 3.0, "latency": 0.05, "other latency": 0.0}
    assert fitting.determined(model, at, ["cycles", "latency"], 0.02) == ["cycles", "latency"]
    assert fitting.determined(model, at, ["cycles", "latency"], 0.3) == ["cycles"]


def test_of_two_that_act_alike_one_stays_and_neither_is_determined(module):
    model, start = alike(30), {"cycles": 3.0, "latency": 1.0, "other latency": 1.0, "unused": 5.0}
    fitted = module("plan_fit").fit(model, model(start | {"latency": 2.0}), start, list(start))
    (moved,) = {"latency", "other latency"} & set(fitted.moved)
    assert fitted.constants == pytest.approx(start | {moved: 2.0}, rel=1e-2)
    assert fitted.constants["unused"] == 5.0
    assert fitted.determined == ["cycles"]


def test_times_that_tell_nothing_move_nothing(module):
    start = {"unused": 5.0, "other": 1.0}
    fitted = module("plan_fit").fit(lambda c: np.array([1.0, 2.0]), np.array([3.0, 1.0]), start, list(start))
    assert fitted == (start, [], [], True)


def test_a_fit_that_is_out_of_time_tells_its_best_and_names_nothing(module):
    fit, model, start = module("plan_fit").fit, alike(30), {"cycles": 1.0, "latency": 1.0, "other latency": 1.0}
    times, free = model(start | {"cycles": 9.0}), ["cycles", "latency"]
    none, one = (
        fit(model, times, start, free, lambda: 0.0),
        fit(model, times, start, free, iter([1.0, 0.0, 0.0]).__next__),
    )
    assert none == (start, [], [], False)
    assert one[1:] == ([], [], False)
    worst = [np.abs(np.log(model(found.constants) / times)).max() for found in (none, one)]
    assert worst[1] < 0.5 * worst[0]


def test_choices_are_counted_by_group(module):
    within = module("plan_fit").within
    measured, groups = np.array([1.0, 1.04, 2.0, 3.0]), ["a", "a", "b", "b"]
    assert within(measured, np.array([2.0, 1.0, 1.0, 2.0]), groups, 0.05) == (2, 2)  # 4 % off, and the best
    assert within(measured, np.array([2.0, 1.0, 2.0, 1.0]), groups, 0.05) == (1, 2)


def test_a_group_of_one_is_no_choice(module):
    assert module("plan_fit").within(np.array([1.0, 2.0, 1.0]), np.array([9.0, 2.0, 1.0]), "abb", 0.05) == (1, 1)


def test_the_layered_way_is_judged_beside_resident_plans(module):
    """Where the model takes a resident plan and the layered way was faster, it chose wrong."""
    plans, calibrate = module("forced_plans"), module("calibrate")
    ways = [  # shape, layered, modelled, measured
        ("wrong", False, 10.0, 10.0), ("wrong", True, 20.0, 5.0),
        ("wrong among resident plans", False, 10.0, 10.0), ("wrong among resident plans", False, 12.0, 8.0),
        ("wrong among resident plans", True, 30.0, 40.0),
        ("wrong in both", False, 10.0, 10.0), ("wrong in both", False, 12.0, 8.0), ("wrong in both", True, 30.0, 9.0),
        ("right", False, 10.0, 10.0), ("right", True, 9.0, 9.0),
        ("only layered", True, 10.0, 99.0),
    ]  # fmt: skip
    forced = [
        plans.Forced(shape, "float32", plans.LAYERED if layered else plans.Choice(), "", None)
        for shape, layered, *_ in ways
    ]
    modelled, measured = (np.array([way[i] for way in ways]) for i in (2, 3))
    judged = calibrate.choices(forced, measured, modelled)
    assert (judged["choices"], judged["within_5_percent"]) == (4, 1)
    assert (judged["resident_or_layered"], judged["of_these_within_5_percent"]) == (4, 2)


def test_the_clock_is_the_one_measured_on_this_card(module, tmp_path):
    class Run:
        out, card = tmp_path, "a card"

    measured_clock, record = module("calibrate").measured_clock, {"step": "ceilings", "table": "ceilings"}
    assert measured_clock(Run) is None
    module("gpu_report").append(tmp_path, [
        {**record, "card": "a card", "name": "ffma", "value": 60.0},
        {**record, "card": "another card", "name": "clock", "value": 1000.0},
        {"step": "calibrate", "table": "row", "card": "a card", "text": "{}"},
    ])  # fmt: skip
    assert measured_clock(Run) is None
    module("gpu_report").append(tmp_path, [{**record, "card": "a card", "name": "clock", "value": 1830.0}])
    assert measured_clock(Run) == 1830.0


def test_what_the_tools_say_is_read(module):
    verdict = module("sanitizer").verdict
    assert verdict("gpu_driver: done\n========= ERROR SUMMARY: 0 errors\n")["errors"] == 0
    bad = (
        "========= COMPUTE-SANITIZER\n========= Invalid __global__ read of size 4 bytes\n=========     at kernel\n"
        "========= ERROR SUMMARY: 3 errors\n"
    )
    assert verdict(bad) == {"errors": 3, "first": "Invalid __global__ read of size 4 bytes"}
    races = "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n"
    assert verdict(races)["errors"] == 2
    assert verdict("dense-float32\nstopped after 9 s\n") == {"errors": None, "first": "stopped after 9 s"}
    text = (
        'layered-tf32\n==PROF== Connected\n"ID","Kernel Name","gpu__time_duration.sum","launch__registers"\n'
        '"","","ns",""\n"0","stage_product_kernel(Product<float>, 1)","8000","128"\n'
    )
    assert module("ncu").kernels(text) == [{"kernel": "stage_product_kernel(Product<float>, 1)", "ns": "8000"}]


def test_tests_are_counted_from_their_xml(module, tmp_path):
    class Run:
        def __init__(self):
            self.records = []

        def record(self, table, **measured):
            self.records.append((table, measured))

    xml = tmp_path / "pytest.xml"
    xml.write_text(
        "<testsuites><testsuite><testcase classname='a' name='one'/>"
        "<testcase classname='a' name='two'><failure message='error 2e-5&#10;limit 1e-5'>...</failure></testcase>"
        "<testcase classname='a' name='three'><skipped/></testcase></testsuite></testsuites>"
    )
    run = Run()
    module("pytest_run").record_xml(run, xml)
    assert run.records == [
        ("failures", {"test": "a::two", "message": "error 2e-5"}),
        ("counts", {"passed": 1, "failure": 1, "error": 0, "skipped": 1}),
    ]


def test_tests_that_wrote_no_xml_are_counted_from_the_log(module, tmp_path):
    class Run:
        def record(self, table, **measured):
            self.measured = measured

    run = Run()
    module("pytest_run").record_lines(
        run,
        b"[gw0] [ 10%] PASSED tests/test_cuda.py::test_one[FAILED] \ntests/test_cuda.py::test_two[a b] FAILED [ 20%]\n"
        b"[gw11] [100%] SKIPPED tests/test_cuda.py::test_three \ntests/test_cuda.py::test_four \n",
    )
    assert run.measured == {"passed": 1, "failure": 1, "error": 0, "skipped": 1, "counted": "in the log"}


def test_records_are_what_the_table_of_times_reads(module, tmp_path):
    """The lines of the step keep the fields of gpu_records.py beside their own."""
    fields = module("gpu_records").GpuRecord.__annotations__
    record = dict.fromkeys(fields) | {"kind": "time", "measured": "2026-01-01T00:00:00+00:00", "card": "a card"}
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"step": "env", "table": "builds", "card": "a card"}) + "\n")
    module("gpu_report").append(tmp_path, [{"step": "times", "table": "times", **record}])
    (read,) = module("gpu_records").read(tmp_path)
    assert {key: read[key] for key in fields} == record


def test_profiles_are_kept_call_by_call(module, monkeypatch, tmp_path):
    """There is time for one call: it is on disk, and the others are named."""
    ncu, records = module("ncu"), []

    class Run:
        out, dry, calls = tmp_path, False, 0

        def left(self):
            return 1.0 - self.calls

        def record(self, table, **measured):
            records.append((table, measured))

    run = Run()

    def output_of(run, tool, calls, seconds):
        run.calls += 1
        assert tool[tool.index("--launch-count") + 1] == "6"
        return ncu.SAMPLE

    monkeypatch.setattr(ncu, "Run", lambda step: run)
    monkeypatch.setattr(ncu, "find_tool", lambda name: name)
    monkeypatch.setattr(ncu, "output_of", output_of)
    ncu.main()
    assert records[0] == ("kernels", {"call": "norms", "kernel": "resident_chain", "ns": "41000"})
    assert records[1:] == [("left out", {"what": f"{call}: {kernel}"}) for call, kernel in ncu.JOBS[1:]]
    assert (tmp_path / "ncu.csv").read_text() == f"==== norms\n{ncu.SAMPLE}\n"


class StepsRun:
    """A run of the step `steps` for which so many seconds are always left."""

    device = "cpu"

    def __init__(self, seconds, dry=False):
        self.seconds, self.dry, self.records = seconds, dry, []

    def left(self):
        return self.seconds

    def need_kernels(self):
        pass

    def say(self, text):
        pass

    def record(self, table, **measured):
        self.records.append((table, measured))


def test_the_residual_flow_comes_after_all_that_takes_less(module):
    names = list(module("steps").jobs(StepsRun(50.0)))
    assert names[-2:] == ["training step, residual flow, tf32", "training step, residual flow, float32"]
    assert len(names) == 2 + 3 + 4 + 2


def test_steps_that_there_is_no_time_for_are_named_and_failures_stop_nothing(module, monkeypatch):
    steps = module("steps")
    run = StepsRun(0.5 * (steps.LEAST + steps.LEAST_OF_OURS))
    monkeypatch.setattr(steps, "Run", lambda name: run)
    monkeypatch.setattr(steps, "residual_flow", lambda device, dry: torch.empty(1 << 60))
    steps.main()
    assert [table for table, _ in run.records] == 9 * ["left out"] + 2 * ["failures"]
    assert run.records[0][1] == {"what": "spectral norm, cifar512"}
    assert run.records[-1][1]["what"] == "training step, residual flow, float32"
    assert run.records[-1][1]["message"].startswith("RuntimeError: ")


def test_the_dry_run_times_a_step_of_a_residual_flow(module, one_thread):
    _, job = module("steps").jobs(StepsRun(300.0, dry=True))["training step, residual flow, float32"]
    records = list(job())
    assert {(r["case"], r["failed"]) for r in records} == {("residual flow, 3 x 1 blocks", None)}
    ways = {(r["implementation"], r["launch"]) for r in records}
    assert ways == {(name, way) for name in ("ours", "neumann", "explicit") for way in ("graph", "eager")}


def test_short_of_time_the_stronger_baseline_of_the_residual_flow_stays(module, one_thread, monkeypatch):
    monkeypatch.setattr(module("gpu_timing").Implementation, "seconds_to_time", lambda one, device: 10.0)
    _, job = module("steps").jobs(StepsRun(21.0, dry=True))["training step, residual flow, float32"]
    assert {r["implementation"] for r in job() if r["gpu_us"]} == {"ours", "explicit"}


def test_without_time_for_baselines_the_step_of_ours_is_timed(module, one_thread):
    steps = module("steps")
    run = StepsRun(steps.LEAST_OF_OURS + 0.1, dry=True)
    _, job = steps.jobs(run)["training step, residual flow, float32"]
    assert {(r["implementation"], r["failed"] is None) for r in job()} == {
        ("ours", True), ("neumann", False), ("explicit", False),
    }  # fmt: skip


def test_the_readme_names_the_residual_flow_as_its_records_do(module, monkeypatch):
    """The whole model but for the number of blocks, which the name tells."""
    steps, presets = module("steps"), {}

    def preset(name, **changes):
        presets[name] = changes
        return ResidualFlow(
            ResidualFlow.preset_config("cifar10", event_shape=(3, 8, 8), hidden=(4, 4), fc_hidden=(4, 4))
        )

    monkeypatch.setattr(steps.ResidualFlow, "preset", preset)
    trained = steps.residual_flow("cpu", dry=False)
    assert presets == {"cifar10": {"blocks": (steps.RESIDUAL_BLOCKS,) * 3}}
    assert len(trained.images) == 2 * 64
    assert trained.images.dtype == torch.uint8
    assert f"`{trained.case}`" in (BENCHMARKS / "README.md").read_text()
