"""What is left of a run that was killed, interrupted or out of room, wherever that was, and how it goes on."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_examples import make_config, make_data, make_model, same_bits

from iresnet_fast import training
from iresnet_fast.cli import main
from iresnet_fast.training import checkpoint, log, trainer
from iresnet_fast.training.fit import free_folder

pytestmark = pytest.mark.usefixtures("one_thread")

HELD_OUT = {"validation": 0.2, "eval_steps": 2, "checkpoint_steps": 3}
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from training_examples import make_config, make_data, make_model
from iresnet_fast import training
print("ready", flush=True)
training.fit(make_model(), make_data(), make_config(**eval(sys.argv[3])), sys.argv[2], True, show_progress=False)
"""


def run(folder, resume=False, **changes):
    config = make_config(**{**HELD_OUT, **changes})
    return training.fit(make_model(), make_data(), config, folder, resume, show_progress=False)


def started(folder):
    arguments = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder), repr(HELD_OUT)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_goes_on_to_the_same_bits(tmp_path):
    whole = run(tmp_path / "whole")
    moments, folder = random.Random(0), tmp_path / "killed"
    for _ in range(12):
        process = started(folder)
        try:
            process.communicate(timeout=moments.uniform(0.0, 1.2))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    again = run(folder, resume=True)
    assert (again.step, again.best_step) == (whole.step, whole.best_step)
    assert same_bits(again.best.state_dict(), whole.best.state_dict())
    assert same_bits(again.model.state_dict(), whole.model.state_dict())
    assert not list(folder.glob("*.writing"))


@pytest.mark.parametrize("names", [("log.csv",), ("run.yaml",), ("log.csv", "run.yaml", "best.safetensors"), ()])
def test_a_run_that_was_killed_before_its_first_checkpoint_starts(names, tmp_path):
    whole = run(tmp_path / "whole")
    folder = tmp_path / "left"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes((tmp_path / "whole" / name).read_bytes()[:40])
    for name in ("log.csv.123.writing", "best.safetensors.99.writing", "run.yaml.5.writing"):
        (folder / name).write_bytes(b"half")
    again = run(folder, resume=True)
    assert same_bits(again.best.state_dict(), whole.best.state_dict())
    assert not list(folder.glob("*.writing"))


def test_a_run_that_was_moved_goes_on_and_so_do_its_data(tmp_path, monkeypatch, capsys):
    table = tmp_path / "rows.csv"
    rows = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)).tolist()
    table.write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in rows))
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--data", "rows.csv", "--set", "blocks=[1]", "--quiet", "--folder"]
    assert main([*arguments, "first", "--max-steps", "2"]) == 0
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "first").rename(tmp_path / "elsewhere" / "moved")
    table.rename(tmp_path / "elsewhere" / "renamed.csv")
    monkeypatch.chdir(tmp_path / "elsewhere")
    arguments[2] = "renamed.csv"
    assert main([*arguments, "moved", "--max-steps", "4", "--resume"]) == 0
    text = (tmp_path / "elsewhere" / "renamed.csv").read_text()
    (tmp_path / "elsewhere" / "renamed.csv").write_text(text.replace(text.splitlines()[1], "0.5,0.5"))
    capsys.readouterr()
    assert main([*arguments, "moved", "--max-steps", "6", "--resume"]) == 2
    said = capsys.readouterr().err
    assert re.search(rf"training samples in {tmp_path}/elsewhere/renamed.csv to go on from, got others, ", said)


def test_a_checkpoint_without_a_fingerprint_goes_on(tmp_path):
    """As earlier versions have written it: then the name of the data must be the same."""
    run(tmp_path, max_steps=3)
    found = checkpoint.read_newest(tmp_path)
    kept = {name: value for name, value in found.metadata["data"].items() if name not in ("fingerprint", "table")}
    kept.pop("source")
    checkpoint.write(found.path, found.tensors, {**found.metadata, "data": kept})
    assert run(tmp_path, resume=True).step == 12
    for path in checkpoint.paths(tmp_path):
        checkpoint.write(path, checkpoint.read(path).tensors, {**found.metadata, "data": {**kept, "name": "line"}})
    with pytest.raises(training.CheckpointError, match="must be of data with name = 'curve' to go on from, got 'line'"):
        run(tmp_path, resume=True)


