"""The command line when something is wrong: one sentence on stderr, and an exit code."""

import builtins
import sys

import pytest

from iresnet_fast import _library
from iresnet_fast.cli import main
from iresnet_fast.training import distributed

pytestmark = pytest.mark.usefixtures("one_thread")


def sentence(capsys, arguments, code=2):
    """What a command says that fails."""
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("iresnet-fast: ")
    assert captured.err.endswith(".\n")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nothing"], "--data must be one of swissroll"),
        (["--data", "mnist"], "root"),
        (["--data", "mnist", "--data-root", "no/such/folder"], "no/such/folder"),
        (["--data", "none.csv"], "none.csv"),
        (["--preset", "big"], "--preset must be one of toy, tabular,"),
        (["--set", "blocks"], "--set must be FIELD=VALUE, got 'blocks'; write e.g. --set blocks=[4]."),
        (
            ["--set", "blocks=[4"],
            "--set blocks must be a list, each an integer in JSON, got '[4'; write e.g. --set blocks=[",
        ),
        (["--set", "coeff=big"], "--set coeff must be a number in JSON, got 'big'; write e.g. --set coeff=0."),
        (["--set", "activation=luck"], "'luck'"),
        (
            ["--set", 'eval_estimator={"PowerSeries": {"n_terms": 12}}'],
            """write 'eval_estimator={"type": "PowerSeries", "n_terms": 12}'.""",
        ),
        (
            ["--set", 'eval_estimator={"terms": 12}'],
            """write 'eval_estimator={"type": "PowerSeries", "n_terms": 20}'.""",
        ),
        (
            ["--set", "eval_estimator=exact"],
            "must be an object of type PowerSeries or RussianRoulette or Exact in JSON",
        ),
        (["--set", "depths=3"], "--set must name one of event_shape, blocks"),
        (["--set", "coeff=2"], "coeff must be in (0, 1), got 2"),
        (["--set", 'coeff="big"'], "coeff must be a number, got 'big'"),
        (["--data", "moons", "--model", "classifier"], "a classifier needs images with labels, got vectors"),
        (["--data", "moons", "--flip"], "shift and flip must be off for vectors"),
        (["--model", "gan"], "argument --model: invalid choice: 'gan'"),
        (["--clip", "much"], "argument --clip: invalid number, or none value: 'much'"),
        (["--betas", "0.9;0.99"], "argument --betas: invalid numbers, separated by commas value: '0.9;0.99'"),
        (["--betas", "0.9"], "betas must be two numbers in [0, 1) or None, got (0.9,)"),
        (["--optimizer", "sgd", "--betas", "0.9,0.99"], "betas must be None for 'sgd', an optimizer without"),
        (["--decay", "exp"], "argument --decay: invalid choice: 'exp'"),
        (["--decay-at", "0.5,2"], "--decay-at must hold different numbers in [0, 1), one at least, got (0.5, 2.0)"),
        (
            ["--batch-size", "800", "--accumulate", "2"],
            "--batch-size times --accumulate must be at most 1437, the training samples of digits, got 1600",
        ),
        (["--shift", "8", "--shift-padding", "reflect"], "shift must be less than 8 for shift_padding 'reflect'"),
        (["--max-steps", "0"], "--max-steps must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--device", "toaster"], "--device must be a device of torch, got 'toaster'"),
        (["--device", "meta"], "--device must be a device that computes, got 'meta'; use cpu"),
        (["--set", "hidden=64"], "write e.g. --set hidden=["),
        (["--set", "kernel_sizes=3"], "write e.g. --set kernel_sizes=["),
        (["--set", "train_estimator=5"], "train_estimator must be one of iresnet_fast.estimators or None, got 5"),
        (["--max-steps", "1.5"], "argument --max-steps: invalid int value: '1.5'"),
        (["--batch-size", "2000"], "--batch-size must be at most 1437, the training samples of digits, got 2000"),
        (["--batch-size", "1400", "--validation", "0.1"], "--batch-size must be at most 1293, the training samples of"),
        (["--validation", "2"], "--validation must be in [0, 1), got 2.0"),
        (["--patience", "3"], "--patience must be None without a validation part, got 3; pass e.g. validation=0.1"),
        (["--class-weights", "balanced"], "--class-weights must be 'equal' for a model that does not classify"),
        (
            ["--class-weights", "best"],
            "argument --class-weights: invalid balanced, or numbers, separated by commas, value",
        ),
        (["--config", "no/run.yaml"], "no/run.yaml must be the run.yaml of a run, got no such file; check the path."),
        (["--verbose"], "unrecognized arguments: --verbose; see iresnet-fast --help"),
        (["a.csv"], "unrecognized arguments: a.csv, which no option takes: a file of data goes with --data; see"),
    ],
)
def test_train(capsys, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    error = main(["train", "--quiet", "--max-steps", "1", *arguments])
    captured = capsys.readouterr()
    assert error == 2
    assert captured.err.startswith("iresnet-fast: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert not list(tmp_path.iterdir())  # not even a folder


@pytest.mark.parametrize("command", ["evaluate", "sample", "reconstruct", "info"])
def test_no_run(capsys, tmp_path, command):
    assert "got neither" in sentence(capsys, [command, str(tmp_path)])
    assert "got no such file" in sentence(capsys, [command, str(tmp_path / "none.safetensors")])
    (tmp_path / "checkpoint-00000001.safetensors").write_bytes(b"not a checkpoint")
    assert "checkpoint-00000001.safetensors must be" in sentence(capsys, [command, str(tmp_path)])


@pytest.mark.parametrize(("command", "option"), [("sample", "--out"), ("sample", "--npy"), ("reconstruct", "--out")])
def test_a_folder_for_a_file(capsys, tmp_path, command, option):
    said = sentence(capsys, [command, "none", option, str(tmp_path)])
    assert f"{option} must be a file, got the folder {tmp_path}; name a file in it." in said


def test_no_command(capsys):
    assert "required: COMMAND" in sentence(capsys, [])
    assert "invalid choice: 'fly'" in sentence(capsys, ["fly"])
    assert "required: RUN" in sentence(capsys, ["sample"])


def test_counts(capsys, tmp_path):
    assert "--n must be at least 1, got 0" in sentence(capsys, ["sample", str(tmp_path), "--n", "0"])
    assert "--n must be at least 1, got -1" in sentence(capsys, ["reconstruct", str(tmp_path), "--n", "-1"])


def test_probes(capsys, tmp_path):
    said = sentence(capsys, ["evaluate", str(tmp_path), "--probes", "many"])
    assert "argument --probes: invalid number of probes, or auto value: 'many'" in said


def test_kernels_that_are_not_there(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "HAS_EXTENSION", False)
    monkeypatch.setattr(_library, "EXTENSION_ERROR", "they were not built")
    said = sentence(capsys, ["evaluate", str(tmp_path), "--backend", "kernels"])
    assert "--backend must be reference where the kernels are unavailable (they were not built)" in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "iresnet-fast: interrupted.\n"),
        (distributed.TrainingInterrupted("go on with --resume."), "iresnet-fast: go on with --resume.\n"),
    ],
)
def test_interrupted(capsys, monkeypatch, tmp_path, error, said):
    def fit(*arguments, **options):
        raise error

    monkeypatch.setattr("iresnet_fast.cli.train.fit", fit)
    assert main(["train", "--set", "blocks=[1]", "--folder", str(tmp_path)]) == 130
    assert capsys.readouterr().err == said


