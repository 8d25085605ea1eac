"""What a run writes down and shows while it goes on."""

import csv
import re
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_examples import make_config, make_data, make_model

from iresnet_fast import training
from iresnet_fast.training import progress

pytestmark = pytest.mark.usefixtures("one_thread")


def run(folder, kind="plane", **changes):
    data = make_data("plane" if kind == "plane" else "images")
    return training.fit(make_model(kind), data, make_config(**changes), folder, show_progress=False)


@pytest.mark.parametrize("kind", ["plane", "hybrid"])
def test_the_log_is_the_history(kind, tmp_path):
    done = run(tmp_path, kind, eval_steps=5, log_steps=3)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = ["test_nats"] if kind == "plane" else ["test_bits_per_dim", "test_error_percent"]
    assert list(rows[0]) == [
        *(
            "step",
            "epoch",
            "minutes",
            "loss",
            "grad_norm",
            "learning_rate",
            "samples_per_second",
            "lipschitz",
            "worst_norm",
            "unsettled_norms",
        ),
        *metrics,
    ]
    assert [int(row["step"]) for row in rows] == [3, 5, 6, 9, 10, 12]
    assert [bool(row[metrics[0]]) for row in rows] == [False, True, False, False, True, True]
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in done.history] == rows
    assert [row["learning_rate"] for row in done.history[:2]] == pytest.approx([0.01, 0.01])

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    for name in ("loss", "lipschitz", metrics[0]):
        events = [(event.step, event.value) for event in board.Scalars(name)]
        assert events == [(row["step"], pytest.approx(row[name])) for row in done.history if row[name] is not None]
    assert [image.step for image in board.Images("samples")] == [5, 10, 12]


def test_a_row_has_the_means_of_the_steps_before(tmp_path):
    single = [row["loss"] for row in run(tmp_path / "1", log_steps=1).history]
    for row in run(tmp_path / "4", log_steps=4, eval_steps=6).history:
        last = single[max(row["step"] - 4, 0) : row["step"]]
        assert row["loss"] == pytest.approx(sum(last) / len(last), rel=1e-6)


def test_lines_without_a_terminal(tmp_path, capsys):
    training.fit(make_model(), make_data(), make_config(eval_steps=2), tmp_path)
    first, last = capsys.readouterr().out.splitlines()  # those in between come within ten seconds
    number = r"[\d.e+-]+"
    assert re.fullmatch(
        rf"step 2, loss {number}, nats {number} \(test\), Lipschitz 0\.\d{{4}}, \d+/s, 0:0\d:\d\d left", first
    )
    assert re.fullmatch(rf"step 12, loss {number}, nats {number} \(test\), Lipschitz 0\.\d{{4}}, \d+/s", last)
    training.fit(make_model(), make_data(), make_config(), tmp_path / "2", show_progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    training.fit(make_model("classifier"), make_data("images"), make_config(), tmp_path)
    shown = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", capsys.readouterr().out)
    assert re.search(r"100% step 12, loss \S+, error percent \S+ \(test\), Lipschitz 0\.\d+, \d+/s", shown)


def test_time_left():
    assert progress._left(0.25, 10.0) == ", 0:30:00 left"
    assert progress._left(0.5, 61.5) == ", 1:01:30 left"
    assert progress._left(1.0, 3.0) == progress._left(0.0, 0.0) == ""


def test_importing_the_package_stays_light():
    heavy = "('rich', 'tensorboard', 'matplotlib', 'sklearn', 'scipy', 'safetensors')"
    script = f"import sys, iresnet_fast.training; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