def signalled(monkeypatch, where, name, number=signal.SIGINT, calls=1):
    """Send this process a signal in the middle of a call of a function."""
    original, left = getattr(where, name), [calls]

    def patched(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(number)
        return original(*arguments, **options)

    monkeypatch.setattr(where, name, patched)
    return lambda: monkeypatch.setattr(where, name, original)


@pytest.mark.parametrize(
    ("where", "name", "step"), [(trainer, "start", 1), (trainer, "evaluate", 1), (trainer, "Optimization", 1)]
)
def test_a_signal_before_the_first_step_ends_after_it(where, name, step, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    undo = signalled(monkeypatch, where, name)
    with pytest.raises(training.TrainingInterrupted, match=f"interrupted by SIGINT after step {step}; go on from"):
        run(tmp_path / "run")
    undo()
    assert same_bits(run(tmp_path / "run", resume=True).best.state_dict(), whole.best.state_dict())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_last_evaluation_ends_it_at_once(number, tmp_path, monkeypatch):
    """The last checkpoint is there, and the rest is done later; the log ends as it would have."""
    whole = run(tmp_path / "whole")
    undo = signalled(monkeypatch, trainer, "evaluate", number, calls=8)  # after steps 0, 2, ..., 12
    with pytest.raises(training.TrainingInterrupted) as caught:
        run(tmp_path / "run")
    undo()
    name = signal.Signals(number).name
    assert f"interrupted by {name} after its last step, 12, before its evaluation; go on from" in str(caught.value)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    again = run(tmp_path / "run", resume=True)
    assert again.evaluation == whole.evaluation
    assert [row["test_nats"] for row in again.history] == [row["test_nats"] for row in whole.history]
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == len(whole.history) + 1


def test_an_interrupt_of_the_pictures_says_how_to_finish(tmp_path, monkeypatch, capsys):
    undo = signalled(monkeypatch, __import__("iresnet_fast.cli.train", fromlist=["pictures"]).pictures, "curves")
    arguments = ["train", "--data", "moons", "--set", "blocks=[1]", "--max-steps", "1", "--quiet", "--folder"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets jobs in the background ignore it
    try:
        assert main([*arguments, str(tmp_path / "run")]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr().err
    assert said.startswith(f"iresnet-fast: the run is whole in {tmp_path / 'run'}, but its pictures are not, since")
    assert said.count("\n") == 1
    undo()
    assert main([*arguments, str(tmp_path / "run"), "--resume"]) == 0
    assert (tmp_path / "run" / "curves.png").exists()


def test_two_processes_refuse_each_other(tmp_path):
    process = started(tmp_path)
    try:
        while not (tmp_path / ".lock").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        if (tmp_path / ".lock").exists():
            with pytest.raises(ValueError, match=rf"in which process {process.pid} is training; wait for its end"):
                run(tmp_path, resume=True)
    finally:
        process.kill()
        process.communicate()


def test_a_full_disk_leaves_the_best_and_the_last_checkpoint_whole(tmp_path, monkeypatch):
    write, written = checkpoint.write, []

    def full(path, tensors, metadata):
        written.append(path.name)
        if len(written) == 5:
            monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        write(path, tensors, metadata)

    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.raises(OSError, match=r"safetensors must be written whole, got: No space left on device; make room"):
        run(tmp_path, learning_rate=1e-3)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.writing"))
    for path in (*checkpoint.paths(tmp_path), tmp_path / "best.safetensors"):
        checkpoint.read(path)
    assert run(tmp_path, resume=True, learning_rate=1e-3).step == 12


def test_a_file_of_torch_is_called_that(tmp_path, capsys):
    for name, options in (("new.pt", {}), ("old.pt", {"_use_new_zipfile_serialization": False})):
        torch.save(make_model().state_dict(), tmp_path / name, **options)
        assert main(["info", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert f"{name} must be a safetensors file that fit has written, got one that torch.save has; pass" in said


def test_numbers_of_folders(tmp_path):
    first = tmp_path / "digits-flow"
    assert free_folder(first) == first
    first.mkdir()
    (tmp_path / "digits-flow-2").mkdir()
    assert free_folder(first) == tmp_path / "digits-flow-3"


def test_a_log_is_completed_in_the_file_too(tmp_path):
    rows = log.Log(tmp_path, ("nats",), 0)
    rows.write({"step": 1, "loss": 0.5})
    rows.complete({"test_nats": 1.5})
    rows.complete({"test_nats": 1.5})
    rows.close()
    again = log.Log(tmp_path, ("nats",), 1)
    assert [(row["step"], row["loss"], row["test_nats"]) for row in again.rows] == [(1, 0.5, 1.5)]
    again.close()


def test_a_full_disk_for_what_is_printed_has_a_sentence():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "iresnet_fast.cli", "info"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    said = (
        "iresnet-fast: all output must be written, got: No space left on device; make room for it or write elsewhere."
    )
    assert (ended.returncode, ended.stderr) == (2, f"{said}\n")
