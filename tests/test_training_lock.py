"""Two runs in one folder: the second is refused, the first loses nothing, and a lock ends with its process."""

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from training_examples import make_config, make_data, make_model

from iresnet_fast import training
from iresnet_fast.cli import main
from iresnet_fast.training import files, lock, trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def run(folder, resume=False, **changes):
    config = make_config(checkpoint_steps=2, **changes)
    return training.fit(make_model(), make_data(), config, folder, resume, show_progress=False)


@pytest.fixture
def alive(tmp_path, monkeypatch):
    """The folder of a run of this process that has taken six steps of twelve and waits; ends with its rows."""
    reached, go_on, rows = threading.Event(), threading.Event(), []
    advance = trainer.Trainer.advance

    def advance_and_wait(self):
        if self.step == 6:
            reached.set()
            assert go_on.wait(60)
        advance(self)

    monkeypatch.setattr(trainer.Trainer, "advance", advance_and_wait)
    thread = threading.Thread(target=lambda: rows.extend(run(tmp_path / "run").history))
    thread.start()
    assert reached.wait(60)
    yield tmp_path / "run"
    go_on.set()
    thread.join()
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    lines = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in lines[1:]] == [2, 4, 6, 8, 10, 12]
    assert not (tmp_path / "run" / lock.LOCK_FILE).exists()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("way", ["this process", "another process", "the command line", "a link"])
def test_a_second_run_is_refused(way, resume, alive, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in alive.iterdir() if path.is_file()}
    sentence = rf"folder must be of no run that is going on, got .*, in which process {os.getpid()} is training; wait"
    if way == "the command line":
        assert main(["train", "--data", "moons", "--folder", str(alive), *(["--resume"] * resume)]) == 2
        assert re.search(sentence, capsys.readouterr().err)
    elif way == "another process":
        script = f"import test_training_lock as t; t.run({str(alive)!r}, {resume})"
        ended = subprocess.run(
            [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True
        )
        assert ended.returncode == 1
        assert re.search("ValueError: " + sentence, ended.stderr)
    else:
        folder = alive
        if way == "a link":
            folder = tmp_path / "link"
            folder.symlink_to(alive)
        with pytest.raises(ValueError, match=sentence):
            run(folder, resume)
    assert {path.name: path.read_bytes() for path in alive.iterdir() if path.is_file()} == before


def hold(folder, ready):
    with lock.locked(folder):
        ready.send(None)
        signal.pause()


def test_a_lock_ends_with_its_process(tmp_path):
    """However that ends; what it leaves locks nothing."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path, theirs))
    process.start()
    assert ours.poll(60)
    with pytest.raises(ValueError, match=f"in which process {process.pid} is training"), lock.locked(tmp_path):
        pass
    process.kill()
    process.join()
    assert (tmp_path / lock.LOCK_FILE).exists()
    with lock.locked(tmp_path):
        assert int((tmp_path / lock.LOCK_FILE).read_text()) == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_an_error_ends_the_lock(tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at most 50"):
        run(tmp_path, batch_size=60)
    assert list(tmp_path.iterdir()) == []
    assert run(tmp_path).step == 12


@pytest.mark.parametrize("folder", ["file/run", "link", "x" * 300])
def test_a_folder_that_cannot_be_made_is_said(folder, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    with (
        pytest.raises(files.WriteError, match=f"^{tmp_path / folder} must be written whole, got: .*; make room for it"),
        lock.locked(tmp_path / folder),
    ):
        pass


@pytest.mark.parametrize("target", ["precious", "nowhere", "."])
def test_a_link_for_a_lock_is_not_written_through(target, tmp_path):
    """A folder that came from others could have any file overwritten."""
    (tmp_path / "precious").write_text("all of it")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / lock.LOCK_FILE).symlink_to(tmp_path / target)
    with pytest.raises(files.WriteError, match=r"\.lock must be written whole, got: it is a link; "):
        run(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "all of it"
    assert not (tmp_path / "nowhere").exists()


def test_a_pipe_for_a_lock(tmp_path):
    os.mkfifo(tmp_path / lock.LOCK_FILE)
    with pytest.raises(files.WriteError, match=r"\.lock must be written whole, got: it is something else than a file"):
        run(tmp_path)


@pytest.fixture
def run_disturbed(tmp_path, monkeypatch):
    """A function that trains, and after six steps of twelve does something to the folder."""
    advance = trainer.Trainer.advance

    def train(disturb):
        def advance_disturbed(self):
            if self.step == 6:
                disturb(tmp_path / "run")
            advance(self)

        monkeypatch.setattr(trainer.Trainer, "advance", advance_disturbed)
        return run(tmp_path / "run")

    return train


def replaced(folder):
    content = (folder / "log.csv").read_bytes()
    (folder / "log.csv").unlink()
    (folder / "log.csv").write_bytes(content)


@pytest.mark.parametrize(
    ("disturb", "warns"),
    [
        (shutil.rmtree, True),
        (lambda folder: folder.rename(folder.with_name("other")), True),
        (lambda folder: (folder / lock.LOCK_FILE).unlink(), True),
        (lambda folder: shutil.rmtree(folder / "tensorboard"), False),
        (lambda folder: (folder / "log.csv").unlink(), False),
        (replaced, False),
    ],
    ids=["removed", "renamed", "unlocked", "board", "log", "edited"],
)
def test_nothing_is_lost_of_what_was_removed_meanwhile(disturb, warns, tmp_path, run_disturbed):
    """The rows, the lock and the checkpoints still to come are there at the end."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = run_disturbed(disturb).history
    assert any("was removed while a run was going on" in str(warning.message) for warning in caught) == warns
    lines = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in lines[1:]] == [row["step"] for row in history] == [2, 4, 6, 8, 10, 12]
    assert (tmp_path / "run" / "model.safetensors").exists()
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert events.stat().st_size > 1000
    assert not (tmp_path / "run" / lock.LOCK_FILE).exists()


