"""A run that was interrupted, killed or cannot go on: what is left of it, and that the rest gives the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_examples import make_config, make_data, make_model, measured, same_bits

from iresnet_fast import training
from iresnet_fast.models import IResNetClassifier
from iresnet_fast.training import checkpoint
from iresnet_fast.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def run(kind, folder, resume=False, **changes):
    data = make_data("plane" if kind in ("plane", "lipswish") else "images")
    return training.fit(make_model(kind), data, make_config(**changes), folder, resume, show_progress=False)


@pytest.fixture
def interrupt(monkeypatch):
    """Send a signal to this process in the given step."""

    def install(step, number=signal.SIGINT):
        advance = Trainer.advance

        def advance_and_signal(self):
            advance(self)
            if self.step == step:
                signal.raise_signal(number)

        monkeypatch.setattr(Trainer, "advance", advance_and_signal)
        return lambda: monkeypatch.setattr(Trainer, "advance", advance)

    return install


def assert_same(again, whole, extra_steps=()):
    assert same_bits(again.model.state_dict(), whole.model.state_dict())
    assert (again.average is None) == (whole.average is None)
    assert same_bits(again.best.state_dict(), whole.best.state_dict())
    assert [row for row in measured(again.history) if row["step"] not in extra_steps] == measured(whole.history)
    assert again.evaluation == whole.evaluation


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("plane", {}),
        ("plane", {"optimizer": "sgd", "ema": None, "clip": None}),
        ("plane", {"optimizer": "adamax", "betas": (0.8, 0.9)}),
        ("plane", {"optimizer": "rmsprop"}),
        ("plane", {"decay": "cosine", "restarts": 2}),
        ("plane", {"optimizer": "adamw", "weight_decay": 0.1}),
        ("flow", {"shift": 1, "flip": True}),
        ("flow", {"shift": 1, "flip": True, "accumulate": 2, "shift_padding": "reflect"}),
        ("classifier", {"shift": 1}),
        ("hybrid", {"density_weight": 0.5}),
    ],
)
def test_resume_gives_the_same_bits(kind, changes, tmp_path, interrupt):
    """In the first step, inside an epoch, at its end and twice; the means of the log go across the break too."""
    whole = run(kind, tmp_path / "whole", eval_steps=4, **changes)
    steps = (1, 5, 8) if kind == "plane" and not changes else (5,)
    folder = tmp_path / "broken"
    for step in steps:
        undo = interrupt(step)
        with pytest.raises(training.TrainingInterrupted, match=f"interrupted by SIGINT after step {step};"):
            run(kind, folder, step > steps[0], eval_steps=4, **changes)
        undo()
    again = run(kind, folder, True, eval_steps=4, **changes)
    assert again.step == 12
    # an interrupted run logs its last step as well
    assert_same(again, whole, extra_steps=[step for step in steps if step % 2])


@pytest.mark.parametrize("optimizer", ["adam", "adamax"])
def test_a_checkpoint_of_an_earlier_version_whose_betas_were_scalars_goes_on(optimizer, tmp_path, interrupt):
    """The weights, their average and what the optimizer keeps of them; adamax, unlike adam, has no fused kernel."""
    whole = run("lipswish", tmp_path / "whole", eval_steps=4, optimizer=optimizer)
    undo = interrupt(5)
    with pytest.raises(training.TrainingInterrupted):
        run("lipswish", tmp_path / "broken", eval_steps=4, optimizer=optimizer)
    undo()
    found = checkpoint.read_newest(tmp_path / "broken")
    places = [i for i, (name, _) in enumerate(make_model("lipswish").named_parameters()) if "beta" in name]
    prefixes = tuple(f"optimizer.{i}." for i in places)
    tensors = {
        name: value.reshape(()) if "beta" in name or name.startswith(prefixes) else value
        for name, value in found.tensors.items()
    }
    assert sum(value.shape != tensors[name].shape for name, value in found.tensors.items()) == 4 * len(places) == 16
    checkpoint.write(found.path, tensors, found.metadata)
    average = training.load_model(found.path).state_dict()
    assert all(torch.equal(average[name], value) for name, value in found.part("average").items())
    again = run("lipswish", tmp_path / "broken", True, eval_steps=4, optimizer=optimizer)
    assert_same(again, whole, extra_steps=(5,))


def test_another_seed_is_another_run(tmp_path):
    """So that the comparison above is not vacuous."""
    whole = run("flow", tmp_path / "whole")
    other = run("flow", tmp_path / "other", seed=1)
    assert not same_bits(other.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_a_checkpoint_and_the_handlers_are_put_back(number, tmp_path, interrupt):
    before = signal.getsignal(number)
    interrupt(5, number)
    with pytest.raises(training.TrainingInterrupted) as caught:
        run("plane", tmp_path / "run")
    newest = tmp_path / "run" / "checkpoint-00000005.safetensors"
    assert str(caught.value) == (
        f"training was interrupted by {signal.Signals(number).name} after step 5; go on from {newest} with the same "
        f"command and --resume, or fit(..., resume=True)."
    )
    assert newest.exists()
    assert signal.getsignal(number) is before


# Where a run is killed, by itself: after the 8th step, while it writes its 2nd checkpoint, or between that and its
# new name; when it has logged a step whose checkpoint is not there yet.
KILLS = {
    "step": "trainer.Trainer.advance = after(trainer.Trainer.advance, 8)",
    "write": "os.fsync = after(os.fsync, 7)",  # of file and folder: log, run.yaml, checkpoints
    "log": "log.Log.write = after(log.Log.write, 4)",
}
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from training_examples import make_config, make_data, make_model
from iresnet_fast import training
from iresnet_fast.training import checkpoint, log, trainer

def after(function, n):
    calls = []
    def counted(*arguments):
        result = function(*arguments)
        calls.append(None)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return counted

KILL
training.fit(make_model(), make_data(), make_config(checkpoint_steps=3), sys.argv[2], show_progress=False)
"""


