"""The benchmarks run, write what they promise, count right and compare like with like; no speed is tested here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from iresnet_fast import _library

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROMISED = {
    "case", "mode", "ours_ms", "baselines", "gflops", "sgemm_peak_gflops", "peak_mib", "error", "baseline_error",
    "threads", "isa", "torch", "date", "processor",
}  # fmt: skip
ISSUED_FLOORS = {
    "toy2d": (2.2, 6, 1.5),
    "tabular": (2, 5, 1.25),
    "mnist": (5, 11, 3.5),
    "cifar128": (2, 4, 1.6),
    "cifar512": (1.5, 2.8, 1.3),
    "deep512": (1.0, 2, 1.1),
}


def run(*arguments, environment=None):
    command = [sys.executable, str(BENCHMARKS / "bench_logdet.py"), *arguments]
    env = {**os.environ, **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=env)


def test_the_program_writes_table_json_and_plot(tmp_path):
    selection = ("--quick", "--cases", "toy2d", "--terms", "2", "--threads", "1", "--seconds", "0")
    done = run(*selection, "--output", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    assert "| toy2d" in done.stdout
    assert "100%" in done.stderr
    # A selection never replaces the published figures.
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"bench_logdet_quick.json", "bench_logdet_quick.png"}
    assert (tmp_path / "new" / "bench_logdet_quick.png").read_bytes().startswith(b"\x89PNG")
    records = json.loads((tmp_path / "new" / "bench_logdet_quick.json").read_text())
    assert [(record["case"], record["mode"]) for record in records] == [("toy2d", "eval"), ("toy2d", "train")]
    for record in records:
        assert set(record) >= PROMISED
        assert (record["terms"], record["threads"]) == (2, 1)
        assert record["ours_ms"] > 0
        assert record["gflops"] > 0
        assert record["sgemm_best_gflops"] >= record["sgemm_peak_gflops"] > 0
        assert record["torch"] == torch.__version__
        assert record["processor"]
        # Same probe, same terms: what two right answers differ by is rounding, here of about 1e-6 of one nat.
        assert record["error"] == pytest.approx(record["baseline_error"], abs=1e-6)
        assert record["rounding_error"] < 1e-6
        assert record["gradient_error"] < 1e-5
        if Path("/proc/self/clear_refs").exists():
            assert 0 < record["peak_mib"] < record["baselines_peak_mib"]["series"]
    assert set(records[0]["baselines"]) == {"series", "explicit", "normflows"}
    assert set(records[1]["baselines"]) == {"series", "neumann", "explicit", "normflows", "normflows_basic"}


def test_bfloat16_beside_float32():
    """Where the processor has the products, the ratio and both errors; elsewhere a sentence."""
    selection = ("--precision", "bf16", "--cases", "mnist", "--terms", "2", "--threads", "1", "--seconds", "0")
    for isa in _library.cpu_isas():
        _library.set_cpu_isa(isa)
        done = run(*selection, environment={"IRESNET_FAST_CPU_ISA": isa})
        if not _library.cpu_bf16():
            assert done.returncode == 2
            assert "--precision bf16 needs a CPU with AVX512-BF16 or --device cuda; " in done.stderr
            assert f"the instruction set in use is {isa}." in done.stderr
            continue
        assert done.returncode == 0, done.stderr
        rows = [line.strip("| ").split("|") for line in done.stdout.splitlines() if line.startswith("| mnist")]
        assert [row[1].strip() for row in rows] == ["eval", "train"]
        for row in rows:
            plain, narrow, ratio, *errors = (float(cell.strip(" x")) for cell in row[3:])
            assert ratio == pytest.approx(plain / narrow, abs=0.01 + 0.01 * plain / narrow)
            assert errors[0] < 1e-5 < errors[1] < 1e-2


# Makes Python find these modules nowhere, as if they were not installed.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {modules} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def run_without(folder, *modules, arguments):
    """Run the benchmark where these modules cannot be imported; sitecustomize is loaded by every Python there."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT.format(modules=set(modules)))
    return run(*arguments, environment={"PYTHONPATH": str(folder)})


def test_without_what_only_some_rows_need(tmp_path):
    output = tmp_path / "new"
    done = run_without(
        tmp_path / "path", "normflows", "tqdm", "sklearn",
        arguments=("--terms", "2", "--threads", "1", "--seconds", "0", "--output", str(output)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    left_out = [line for line in done.stdout.splitlines() if line.startswith("left out: ")]
    assert left_out == [
        *(f"left out: case {name}: the module sklearn is missing" for name in ISSUED_FLOORS if name != "toy2d"),
        "left out: normflows' block: the module normflows is missing",
    ]
    records = json.loads((output / "bench_logdet_quick.json").read_text())
    assert [(record["case"], record["mode"]) for record in records] == [("toy2d", "eval"), ("toy2d", "train")]
    assert set(records[1]["baselines"]) >= {"series", "neumann", "explicit"}
    assert not {"normflows", "normflows_basic"} & {*records[0]["baselines"], *records[1]["baselines"]}


def test_without_any_case_is_one_sentence(tmp_path):
    done = run_without(tmp_path / "path", "sklearn", arguments=("--cases", "tabular"))
    assert done.returncode == 2
    assert "nothing is left to measure; case tabular: the module sklearn is missing." in done.stderr


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--cases", "toy2d,imagenet"), "unknown case 'imagenet'; the cases are toy2d, tabular, mnist"),
        (("--terms", "0"), "expected a positive whole number, got '0'"),
        (("--quick", "--full"), "not allowed with"),
    ],
)
def test_errors_are_sentences(module, capsys, arguments, fragment):
    with pytest.raises(SystemExit):
        module("bench_logdet").parse(arguments)
    assert fragment in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_one_sentence(module, capsys):
    with pytest.raises(SystemExit):
        module("bench_logdet").parse(["--device", "cuda"])
    assert "--device cuda needs a GPU that torch can use; this torch is " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "published"),
    [
        ((), True),
        (("--full",), True),
        (("--seconds", "20"), True),
        (("--quick",), False),
        (("--cases", "toy2d"), False),
        (("--terms", "5"), False),
        (("--threads", "1"), False),
    ],
)
def test_only_a_run_of_everything_is_published(module, arguments, published):
    assert module("bench_logdet").parse(arguments).published is published