def test_a_folder_that_another_run_has_taken(tmp_path, run_disturbed):
    """After it was removed while the first one was going on: their checkpoints must not mix."""
    with contextlib.ExitStack() as other:

        def take(folder):
            shutil.rmtree(folder)
            other.enter_context(lock.locked(folder))

        with pytest.raises(
            ValueError, match=rf"folder must be of no run that is going on, .* process {os.getpid()} is"
        ):
            run_disturbed(take)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [lock.LOCK_FILE]


def work_with_two(rank, folder, results):
    rendezvous = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", rendezvous, rank=rank, world_size=2, timeout=timedelta(seconds=30))
    try:
        with lock.locked(folder / "run"):
            pass
    except Exception as error:
        results.put((rank, type(error), str(error)))
    torch.distributed.barrier()  # ends at the timeout unless both get here


@pytest.mark.slow  # two processes import torch
def test_with_several_processes_all_are_told(tmp_path):
    """The main process takes the lock; when it cannot, nobody waits for it."""
    (tmp_path / "run" / lock.LOCK_FILE).mkdir(parents=True)
    results = multiprocessing.get_context("spawn").Queue()
    torch.multiprocessing.spawn(work_with_two, (tmp_path, results), nprocs=2)
    (_, main_type, main_text), (_, other_type, other_text) = sorted(
        (results.get(timeout=10) for _ in range(2)), key=lambda result: result[0]
    )
    assert (main_type, other_type) == (files.WriteError, ValueError)
    assert "must be written whole, got: Is a directory" in main_text
    assert "folder must be one that the main process can have to itself, got " in other_text


def test_many_at_once(tmp_path):
    """Of threads that all want the folder one at a time has it, though each removes the file at its end."""
    inside, most, refused = [], [], []

    def work():
        for _ in range(300):
            try:
                with lock.locked(tmp_path):
                    inside.append(None)
                    most.append(len(inside))
                    inside.pop()
            except ValueError:
                refused.append(None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) + len(refused) == 8 * 300


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with pytest.warns(RuntimeWarning, match=r"without locks \(Operation not supported\)"), lock.locked(tmp_path):
        pass