@pytest.mark.parametrize("kill", ["step", "write", "log"])
def test_a_killed_run_goes_on_to_the_same_result(kill, tmp_path):
    whole = run("plane", tmp_path / "whole", checkpoint_steps=3)
    folder = tmp_path / "killed"
    script = KILLED.replace("KILL\n", f"{KILLS[kill]}\n")
    arguments = [sys.executable, "-c", script, str(Path(__file__).parent), str(folder)]
    ended = subprocess.run(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    left = checkpoint.read_newest(folder)
    assert left is not None
    assert left.metadata["step"] == {"step": 6, "write": 3, "log": 3}[kill]
    assert len(list(folder.glob("*.writing"))) == (kill == "write")
    time.sleep(1.0)  # TensorBoard reads the files of a folder in the order of the seconds they were begun in
    again = run("plane", folder, True, checkpoint_steps=3)
    assert_same(again, whole)
    assert not list(folder.glob("*.writing"))
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [row["step"] for row in whole.history]
    lines = [len((path / "log.csv").read_text().splitlines()) for path in (folder, tmp_path / "whole")]
    assert lines == [len(whole.history) + 1] * 2


def test_resume_in_an_empty_folder_starts(tmp_path):
    assert_same(run("plane", tmp_path / "a", resume=True), run("plane", tmp_path / "b"))


def test_resume_of_a_finished_run_only_evaluates(tmp_path):
    first = run("plane", tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.glob("checkpoint-*")}
    again = run("plane", tmp_path, resume=True)
    assert_same(again, first)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("checkpoint-*")} == written


def test_a_budget_can_be_extended(tmp_path):
    whole = run("plane", tmp_path / "whole", decay_start=1.0)
    run("plane", tmp_path / "part", max_steps=6, decay_start=1.0)
    again = run("plane", tmp_path / "part", resume=True, decay_start=1.0)
    assert same_bits(again.best.state_dict(), whole.best.state_dict())


def test_minutes_add_up(tmp_path, interrupt):
    undo = interrupt(6)
    with pytest.raises(training.TrainingInterrupted):
        run("plane", tmp_path)
    undo()
    before = training.read_metadata(tmp_path)["minutes"]
    again = run("plane", tmp_path, resume=True)
    assert 0.0 < before < again.history[-1]["minutes"] <= again.minutes
    minutes = [row["minutes"] for row in again.history]
    assert minutes == sorted(minutes)


