"""The first run on a GPU, tried without one: every step, and that it survives crashes, hangs and its own end."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iresnet_fast import _library

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROGRAM = BENCHMARKS / "gpu_first_run.py"


@pytest.fixture
def module(monkeypatch):
    """Import a module of benchmarks/ or of its steps by name, as its scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS / "gpu_steps"))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


# A step: measures one thing, then does what its last lines say.
MEASURES = "from step import Run\nrun = Run({name!r})\nrun.record('figures', value=7)\n"
ENDS = {
    "fine": "",
    "asks": "run.record('left', seconds=run.left(0.0))",
    "crashes": "import os; os.abort()",
    "raises": "raise SystemExit('raises: no such luck')",
    "hangs": "import subprocess; child = subprocess.Popen(['sleep', '600'])\n"
    "run.record('children', pid=child.pid)\nchild.wait()",
}


@pytest.fixture
def steps(module, tmp_path):
    """Steps that end as their names say, each given two seconds or, if it is to end by itself, a minute."""

    def make(*names):
        made = []
        for name in names:
            script = tmp_path / f"{name}.py"
            path = f"import sys; sys.path[:0] = [{str(BENCHMARKS / 'gpu_steps')!r}]\n"
            script.write_text(path + MEASURES.format(name=name) + ENDS[name])
            made.append(module("gpu_first_run").Step(name, 5.0 if name == "hangs" else 60.0, "a test", script))
        return made

    return make


def is_alive(pid):
    """Whether a process runs; a killed one that nobody waited for does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def figures(module, folder):
    return [(r["step"], r["value"]) for r in module("gpu_report").read(folder) if r["table"] == "figures"]


def test_the_parent_imports_no_torch():
    code = "import sys, gpu_first_run; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, check=True)


def test_all_limits_together_stay_below_500_seconds(module):
    run = module("gpu_first_run")
    assert sum(step.limit for step in run.STEPS) < 500
    assert all((BENCHMARKS / "gpu_steps" / f"{step.name}.py").is_file() for step in run.STEPS)


def test_without_a_card_one_sentence_says_so(tmp_path):
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a card")
    done = subprocess.run([sys.executable, PROGRAM, "--out", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("gpu_first_run: ")
    assert "--dry-run" in done.stderr
    assert not list(tmp_path.iterdir())


def test_unknown_steps_are_one_sentence(module, capsys):
    with pytest.raises(SystemExit):
        module("gpu_first_run").parse(["--steps", "smoke,tost"])
    assert "unknown 'tost'; there are env, smoke" in capsys.readouterr().err


def test_failing_steps_stop_nothing(module, steps, tmp_path):
    out = tmp_path / "out"
    states = module("gpu_first_run").run(steps("hangs", "crashes", "raises", "fine"), out, "a card", False)
    assert states == {"hangs": "timed out", "crashes": "failed", "raises": "failed", "fine": "ok"}
    assert figures(module, out) == [(name, 7) for name in states]
    records = module("gpu_report").read(out)
    assert {record["card"] for record in records} == {"a card"}
    (child,) = [record["pid"] for record in records if record["table"] == "children"]
    assert not is_alive(child)  # the whole group was killed
    report = (out / "report.md").read_text()
    assert "raises: no such luck" in report
    assert report.count("timed out") == 1


def test_the_time_of_a_step_counts_from_its_start(module, steps, tmp_path):
    """Not from when its imports are done: the parent would kill it seconds before it expects that."""
    out = tmp_path / "out"
    module("gpu_first_run").run(steps("asks"), out, "a card", False)
    (left,) = [record["seconds"] for record in module("gpu_report").read(out) if record["table"] == "left"]
    assert left < 59.99  # no interpreter starts within 10 ms


def test_what_a_step_leaves_of_its_time_goes_to_those_after_it(module, steps, tmp_path, capsys):
    out = tmp_path / "out"
    module("gpu_first_run").run(steps("fine", "asks"), out, "a card", False)
    records = module("gpu_report").read(out)
    (left,) = [record["seconds"] for record in records if record["table"] == "left"]
    used = sum(record["seconds"] for record in records if record["table"] == "endings")
    assert 120.0 - used - 1.0 < left < 120.0
    assert f"asks: a test (at most {120 - records[1]['seconds']:.0f} s)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["smoke", "times", "kernels", "steps"])
def test_without_cuda_kernels_nothing_is_called_ours(tmp_path, name):
    script = BENCHMARKS / f"gpu_steps/{name}.py"
    until = str(time.monotonic() + 60.0)
    command = [sys.executable, script, "--out", tmp_path, "--card", "a card", "--until", until]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS), "IRESNET_FAST_BACKEND": "reference"},
    )  # fmt: skip
    assert done.returncode == 1
    assert f"{name}: the CUDA kernels are unavailable: " in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_step_that_runs_again_replaces_its_results(module, steps, tmp_path):
    run, out = module("gpu_first_run").run, tmp_path / "out"
    run(steps("raises", "fine"), out, "a card", False)
    run(steps("fine"), out, "another card", False)
    records = module("gpu_report").read(out)
    assert [(r["step"], r["card"]) for r in records if r["table"] == "figures"] == [
        ("raises", "a card"), ("fine", "another card"),
    ]  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_measured_survives_the_end_of_the_parent(module, steps, tmp_path, how):
    out = tmp_path / "out"
    both = steps("fine", "hangs")
    code = (
        "import signal, sys; from pathlib import Path; import gpu_first_run as g\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        f"g.run([g.Step('fine', 60.0, '', Path({str(both[0].script)!r})),"
        f" g.Step('hangs', 60.0, '', Path({str(both[1].script)!r}))], Path({str(out)!r}), 'a card', False)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=BENCHMARKS, stdout=subprocess.DEVNULL)
    read = module("gpu_report").read
    wait_for(lambda: any(record["table"] == "children" for record in read(out)))
    parent.send_signal(how)
    parent.wait(30)
    assert figures(module, out) == [("fine", 7), ("hangs", 7)]
    assert "fine" in (out / "report.md").read_text()
    (child,) = [record["pid"] for record in read(out) if record["table"] == "children"]
    wait_for(lambda: not is_alive(child))  # nobody is left on the GPU


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_tool_out_of_time_leaves_nothing_behind(tmp_path):
    """The tool's own child holds the pipe, as the program on the GPU does."""
    tool = "echo checking; sleep 600 & echo $!; wait"
    code = f"from driver import output_within; print(output_within(['sh', '-c', {tool!r}], 1.0))"
    paths = os.pathsep.join([str(BENCHMARKS), str(BENCHMARKS / "gpu_steps")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    said, child, ending = done.stdout.split("\n", 2)
    assert (said, ending.strip()) == ("checking", "stopped after 1 s")
    wait_for(lambda: not is_alive(int(child)))


@pytest.mark.slow
def test_the_dry_run_does_every_step(module, tmp_path):
    command = [sys.executable, PROGRAM, "--dry-run", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"MAX_JOBS": "1"})
    log = (tmp_path / "out/log.txt").read_text()
    assert done.returncode == 0, done.stdout + log[-5000:]
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        "report.md", "results.jsonl", "log.txt", "env.txt", "pytest.xml", "simt.xml", "sanitizer.txt", "ncu.csv",
    }  # fmt: skip
    records = module("gpu_report").read(tmp_path / "out")
    assert {record["card"] for record in records if record["table"] != "times"} == {"CPU (dry run)"}
    measured = {record["step"] for record in records if record["table"] not in ("endings", "left out", "failures")}
    assert measured == {step.name for step in module("gpu_first_run").STEPS}
    summary = done.stdout[done.stdout.index("\nendings\n") :]
    assert len(summary.strip().splitlines()) <= 100
    fitted = {record["name"] for record in records if record.get("origin") == "fitted"}
    assert fitted >= {"launch_microseconds", "memory_bytes_per_cycle", "layered_slot_cycles", "layered_mma_cycles"}
    errors = [record for record in records if record["table"] == "errors"]
    assert {record["op"] for record in errors} >= {"branch", "branch_backward", "residual_inverse", "spectral_norm"}
    # Operands rounded to bfloat16: each of at most 15 products in a row, 5 terms of 3 maps, adds 2^-8 of its size.
    limits = {"bf16": 15 * 2.0**-8} if _library.cpu_bf16() else {}
    assert all(record["same_bits"] and record["error"] < limits.get(record["precision"], 1e-4) for record in errors)