def test_a_library_that_is_not_there(capsys, monkeypatch, tmp_path):
    original = builtins.__import__

    def without_matplotlib(name, *arguments, **options):
        if name.split(".")[0] == "matplotlib":  # as Python says it
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return original(name, *arguments, **options)

    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    folder = ["--set", "blocks=[1]", "--set", "hidden=[4,4]", "--max-steps", "1", "--quiet", "--folder", str(tmp_path)]
    assert main(["train", *folder]) == 0
    assert (tmp_path / "model.safetensors").is_file()
    assert not list(tmp_path.glob("*.png"))
    assert capsys.readouterr().out.endswith(
        "pictures left out: curves.png, samples.png, reconstructions.png; drawing pictures needs matplotlib, got none; "
        "pip install 'iresnet_fast[train]'.\n"
    )
    assert main(["sample", str(tmp_path), "--out", str(tmp_path / "samples.png")]) == 2
    assert capsys.readouterr().err == (
        "iresnet-fast: drawing pictures needs matplotlib, got none; pip install 'iresnet_fast[train]'.\n"
    )


def test_a_bug_is_not_hidden(monkeypatch, tmp_path):
    def fit(*arguments, **options):
        raise AttributeError("a bug")

    monkeypatch.setattr("iresnet_fast.cli.train.fit", fit)
    with pytest.raises(AttributeError, match="a bug"):
        main(["train", "--set", "blocks=[1]", "--folder", str(tmp_path)])
