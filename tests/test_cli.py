"""The command line on a tiny run: every command, what it prints and what it writes."""

import argparse
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib import image

from iresnet_fast import __version__, _library, data, training
from iresnet_fast.cli import _plan, _recipe, main, train
from iresnet_fast.cli.main import COMMANDS, parser
from iresnet_fast.models import certified_lipschitz
from iresnet_fast.training import distributed
from iresnet_fast.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = ["--max-steps", "6", "--set", "blocks=[1]", "--set", "hidden=[8]", "--set", "kernel_sizes=[3,3]", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a flow on digits after six steps."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", *TINY, "--folder", str(folder), "--threads", "1"]) == 0
    return folder


def is_picture(path):
    """Whether a file is a PNG that shows something."""
    return path.read_bytes().startswith(b"\x89PNG") and image.imread(path)[..., :3].std() > 0.01


def test_train_writes_everything(run, capsys, tmp_path):
    assert (run / "log.csv").exists()
    assert (run / "checkpoint-00000006.safetensors").exists()
    for name in ("curves.png", "samples.png", "reconstructions.png"):
        assert is_picture(run / name)
    assert not (run / "density.png").exists()
    # The same command, again: what it says, and that it is the same to the bit.
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert main(["train", *TINY, "--folder", str(tmp_path / "again")]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "IResNetFlow of 725 parameters on 1437 samples of digits"
    assert lines[1].startswith("6 steps in 0.0")
    assert lines[2].startswith("bits_per_dim 2.")
    assert lines[-1].endswith(
        "curves.png, " + ", ".join(str(tmp_path / "again" / f"{n}.png") for n in ("samples", "reconstructions"))
    )
    for old, new in zip(*(training.load_model(f).parameters() for f in (run, tmp_path / "again")), strict=True):
        assert torch.equal(old, new)


def test_train_on_a_plane_and_resume(tmp_path, capsys):
    arguments = ["train", "--data", "moons", "--set", "blocks=[1]", "--set", "hidden=[8]", "--batch-size", "50"]
    arguments += ["--folder", str(tmp_path / "moons"), "--clip", "none", "--ema", "0.5", "--seed", "3", "--quiet"]
    assert main([*arguments, "--max-steps", "2"]) == 0
    assert "log-determinants: exact" in capsys.readouterr().out
    for name in ("curves.png", "samples.png", "density.png"):
        assert is_picture(tmp_path / "moons" / name)
    metadata = training.read_metadata(tmp_path / "moons")
    config = TrainConfig.from_dict(metadata["train_config"])
    assert (config.clip, config.ema, config.seed, config.batch_size) == (None, 0.5, 3, 50)
    assert (config.max_steps, config.max_minutes) == (2, None)  # the recipe's budget is gone
    assert main([*arguments, "--max-steps", "3"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("iresnet-fast: --folder must hold no")
    assert "--resume" in said
    assert "resume=True" not in said
    assert main([*arguments, "--max-steps", "3", "--resume"]) == 0
    assert training.read_metadata(tmp_path / "moons")["step"] == 3
    assert main(["reconstruct", str(tmp_path / "moons"), "--n", "3", "--out", str(tmp_path / "none.png")]) == 2
    assert not (tmp_path / "none.png").exists()  # points have no picture of pairs
    assert main(["reconstruct", str(tmp_path / "moons"), "--n", "3", "--out", str(tmp_path / "points.csv")]) == 0
    assert len((tmp_path / "points.csv").read_text().splitlines()) == 4


def test_the_recipe_is_changed_by_options(tmp_path):
    given = {
        "accumulate": 2,
        "optimizer": "rmsprop",
        "decay": "steps",
        "decay_at": (0.25, 0.5),
        "decay_factor": 0.5,
        "shift": 2,
        "shift_padding": "reflect",
    }
    options = {field: ",".join(map(str, v)) if isinstance(v, tuple) else str(v) for field, v in given.items()}
    arguments = [word for field, v in options.items() for word in (f"--{field.replace('_', '-')}", v)]
    assert main(["train", *TINY, *arguments, "--folder", str(tmp_path)]) == 0
    config = TrainConfig.from_dict(training.read_metadata(tmp_path)["train_config"])
    assert {field: getattr(config, field) for field in given} == given


@pytest.mark.parametrize(
    ("arguments", "optimizer", "betas"),
    [
        ([], "adam", (0.9, 0.99)),
        (["--optimizer", "adam"], "adam", (0.9, 0.99)),
        (["--betas", "0.8,0.9"], "adam", (0.8, 0.9)),
        (["--optimizer", "sgd"], "sgd", None),
        (["--optimizer", "adamax", "--betas", "0.8,0.9"], "adamax", (0.8, 0.9)),
    ],
)
def test_betas_of_a_recipe_belong_to_its_optimizer(monkeypatch, arguments, optimizer, betas):
    seen = []

    def stop(model, dataset, config, *_, **__):
        seen.append((config.optimizer, config.betas))
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", stop)
    small = ["--set", "blocks=[1]", "--set", "hidden=[4,4]", "--set", "fc_blocks=0"]
    assert main(["train", "--model", "residual_flow", "--preset", "mnist", *small, *arguments]) == 130
    assert seen == [(optimizer, betas)]


def test_a_table(tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    folder = str(tmp_path / "run")
    arguments = ["--data", "rows.npy", "--data-root", str(tmp_path)]
    assert main(["train", *arguments, *TINY[:-3], "--batch-size", "20", "--folder", folder, "--quiet"]) == 0
    assert main(["evaluate", folder, *arguments]) == 0
    capsys.readouterr()
    assert main(["sample", folder, "--out", str(tmp_path / "samples.csv"), "--n", "5"]) == 0
    assert len((tmp_path / "samples.csv").read_text().splitlines()) == 6
    assert main(["sample", folder, "--npy", str(tmp_path / "new" / "samples"), "--n", "5"]) == 0
    assert np.load(tmp_path / "new" / "samples").shape == (5, 3)


def test_a_truncated_series_is_said_to_be_one(tmp_path, capsys):
    estimator = '{"type": "PowerSeries", "n_terms": 12}'
    folder = str(tmp_path / "run")
    assert main(["train", *TINY, "--set", f"eval_estimator={estimator}", "--folder", folder]) == 0
    lipschitz = 0.97**2  # two layers
    bound = sum(lipschitz**k / k for k in range(13, 400)) / np.log(2.0)  # nats a dimension, one block
    assert f"log-determinants: truncated, off by {bound:.1e} bits/dim at most" in capsys.readouterr().out
    estimator = '{"type": "PowerSeries", "n_terms": 5}'
    assert main(["train", *TINY, "--set", f"eval_estimator={estimator}", "--folder", folder + "5"]) == 2
    assert "eval_estimator must be Exact or have at least 10 terms, got 5" in capsys.readouterr().err
    assert not (tmp_path / "run5").exists()  # said before training, not after


def test_evaluate(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    model, digits = training.load_model(run), data.load("digits")
    assert lines[0] == str(training.evaluate(model, digits.test))
    assert lines[1] == "log-determinants: exact"  # the default up to 64 dimensions
    said = re.fullmatch(
        r"certified: no branch has a Lipschitz constant above (0\.\d{5}), no layer a norm above (0\.\d{5})", lines[2]
    )
    table = certified_lipschitz(model)
    for number, bound in zip(said.groups(), (table.worst, table.worst_layer), strict=True):
        assert bound <= float(number) < bound + 1e-5
    assert main(["evaluate", str(run / "model.safetensors"), "--samples", "10", "--batch-size", "5"]) == 0
    assert "(10 samples)" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--data", "moons"]) == 2
    said = "--data must hold images of 1 x 8 x 8 values as in training, got rows of 2 in moons; pass such data"
    assert said in capsys.readouterr().err


def test_evaluate_with_probes(tmp_path, capsys):
    estimator = '{"type": "PowerSeries", "n_terms": 12, "exact_terms": 0}'
    folder = str(tmp_path / "run")
    assert main(["train", *TINY, "--set", f"eval_estimator={estimator}", "--folder", folder]) == 0
    model, test = training.load_model(folder), data.load("digits").test
    capsys.readouterr()
    assert main(["evaluate", folder, "--probes", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(training.evaluate(model, test, probes=3))
    error = training.evaluate(model, test, probes=2).probe_error
    assert main(["evaluate", folder, "--probes", "auto", "--standard-error", str(0.8 * error)]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said == str(training.evaluate(model, test, probes="auto", standard_error=0.8 * error))
    found = re.search(r"\(360 samples; of bits_per_dim, (\d) probes each make \+- ([\d.e-]+)\)", said)
    assert int(found[1]) > 2
    assert float(found[2]) <= 0.8 * error
    assert main(["evaluate", folder, "--standard-error", "0.1"]) == 2
    assert "standard_error must be None for a given number of probes, 1, got 0.1" in capsys.readouterr().err


def test_sample(run, tmp_path):
    out, npy = tmp_path / "s.png", tmp_path / "s.npy"
    arguments = ["sample", str(run), "--out", str(out), "--npy", str(npy), "--n", "5"]
    assert main(arguments) == 0
    assert is_picture(out)
    first = np.load(npy)
    assert first.shape == (5, 1, 8, 8)
    assert ((first >= 0) & (first <= 16) & (first == np.floor(first))).all()
    assert main(arguments) == 0
    np.testing.assert_array_equal(np.load(npy), first)
    assert main([*arguments, "--seed", "1"]) == 0
    assert (np.load(npy) != first).any()
    assert main([*arguments, "--temperature", "0"]) == 0
    still = np.load(npy)
    assert (still == still[0]).all()  # without noise all are the mode of the prior


def test_reconstruct(run, tmp_path, capsys):
    out = tmp_path / "r.png"
    assert main(["reconstruct", str(run), "--n", "9", "--out", str(out)]) == 0
    assert is_picture(out)
    error, certified, iterations, path = capsys.readouterr().out.splitlines()
    assert path == str(out)
    model = training.load_model(run)
    found = model.reconstruct(data.load("digits").test[:9].float())
    assert f"at most {float(found.error.max()):.2e}, measured" in error
    assert f"at most {float(found.block_error.max()):.2e}, certified" in certified
    assert f"{int(found.iterations.max())} at most" in iterations
    assert 0.0 < float(found.block_error.max()) <= model.config.solver.tol


def test_info(run, capsys):
    assert main(["info", str(run)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("IResNetFlow of 725 parameters, 6 steps in 0.0")
    for line in ("  blocks: [1]", "  learning_rate: 0.005", '  name: "digits"', "  event_shape: [1, 8, 8]", "step: 6"):
        assert f"{line}\n" in out
    assert out.endswith(f"{certified_lipschitz(training.load_model(run))}\n")
    assert main(["info"]) == 0
    assert f"iresnet_fast      {__version__}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["classifier", "hybrid"])
def test_models_with_labels(tmp_path, capsys, kind):
    folder = str(tmp_path / kind)
    arguments = ["--set", "blocks=[1,1]", "--set", "hidden=[4,4]", "--max-steps", "2", "--quiet"]
    assert main(["train", "--model", kind, *arguments, "--folder", folder]) == 0
    assert "error_percent" in capsys.readouterr().out
    assert is_picture(tmp_path / kind / "reconstructions.png")
    assert main(["evaluate", folder]) == 0
    out = capsys.readouterr().out
    assert "error_percent" in out
    assert ("log-determinants" in out) == (kind == "hybrid")
    assert main(["reconstruct", folder, "--out", str(tmp_path / "r.png")]) == 0
    assert is_picture(tmp_path / "r.png")
    assert main(["sample", folder, "--out", str(tmp_path / "s.png")]) == (2 if kind == "classifier" else 0)
    if kind == "classifier":
        assert capsys.readouterr().err == "iresnet-fast: a classifier has no samples; train a flow or a hybrid.\n"
    else:
        assert is_picture(tmp_path / "s.png")


def test_the_machine(run, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "iresnet_fast.cli.evaluate.evaluate",
        lambda *_, **__: seen.append((_library.backend(), torch.get_num_threads())),
    )
    monkeypatch.setattr("iresnet_fast.cli.evaluate.describe", lambda *_: "")
    assert main(["evaluate", str(run), "--backend", "reference", "--threads", "2", "--device", "cpu"]) == 0
    assert seen == [("reference", 2)]
    assert _library.backend() == "kernels"


def test_other_processes_are_silent(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert main(["train", *TINY, "--folder", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


def test_every_option_is_explained():
    commands = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    known = {"train", "evaluate", "score", "sample", "impute", "reconstruct", "report", "info"}
    assert set(commands) == set(COMMANDS) == known
    for name, command in commands.items():
        text = " ".join(command.format_help().split())
        for action in command._actions:
            assert action.help, (name, action.dest)
            for option in action.option_strings:
                assert option in text
            if action.option_strings and action.dest != "help":
                assert "default: " in action.help, (name, action.dest)


def test_defaults_are_as_stated():
    options = parser().parse_args(["train"])
    assert (options.data, options.model, options.folder, options.quiet) == (None, None, None, False)
    assert (_plan.DATA, _plan.MODEL) == ("digits", "flow")  # where neither an option nor a run.yaml says more
    recipe = training.recipe(data.load("digits"), "flow", None, {"blocks": (1,)})[1]
    for field, (_, _, default) in _recipe.RECIPE.items():
        if default not in (_recipe.OF_RECIPE, "equal", "only by minutes") and field != "eval_minutes":
            assert getattr(recipe, field) == json.loads(default)
    assert recipe.class_weights == "equal"
    assert (recipe.eval_minutes, recipe.eval_steps, recipe.checkpoint_steps) == (None, None, None)


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"iresnet-fast {__version__}\n")


def test_as_a_program():
    command = [sys.executable, "-m", "iresnet_fast.cli", "train", "--data", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("iresnet-fast: --data must be one of ")
    assert done.stderr.count("\n") == 1
