"""The benchmark of exact terms runs and writes what it promises; no speed is tested here."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(*arguments):
    command = [sys.executable, str(BENCHMARKS / "bench_exact_terms.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_the_program_writes_table_and_json(module, tmp_path):
    done = run("--quick", "--threads", "1", "--output", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    # A try never replaces the published figures.
    files = {path.suffix: path for path in (tmp_path / "new").iterdir()}
    assert {path.stem for path in files.values()} == {"bench_exact_terms_quick"}
    assert files[".md"].read_text().strip() in done.stdout
    bench = module("bench_exact_terms")
    records = json.loads(files[".json"].read_text())
    assert [(r["flow"], r["mode"]) for r in records] == [(row.name, mode) for row in bench.ROWS for mode in bench.TERMS]
    for record in records:
        assert record["turns"] == bench.QUICK_TURNS
        assert record["threads"] == 1
        assert record["without_ms"] > 0
        assert set(record["ratios"]) == {str(terms) for terms in bench.TERMS[record["mode"]]} - {"0"}
        assert all(ratio["ratio"] > 0 and ratio["error"] >= 0 for ratio in record["ratios"].values())


def test_threads_must_be_positive():
    done = run("--threads", "0")
    assert done.returncode == 2
    assert "--threads must be positive, got 0; leave it out" in done.stderr


def test_the_published_figures_are_the_table(module):
    bench = module("bench_exact_terms")
    records = json.loads((bench.RESULTS / "bench_exact_terms.json").read_text())
    assert bench.report(records) == (bench.RESULTS / "bench_exact_terms.md").read_text().strip()
