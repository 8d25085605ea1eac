"""README's table of what was measured on GPUs is made from the records, and from nothing else."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = "before\n<!-- gpu-table:begin -->\nold\n<!-- gpu-table:end -->\nafter\n"
CARD = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def module(monkeypatch):
    """Import a module of benchmarks/ by name, as its scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def record(**fields):
    """A made-up record: these figures were never measured."""
    return {
        "kind": "time", "measured": "2030-01-02T03:04:05+00:00", "card": CARD, "device": "cuda", "torch": "9.9.9",
        "case": "toy2d", "subject": "dense 2-128-128-128-2", "batch": 1000, "terms": 10, "mode": "eval",
        "precision": "float32", "implementation": "ours", "launch": "graph", "memory_format": "contiguous",
        "gpu_us": 50.0, "host_us": 5.0, "passes_us": [49.0, 51.0], "spread": 0.04, "peak_mib": 1.5, "error": 1e-7,
        "failed": None,
    } | fields  # fmt: skip


RECORDS = [
    record(),
    record(implementation="explicit", memory_format="channels_last", gpu_us=150.0, spread=0.02, error=2e-7),
    record(implementation="series", gpu_us=400.0),
    record(launch="eager", gpu_us=60.0),
    record(launch="eager", implementation="explicit", gpu_us=600.0),
    record(mode="train", gpu_us=100.0, error=3e-6),
    record(mode="train", implementation="compiled", gpu_us=104.0, error=4e-6),
    record(mode="step", case="mnist flow", subject="IResNetFlow", batch=32, gpu_us=2000.0, error=5e-6),
    record(mode="step", case="mnist flow", subject="IResNetFlow", batch=32, implementation="neumann", gpu_us=5000.0),
    record(
        mode="step", case="mnist flow", subject="IResNetFlow", batch=32, implementation="series", gpu_us=None,
        host_us=None, passes_us=None, spread=None, peak_mib=None, error=None, failed="OutOfMemoryError: no memory",
    ),
    record(device="cpu", card="a processor", case="tried without a GPU"),
    {"kind": "env", "driver": "1.2.3"},
]  # fmt: skip


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results" / "nvidia-h100-80gb-hbm3"
    folder.mkdir(parents=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in RECORDS))
    (tmp_path / "README.md").write_text(TEXT)
    return tmp_path


def rows(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_the_table_is_made_from_the_records(module, results, capsys):
    readme = results / "README.md"
    module("report").main(["--gpu", "--readme", str(readme), "--results", str(results / "results")])
    assert "the table of 10 records was written" in capsys.readouterr().out
    text = readme.read_text()
    assert text.startswith("before\n<!-- gpu-table:begin -->\n")
    assert text.endswith("\n<!-- gpu-table:end -->\nafter\n")
    assert "old" not in text
    table = rows(text)
    block = ["toy2d, batch 1000", "dense 2-128-128-128-2", CARD, "float32"]
    eval_cells = ["50", "3.00x ((iii) explicit*)", "10.00x", "1.0e-07 / 2.0e-07"]
    # 4 % faster, and both passes of both differ by 4 %: within the spread.
    train_cells = ["100", "[1.04x] ((iii) compiled)", "-", "3.0e-06 / 4.0e-06"]
    assert table[2] == block + eval_cells + train_cells
    assert table[5] == [
        "mnist flow, step, batch 32", "IResNetFlow", CARD, "float32", "2000", "2.50x ((ii) Neumann)", "-",
        "5.0e-06 / 1.0e-07",
    ]  # fmt: skip
    assert len(table) == 6
    assert "Largest spread 4.0%. Measured with torch 9.9.9, 2030-01-02." in text
    assert f"mnist flow step float32 on {CARD}: (i) series, graph, could not be timed: OutOfMemoryError" in text
    assert "tried without a GPU" not in text
    module("report_gpu").write_readme(readme, results / "results")
    assert readme.read_text() == text  # writing again changes nothing


def test_what_was_measured_again_replaces_what_was_measured_before(module, results):
    folder = results / "results" / "nvidia-h100-80gb-hbm3"
    newer = record(measured="2030-01-03T00:00:00+00:00", gpu_us=25.0)
    (folder / "bench_logdet.jsonl").write_text(json.dumps(newer) + "\n")
    (folder / "bench_logdet_quick.jsonl").write_text(json.dumps(record(gpu_us=1.0, measured="2031-01-01")) + "\n")
    module("report_gpu").write_readme(results / "README.md", results / "results")
    assert rows((results / "README.md").read_text())[2][4:6] == ["25", "6.00x ((iii) explicit*)"]


def test_two_cards_have_lines_of_their_own(module, results):
    folder = results / "results" / "nvidia-h200"
    folder.mkdir()
    lines = [record(card="NVIDIA H200", gpu_us=40.0), record(card="NVIDIA H200", implementation="series", gpu_us=80.0)]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    module("report_gpu").write_readme(results / "README.md", results / "results")
    table = rows((results / "README.md").read_text())
    assert [row[2] for row in table[2:4]] == [CARD, "NVIDIA H200"]
    assert table[3][4:6] == ["40", "2.00x ((i) series)"]


def test_without_results_nothing_was_measured(module, tmp_path):
    (tmp_path / "README.md").write_text(TEXT)
    assert module("report_gpu").write_readme(tmp_path / "README.md", tmp_path / "results") == 0
    assert (tmp_path / "README.md").read_text() == TEXT.replace("old", module("report_gpu").NOTHING)


def test_a_missing_marker_is_one_sentence(module, tmp_path):
    (tmp_path / "README.md").write_text("no table here\n")
    with pytest.raises(SystemExit, match="must have the lines <!-- gpu-table:begin --> and"):
        module("report").main(["--gpu", "--readme", str(tmp_path / "README.md"), "--results", str(tmp_path)])
    assert (tmp_path / "README.md").read_text() == "no table here\n"


def test_the_committed_readme_has_the_table_of_the_committed_results(module, tmp_path):
    text = (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text(text)
    module("report_gpu").write_readme(tmp_path / "README.md", ROOT / "benchmarks" / "results")
    assert (tmp_path / "README.md").read_text() == text


def test_the_table_of_the_terminal_has_host_times_spread_and_memory(module):
    text = module("report_gpu").full_table([r for r in RECORDS if r["kind"] == "time" and r["mode"] == "eval"])
    assert rows(text)[2] == [
        "toy2d eval", CARD, "float32", "50", "5", "60", "5", "150", "(iii) explicit*", "3.00x", "600", "10.00x",
        "4.0%", "1.0e-07", "2.0e-07", "1.5", "1.5",
    ]  # fmt: skip


def test_records_are_on_disk_as_they_come(module, tmp_path):
    path = tmp_path / "card" / "file.jsonl"
    records = module("gpu_records").write((record(batch=i) for i in range(2)), path)
    next(records)
    assert [json.loads(line)["batch"] for line in path.read_text().splitlines()] == [0]
    list(records)
    list(module("gpu_records").write([record(batch=7)], path))
    assert [r["batch"] for r in module("gpu_records").read(path.parent)] == [0, 1, 7]


def test_a_line_that_was_cut_off_is_one_sentence(module, results):
    path = results / "results" / "nvidia-h100-80gb-hbm3" / "results.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(SystemExit, match=r"report: .*results.jsonl, line 12, must be a JSON object, got"):
        module("report").main(["--gpu", "--readme", str(results / "README.md"), "--results", str(path.parents[1])])


def test_folders_are_named_after_cards(module):
    assert module("gpu_records").card_folder(CARD) == "nvidia-h100-80gb-hbm3"