def test_every_case_has_the_agreed_sizes_and_floors(module):
    cases = module("cases").CASES
    assert {
        name: (case.floors.eval_series, case.floors.train_series, case.floors.train_best)
        for name, case in cases.items()
    } == ISSUED_FLOORS
    assert {name for name, case in cases.items() if case.floors.eval_share == 0.65} == {"mnist", "cifar128", "cifar512"}
    assert {name: (case.batch, case.terms) for name, case in cases.items()} == {
        "toy2d": (1000, 10), "tabular": (1024, 10), "mnist": (128, 10), "cifar128": (32, 5), "cifar512": (16, 5),
        "deep512": (16, 5),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["toy2d", "tabular", "mnist", "deep512"])
def test_problems_are_reproducible_and_normalised(module, name):
    cases = module("cases")
    case = cases.CASES[name]
    problem, again = cases.build(case), cases.build(case)
    event = (case.widths[0], *(case.image or ()))
    assert problem.x.shape == (case.batch, *event)
    assert problem.x.std() == pytest.approx(0.6, abs=0.45)
    assert len({row.numpy().tobytes() for row in problem.x}) == case.batch
    torch.testing.assert_close((again.x, again.weights, again.probe), (problem.x, problem.weights, problem.probe))
    assert (problem.probe.abs() == 1).all()
    if case.kernels is None:
        # The iteration stops at a relative change of 1e-6 in sigma, which is from below by more than that.
        norms = torch.tensor([torch.linalg.matrix_norm(weight, 2) for weight in problem.weights])
        torch.testing.assert_close(norms, torch.full_like(norms, cases.COEFF), rtol=1e-3, atol=0.0)


def test_operations_are_counted_per_multiply_add(module):
    cases = module("cases")
    # 3x3 from 4 to 32, 1x1 from 32 to 32, 3x3 from 32 to 4 channels on 14x14 pixels, 128 samples.
    problem = cases.build(cases.CASES["mnist"])
    stages = [2 * 9 * 4 * 32 * 196 * 128, 2 * 32 * 32 * 196 * 128, 2 * 9 * 32 * 4 * 196 * 128]
    assert cases.stage_flops(problem) == stages
    assert cases.step_flops(problem, "eval") == 11 * sum(stages)
    assert cases.step_flops(problem, "train") == 15 * sum(stages) - stages[0]


@pytest.mark.parametrize("name", ["toy2d", "mnist"])
def test_all_implementations_do_the_same_job(module, name):
    baselines, cases = module("baselines"), module("cases")
    torch.set_num_threads(1)  # a busy machine then costs little
    problem = cases.build(cases.CASES[name], terms=3).head(5)
    expected = {mode: baselines.make_step("series", problem.to(torch.float64), mode)() for mode in baselines.MODES}
    expected["train"] = baselines.make_step("neumann", problem.to(torch.float64), "train")()
    for mode in baselines.MODES:
        for implementation in baselines.names(mode, compiled=False):
            for memory_format in baselines.memory_formats(implementation, problem):
                step = baselines.make_step(implementation, problem.to(memory_format=memory_format), mode)
                result = step()
                assert [t.shape for t in result] == [t.shape for t in expected[mode]]
                assert not any(t.requires_grad for t in result)
                if mode == "train" and implementation in ("series", "normflows", "normflows_basic"):
                    continue  # the gradient of the series; the gradient of another probe
                for ours, truth in zip(result, expected[mode], strict=True):
                    # A hundred roundings of float32 in the scale of the tensor, for sums of some thousand products.
                    torch.testing.assert_close(ours.double(), truth, rtol=0.0, atol=1e-5 * truth.abs().max().item())


def test_implementations_of_a_mode(module):
    baselines = module("baselines")
    assert baselines.names("eval", compiled=True) == ["ours", "series", "explicit", "compiled", "normflows"]
    assert baselines.names("train", compiled=False) == [
        "ours", "series", "neumann", "explicit", "normflows", "normflows_basic",
    ]  # fmt: skip


def test_interleaving_takes_turns(module):
    timing, calls, shares = module("timing"), [], []
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    samples = timing.interleave(steps, seconds=0.0, rounds=4, slice_seconds=0.0, progress=shares.append)
    assert "".join(calls) == "abc" * 4
    assert {name: len(values) for name, values in samples.items()} == {"a": 4, "b": 4, "c": 4}
    assert shares == [0.25, 0.5, 0.75, 1.0]
    assert timing.medians({"a": [3.0, 1.0, 2.0], "b": [1.0]}) == {"a": 2.0, "b": 1.0}


def test_short_steps_run_a_whole_slice_per_round(module):
    timing = module("timing")
    samples = timing.interleave({"short": lambda: None}, seconds=0.0, rounds=2, slice_seconds=0.001)
    assert len(samples["short"]) > 2
    assert sum(samples["short"]) >= 0.002


def test_verdicts_name_the_floor(module):
    report = module("report")
    assert report.verdict(2.0, None, "2.00x") == "2.00x"
    assert report.verdict(2.0, 1.5, "2.00x") == "2.00x (>= 1.5x: met)"
    assert report.verdict(0.6, 0.65, "60%") == "60% (>= 65%: MISSED)"
