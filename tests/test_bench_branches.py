"""The benchmark of branches runs, writes what it promises and compares like with like; no speed is tested here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(*arguments):
    command = [sys.executable, str(BENCHMARKS / "bench_branches.py"), "--threads", "1", "--seconds", "0", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_the_program_writes_table_and_json(module, tmp_path):
    done = run("--quick", "--output", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    # A selection never replaces the published figures.
    assert {path.name for path in (tmp_path / "new").iterdir()} == {f"bench_branches_quick.{s}" for s in ("json", "md")}
    assert (tmp_path / "new" / "bench_branches_quick.md").read_text().strip() in done.stdout
    records = json.loads((tmp_path / "new" / "bench_branches_quick.json").read_text())
    quick = module("bench_branches").QUICK
    assert [(record["row"], record["mode"]) for record in records] == [(q, m) for q in quick for m in ("eval", "train")]
    for record in records:
        assert record["threads"] == 1
        assert record["small"]
        assert record["ours_ms"] > 0
        assert set(record["errors"]) == {"ours", *record["baselines"]}
    forms = {record["row"]: set(record["baselines"]) for record in records}
    assert forms == {
        "context 16": {"twin", "explicit"},
        "10 nodes": {"twin", "explicit", "by hand"},
        "maxmin 5": {"twin", "by hand"},
    }


def test_every_row_is_built_and_agrees(module):
    """All implementations give the value and the gradients of the twin in float64, ours as closely as the twin."""
    bench, cases = module("bench_branches"), module("branch_cases")
    torch.set_num_threads(1)
    for case in cases.CASES.values():
        problem = cases.build(case)
        if cases.multiply_adds(problem) > cases.SMALL:
            continue
        for mode in bench.MODES:
            errors = bench.errors(problem, mode)
            # The largest of several relative errors: below two roundings in the last digits, twice may be luck.
            assert errors["ours"] <= 2.0 * max(errors["twin"], 8.0 * torch.finfo(torch.float32).eps), (case.name, mode)


def test_another_formula_is_refused(module, monkeypatch):
    bench, cases = module("bench_branches"), module("branch_cases")
    steps = bench.steps_of

    def wrong(problem, mode):
        found = steps(problem, mode)
        if problem.x.dtype == torch.float32:
            found["ours"] = lambda ours=found["ours"]: tuple(1.001 * t for t in ours())
        return found

    monkeypatch.setattr(bench, "steps_of", wrong)
    with pytest.raises(ValueError, match=r"ours must agree with the twin in float64 to 0\.0001, got "):
        bench.errors(cases.build(cases.CASES["maxmin 5"]), "train")


def test_leaves_are_what_is_learnt(module):
    cases = module("branch_cases")
    problem = cases.build(cases.CASES["10 nodes"])
    assert [tuple(t.shape) for t in problem.leaves] == [(64, 10), (100, 10), (10, 100), (100,), (10,)]
    assert not problem.weights[2].requires_grad  # the identity before the mask
    assert not problem.factors[2].requires_grad
    assert set(problem.factors[2].unique().tolist()) == {0.0, 1.0}
    problem = cases.build(cases.CASES["context 50"])
    assert any(bias is not None and bias.shape == (128, 64) and bias.requires_grad for bias in problem.biases)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--rows", "imagenet"), "no row has 'imagenet' in its name; the rows are context 16, context 50"),
        (("--threads", "0"), "threads must be positive, got 0"),
    ],
)
def test_errors_are_sentences(module, capsys, arguments, fragment):
    with pytest.raises(SystemExit):
        module("bench_branches").parse(arguments)
    assert fragment in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "published"),
    [
        ((), True),
        (("--seconds", "9"), True),
        (("--quick",), False),
        (("--rows", "max"), False),
        (("--threads", "1"), False),
    ],
)
def test_only_a_run_of_everything_is_published(module, arguments, published):
    assert module("bench_branches").parse(arguments).published is published


def record_of(**changes):
    record = {
        "row": "a", "group": "configuration", "branch": "dense 2-2", "batch": 4, "mode": "train", "small": True,
        "ours_ms": 1.0, "baselines": {"twin": 4.0, "explicit": 1.5, "by hand": 1.2}, "errors": {"ours": 1e-7},
        "processor": "P", "threads": 2, "isa": "avx2", "dtype": "float32", "torch": "2", "date": "today",
        "backend": "kernels",
    }  # fmt: skip
    return {**record, **changes}


def test_missed_targets_are_named(module):
    missed = module("report_branches").missed
    assert missed(record_of()) == []
    assert missed(record_of(ours_ms=1.5)) == ["2.67x the twin, not 3x", "0.80x by hand"]
    assert missed(record_of(ours_ms=1.22, small=False)) == []  # 0.98: what noise makes of 1
    assert missed(record_of(ours_ms=1.5, mode="eval")) == ["0.80x by hand"]


def test_the_readme_gets_rows_of_branches_but_not_of_activations(module, tmp_path):
    report = module("report_branches")
    records = [record_of(row=row, group=group, mode=mode) for row, group in (("a", "kind"), ("elu", "activation"))
               for mode in ("eval", "train")]  # fmt: skip
    (tmp_path / "bench_branches.json").write_text(json.dumps(records))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    assert report.write_readme(readme, tmp_path) == 4
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n|")
    (row,) = [line for line in text.splitlines() if line.startswith("| a ")]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "a", "dense 2-2", "4", "1", "4.0x", "1.20x*", "1", "4.0x", "1.20x*",
    ]  # fmt: skip
    assert "elu" not in text
    assert "Measured on P, 2 threads, avx2, float32, torch 2, today; ours: kernels." in text
    assert report.readme_block([]) == "Not measured yet."
