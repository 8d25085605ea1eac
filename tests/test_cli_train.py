"""train as an analyst tries it: small tables, no options, twice, with a question for help."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from iresnet_fast import training
from iresnet_fast.cli import _plan, main
from iresnet_fast.cli import train as train_command
from iresnet_fast.training import recipes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A small table in the working directory."""
    monkeypatch.chdir(tmp_path)
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).tolist()
    path = tmp_path / "small.csv"
    path.write_text("a,b,c\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


TINY = ["train", "--data", "small.csv", "--set", "blocks=[1]", "--max-steps", "2", "--quiet", "--threads", "1"]


def test_a_small_table_with_nothing_but_a_budget(table, capsys):
    assert main(["train", "--data", "small.csv", "--max-steps", "2", "--quiet", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sizes = recipes.table_sizes(54, 3)
    assert lines[1] == f"sizes: {sizes.reason}"
    config = training.read_metadata("runs/small-flow")["train_config"]
    assert config["batch_size"] == sizes.batch_size <= 54
    (line,) = [line for line in lines if line.startswith("baseline: ")]
    by = r"(better|worse) than a full-covariance Gaussian by \d+\.\d\d \+- \d+\.\d\d nats"
    assert re.search(rf"the model is ({by}|level with a full-covariance Gaussian) on the test samples", line)
    assert any(line.startswith("kept: the model of step ") for line in lines)


@pytest.mark.parametrize("extra", [["--batch-size", "8"], ["--preset", "tabular"], ["--set", "hidden=[8]"]])
def test_who_chooses_a_size_is_not_told_another(extra, table, capsys):
    assert main(["train", "--data", "small.csv", "--max-steps", "1", "--quiet", "--threads", "1", *extra]) == 0
    assert "sizes:" not in capsys.readouterr().out


def test_the_batches_of_a_recipe_are_no_larger_than_what_is_left(table):
    assert main([*TINY, "--preset", "tabular", "--validation", "0.5", "--folder", "run"]) == 0
    assert training.read_metadata("run")["train_config"]["batch_size"] == 27


def test_a_second_run_gets_a_folder_of_its_own(table, capsys):
    assert main(TINY) == main(TINY) == 0
    out = capsys.readouterr().out
    assert "folder: runs/small-flow-2, since runs/small-flow is there; --resume goes on with the newest\n" in out
    assert sorted(os.listdir("runs")) == ["small-flow", "small-flow-2"]
    assert main([*TINY[:-5], "--max-steps", "3", "--quiet", "--threads", "1", "--resume"]) == 0
    steps = [training.checkpoint.paths(table.parent / "runs" / name) for name in ("small-flow", "small-flow-2")]
    assert [path[0].name[-20:-12] for path in steps] == ["00000002", "00000003"]


def test_a_folder_that_is_given_is_not_written_over(table, capsys):
    assert main([*TINY, "--folder", "run"]) == 0
    assert main([*TINY, "--folder", "run"]) == 2
    said = capsys.readouterr().err
    assert "pass --resume, or another --folder" in said
    assert "resume=True" not in said
    assert f"such as {table.parent}/run-2, begins a new one" in said


def test_the_end_for_want_of_patience_is_said_without_progress_too(table, capsys):
    arguments = ["--max-steps", "40", "--validation", "0.2", "--patience", "1", "--learning-rate", "0.9"]
    assert main([*TINY, *arguments, "--config", written(table)]) == 0
    assert re.search(
        r"no better validation nats for 1 evaluation: training ends after step \d+;", capsys.readouterr().out
    )


def written(table):
    """A run.yaml with evaluations after every step, for which there is no option."""
    assert main([*TINY, "--folder", "first"]) == 0
    path = table.parent / "first" / "run.yaml"
    path.write_text(path.read_text().replace("eval_steps: null", "eval_steps: 1"))
    return str(path)


def test_patience_of_a_recipe_goes_with_its_validation(table):
    assert main([*TINY, "--validation", "0", "--folder", "run"]) == 0
    config = training.read_metadata("run")["train_config"]
    assert (config["validation"], config["patience"]) == (0.0, None)


def test_a_text_needs_no_quotes(table):
    assert main([*TINY, "--set", "activation=lipswish", "--folder", "run"]) == 0
    assert training.read_metadata("run")["model_config"]["activation"] == "lipswish"


def test_help_has_the_recipes(capsys, table):
    assert main(["train", "--help"]) == 0
    general = capsys.readouterr().out
    assert "(default: that of the recipe)" in " ".join(general.split())
    assert re.search(r"^  residual_flow +toy +500 +adam +0.001 +50000 steps$", general, re.MULTILINE)
    assert main(["train", "--data", "digits", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--batch-size N samples of a backward pass, over all processes together (for digits: 64)" in text
    assert "(for digits: 0.005)" in text
    assert "that of the recipe)" not in text
    assert main(["train", "--help", "--data", "small.csv"]) == 0
    assert f"sizes: {recipes.table_sizes(54, 3).reason}" in capsys.readouterr().out
    assert not (table.parent / "runs").exists()


def test_class_weights(tmp_path, capsys):
    small = ["--set", "blocks=[1,1]", "--set", "hidden=[4,4]", "--max-steps", "1", "--quiet"]
    arguments = ["train", "--model", "classifier", *small]
    for name, given, kept in (
        ("a", "balanced", "balanced"),
        ("b", ",".join("1234567891"), [1, 2, 3, 4, 5, 6, 7, 8, 9, 1]),
    ):
        assert main([*arguments, "--class-weights", given, "--folder", str(tmp_path / name)]) == 0
        assert training.read_metadata(tmp_path / name)["train_config"]["class_weights"] == kept
    assert main([*arguments, "--class-weights", "1,2", "--folder", str(tmp_path / "c")]) == 2
    assert "--class-weights must hold 10 numbers, one for each class, got 2" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_a_warning_of_the_package_is_one_line(table, monkeypatch, capfd):
    planned = _plan.load_data

    def warned(*arguments):
        warnings.warn("iresnet_fast: two rows\nwere dropped.", RuntimeWarning, stacklevel=2)
        warnings.warn("of another package", UserWarning, stacklevel=2)
        return planned(*arguments)

    monkeypatch.setattr(_plan, "load_data", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "_showwarnmsg_impl", shown, raising=True)
        before = warnings.formatwarning
        assert main([*TINY, "--folder", "run"]) == 0
        assert warnings.formatwarning is before
    lines = capfd.readouterr().err.splitlines()
    assert "iresnet-fast: two rows were dropped." in lines
    assert any(
        re.search(r"test_cli_train.py:\d+: UserWarning: of another package|_plan.py:\d+: UserWarning", x) for x in lines
    )


def shown(message):
    """What Python does with a warning that nobody records: pytest records all of them."""
    text = warnings.formatwarning(message.message, message.category, message.filename, message.lineno, message.line)
    sys.stderr.write(text)


def test_a_name_that_was_taken_meanwhile_is_left_to_the_run_that_took_it(table, monkeypatch, capsys):
    planned = train_command.plan
    taken = []

    def late(options):
        plan = planned(options)
        plan.folder.mkdir(parents=True)  # as another process does between the choice of a name and its use
        taken.append(plan.folder)
        return plan

    monkeypatch.setattr(train_command, "plan", late)
    assert main(TINY) == 0
    assert list(taken[0].iterdir()) == []
    assert (taken[0].with_name(f"{taken[0].name}-2") / "model.safetensors").exists()
    assert "since another run has just begun" in capsys.readouterr().out


def test_help_of_data_with_a_percent_sign_in_the_name(table, capsys):
    path = table.with_name("50%d.csv")
    path.write_bytes(table.read_bytes())
    assert main(["train", "--data", str(path), "--help"]) == 0
    assert "50%d.csv: " in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("activaton=elu", "did you mean 'activation'?"),
        ("blocks=4", "write e.g. --set blocks=["),
        ("eval_estimator=Exact", '"type": "PowerSeries"'),
        ('solver={"type": "Exact"}', "must be an object of type FixedPoint"),
    ],
)
def test_a_mistaken_set_is_told_what_to_write(table, capsys, change, said):
    assert main([*TINY, "--set", change]) == 2
    found = capsys.readouterr().err
    assert found.startswith("iresnet-fast: --set ")
    assert said in found


def test_what_only_fit_can_refuse_names_the_option(table, capsys):
    assert main([*TINY, "--class-weights", "balanced"]) == 2
    assert capsys.readouterr().err.startswith("iresnet-fast: --class-weights must be")
    assert not Path("runs/small-flow").exists()


def test_output_that_nobody_reads_any_longer_is_no_error(table):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "iresnet_fast.cli", "train", "--help"], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_text_file_in_the_place_of_a_run_is_of_another_kind(table, capsys):
    assert main(["info", str(table)]) == 2
    assert "got a file of another kind; pass the folder of a run" in capsys.readouterr().err


def test_a_folder_says_what_its_run_was_on(table, capsys):
    """To go on takes no option but the folder; what is not there to go on with is said."""
    assert main([*TINY, "--folder", "run"]) == 0
    arguments = ["train", "--resume", "--quiet", "--threads", "1"]
    assert main([*arguments, "--folder", "run", "--max-steps", "3"]) == 0
    assert Path("run", "checkpoint-00000003.safetensors").exists()
    assert "resume: nothing" not in capsys.readouterr().out
    assert main([*arguments, *TINY[1:], "--folder", "other"]) == 0
    assert "resume: nothing to go on with in other, a new run begins there" in capsys.readouterr().out


def test_a_start_that_nothing_was_better_than_is_said(table, capsys):
    assert main([*TINY, "--learning-rate", "1e-30", "--folder", "run"]) == 0
    assert "kept: the model of step 0, the best on the data held out, as it began: the" in capsys.readouterr().out