def test_a_line_cut_off_by_a_kill_is_left_out(module, tmp_path):
    report = module("gpu_report")
    report.append(tmp_path, [{"step": "smoke", "table": "errors", "card": "a card", "error": 0.5}])
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('{"step": "smoke", "tab')
    assert len(report.read(tmp_path)) == 1
    report.append(tmp_path, [{"step": "smoke", "table": "errors", "card": "a card", "error": 0.25}])
    assert [record["error"] for record in report.read(tmp_path)] == [0.5, 0.25]


def test_times_are_compared_with_the_fastest_baseline(module):
    def record(implementation, us, failed=None):
        return {
            "case": "toy2d", "batch": 9, "mode": "eval", "precision": "tf32", "launch": "graph", "spread": 0.01,
            "implementation": implementation, "gpu_us": us, "host_us": 1.0, "error": 0.0, "failed": failed,
        }  # fmt: skip

    rows = [record("series", 90.0), record("ours", 20.0), record("explicit", 50.0), record("normflows", None, "no")]
    (line,) = module("gpu_report").compared(rows)
    assert (line["ratio"], line["best is"], line["spread"]) == (2.5, "explicit", 0.02)
    assert line["failed"] == "normflows: no"


def test_ours_is_compared_with_baselines_launched_in_another_way_too(module):
    def record(implementation, launch, us):
        return {
            "case": "residual flow", "batch": 9, "mode": "step", "precision": "tf32", "launch": launch, "spread": 0.01,
            "implementation": implementation, "gpu_us": us, "host_us": 1.0, "error": 0.0, "failed": None,
        }  # fmt: skip

    rows = [record("ours", "graph", 20.0), record("explicit", "graph", 120.0), record("ours", "eager", 25.0)]
    rows += [record("explicit", "eager", 60.0), record("neumann", "eager", 50.0)]
    other = record("explicit", "eager", 1.0) | {"precision": "float32"}
    graph, eager, _ = module("gpu_report").compared([*rows, other])
    assert (graph["ratio"], graph["ratio to any launch"]) == (6.0, 2.5)
    assert (eager["ratio"], eager["ratio to any launch"]) == (2.0, 2.0)


def test_the_summary_keeps_to_its_lines(module):
    records = [
        {"step": step, "table": "figures", "card": "a card", "value": i} for step in ("a", "b", "c") for i in range(80)
    ]
    text = module("gpu_report").summary(records, lines=40)
    assert len(text.splitlines()) <= 40
    assert text.count("more in report.md") == 3