def test_a_used_folder_is_not_written_over(tmp_path):
    run("plane", tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    with pytest.raises(
        ValueError, match=r"folder must hold no checkpoints, got some in .*; pass resume=True .--resume., or another"
    ):
        run("plane", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == written


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("plane", {"batch_size": 10}, "must be of a TrainConfig with batch_size = 10 to go on from, got 12; pass"),
        ("plane", {"accumulate": 2}, "must be of a TrainConfig with accumulate = 2 to go on from, got 1; pass"),
        (
            "plane",
            {"betas": (0.9, 0.99)},
            r"must be of a TrainConfig with betas = \[0.9, 0.99\] to go on from, got None",
        ),
        ("plane", {"seed": 1}, "must be of a TrainConfig with seed = 1 to go on from, got 0; pass"),
        ("wider", {}, r"must be of a model with hidden = \[8\] to go on from, got \[16, 16\]; pass"),
        ("flow", {}, "must be of a model with event_shape"),
        ("classifier", {}, "must be of a model of class 'IResNetClassifier' to go on from, got 'IResNetFlow'; pass"),
    ],
)
def test_another_run_is_not_gone_on_from(kind, changes, message, tmp_path):
    run("plane", tmp_path, max_steps=1)
    model = make_model("plane" if kind == "wider" else kind)
    if kind == "wider":
        model = type(model)(model.config.replace(hidden=(8,)))
    data = make_data("plane" if kind in ("plane", "wider") else "images")
    with pytest.raises(training.CheckpointError, match=message):
        training.fit(model, data, make_config(**changes), tmp_path, resume=True, show_progress=False)


def test_a_classifier_from_before_n_levels_goes_on(tmp_path):
    """Its checkpoints leave the number of levels to the data."""
    whole = run("classifier", tmp_path / "whole", decay_start=1.0)
    folder = tmp_path / "old"
    run("classifier", folder, max_steps=6, decay_start=1.0)
    found = checkpoint.read_newest(folder)
    config = {name: value for name, value in found.metadata["model_config"].items() if name != "n_levels"}
    checkpoint.write(found.path, found.tensors, {**found.metadata, "model_config": config})
    again = run("classifier", folder, resume=True, decay_start=1.0)
    assert same_bits(again.best.state_dict(), whole.best.state_dict())
    assert training.read_metadata(folder)["model_config"]["n_levels"] == 17


def test_a_run_that_is_refused_leaves_the_model_as_it_was(tmp_path):
    run("classifier", tmp_path, max_steps=1)
    model = IResNetClassifier.preset("digits", n_levels=None, n_classes=3, blocks=(1, 1), hidden=(4, 4)).eval()
    before, weights = model.config, {name: value.clone() for name, value in model.state_dict().items()}
    for changes, message in (({"seed": 1}, "with seed = 1 to go on from"), ({"batch_size": 60}, "batch_size must be")):
        with pytest.raises(ValueError, match=message):
            training.fit(model, make_data("images"), make_config(**changes), tmp_path, True, show_progress=False)
        assert model.config == before
        assert not model.training
        assert same_bits(model.state_dict(), weights)


def test_another_backend_is_said(tmp_path):
    from iresnet_fast import _library

    run("plane", tmp_path, max_steps=1)
    other = "reference" if _library.backend() == "kernels" else "kernels"
    with (
        _library.use_backend(other),
        pytest.warns(RuntimeWarning, match=f"this is '{other}': the run goes on, but not"),
    ):
        run("plane", tmp_path, resume=True, max_steps=2)


def test_the_file_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"folder must be a folder, got the file .*; pass another one"):
        run("plane", tmp_path / "file")


def test_checkpoints_hold_nothing_of_the_generator(tmp_path):
    """A resume needs seed and step only."""
    run("plane", tmp_path, max_steps=1)
    found = checkpoint.read_newest(tmp_path)
    assert {name.split(".")[0] for name in found.tensors} == {"model", "average", "optimizer", "log"}
    assert (found.metadata["seed"], found.metadata["step"]) == (0, 1)
    assert not any(value.dtype == torch.uint8 for value in found.tensors.values())
