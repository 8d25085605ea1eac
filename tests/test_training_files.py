"""The disk is full: the message names the file, the old one stays, and nothing else is left."""

import copy
import errno
import os
import pickle
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from training_examples import make_config, make_data, make_model

from iresnet_fast import training
from iresnet_fast.cli import main
from iresnet_fast.training import board, checkpoint, files, log, pictures

pytestmark = pytest.mark.usefixtures("one_thread")


def run(folder, resume=False, **changes):
    config = make_config(**{"max_steps": 6, "checkpoint_steps": 2, **changes})
    return training.fit(make_model(), make_data(), config, folder, resume, show_progress=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    run(folder, decay_start=1.0)
    return folder


@pytest.fixture
def limit():
    """A function that lets no file grow beyond so many bytes, as on a full disk; then put back."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


WRITERS = {
    "checkpoint": lambda path: checkpoint.write(path, {"x": torch.randn(5000)}, {}),
    "picture": lambda path: pictures.points(torch.randn(50, 2), path),
}


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("what", WRITERS)
def test_a_file_is_written_whole_or_not_at_all(what, old, tmp_path, limit):
    path = tmp_path / "file.png"
    if old:
        path.write_bytes(b"old")
    before = contents(tmp_path)
    limit(1000)
    with pytest.raises(files.WriteError) as caught:
        WRITERS[what](path)
    assert (
        str(caught.value) == f"{path} must be written whole, got: File too large; make room for it or write elsewhere."
    )
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_at_whatever_moment(call, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call != "write":
        monkeypatch.setattr(os, call, fail)

    def write():
        with files.writing(path) as file:
            file.write(b"new")
            if call == "write":
                fail()

    with pytest.raises(files.WriteError, match=f"^{path} must be written whole, got: No space left on device; "):
        write()
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError("no number")])
def test_the_error_of_another_process_is_handed_on(error, tmp_path):
    """Pools and spawned processes pickle it."""
    found = files.WriteError(tmp_path / "file", error)
    for again in (pickle.loads(pickle.dumps(found)), copy.copy(found)):
        assert type(again) is files.WriteError
        assert str(again) == str(found)
        assert (again.errno, again.filename) == (error.errno, str(tmp_path / "file"))


def test_an_interrupt_leaves_nothing(tmp_path):
    def write():
        with files.writing(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "said"),
    [(os.mkfifo, "a named pipe"), (lambda path: path.symlink_to("/dev/full"), "a device"), (os.mkdir, "a folder")],
)
def test_what_is_no_file_is_not_replaced(make, said, tmp_path):
    path = tmp_path / "out.png"
    make(path)
    with pytest.raises(files.WriteError, match=f"must be written whole, got: it is {said}; "):
        pictures.points(torch.randn(5, 2), path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.is_symlink() or not path.is_file()


def test_a_row_of_the_log_is_there_or_not(tmp_path, limit):
    rows = log.Log(tmp_path, ("nats",), 0)
    rows.write({"step": 1, "loss": 0.5})
    before = (tmp_path / "log.csv").read_bytes()
    limit(len(before) + 5)
    with pytest.raises(files.WriteError, match=f"^{tmp_path / 'log.csv'} must be written whole, got: File too large"):
        rows.write({"step": 2, "loss": 0.25})
    assert (tmp_path / "log.csv").read_bytes() == before
    assert [row["step"] for row in rows.rows] == [1]
    rows.close()


def open_files(folder):
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return [path for path in map(os.path.realpath, links) if path.startswith(str(folder))]


def test_a_log_that_cannot_begin_leaves_nothing_open(tmp_path, limit):
    """TensorBoard's folder is a file, or there is room for the one line of log.csv only."""
    (tmp_path / "tensorboard").write_text("x")
    # What the error keeps alive is still there when the files are counted.
    with pytest.raises(
        files.WriteError, match=f"^{tmp_path}/tensorboard/events.* must be written whole, got: "
    ) as said:
        log.Log(tmp_path, ("nats",), 0)
    assert open_files(tmp_path) == [], said
    (tmp_path / "tensorboard").unlink()
    size = (tmp_path / "log.csv").stat().st_size
    limit(size)
    long = board.Board._write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board.Board, "_write", lambda self, step, **_: long(self, step, file_version="x" * size))
        with pytest.raises(files.WriteError, match=r"events.* must be written whole, got: File too large") as said:
            log.Log(tmp_path, ("nats",), 0)
    assert open_files(tmp_path) == [], said


def test_a_log_that_cannot_be_opened_is_said(tmp_path, monkeypatch):
    """Refused by a patch: for root no permission is missing."""
    opened = type(tmp_path).open

    def refuse(self, mode="r", *arguments, **options):
        if mode == "ab":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(self, mode, *arguments, **options)

    monkeypatch.setattr(type(tmp_path), "open", refuse)
    with pytest.raises(files.WriteError, match=r"log.csv must be written whole, got: Permission denied; make room"):
        log.Log(tmp_path, ("nats",), 0)


def test_so_is_what_tensorboard_shows(tmp_path, limit):
    shown = board.Board(tmp_path, 1)
    shown.add_scalars({"loss": 0.5}, 1)
    (events,) = tmp_path.iterdir()
    before = events.read_bytes()
    limit(len(before) + 20)
    with pytest.raises(files.WriteError, match=f"^{events} must be written whole, got: File too large"):
        shown.add_scalars({"loss": 0.25}, 2)
    assert events.read_bytes() == before
    shown.close()


def test_a_run_ends_in_a_sentence_and_goes_on_later(tmp_path, trained, limit):
    """The checkpoint before is whole; with room again the run ends as one that always had it."""
    folder = tmp_path / "run"
    run(folder, max_steps=2, decay_start=1.0)
    before = contents(folder)
    # Below that of step 4 too: the times in a checkpoint have more digits or fewer.
    limit(checkpoint.path_of(folder, 2).stat().st_size - 200)
    with pytest.raises(files.WriteError, match=re.escape(str(checkpoint.path_of(folder, 4)))):
        run(folder, resume=True, decay_start=1.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert contents(folder).keys() == before.keys()
    assert checkpoint.read_newest(folder).metadata["step"] == 2
    run(folder, resume=True, decay_start=1.0)
    ours, theirs = (training.load_model(path).state_dict() for path in (folder, trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("option", ["--out", "--npy"])
def test_samples(option, tmp_path, trained, limit, capsys):
    out = {"--out": tmp_path / "a.png", "--npy": tmp_path / "a.npy"}
    limit(100)
    arguments = ["sample", str(trained), "--n", "50", "--out", str(out["--out"])]
    assert main([*arguments, *(["--npy", str(out["--npy"])] if option == "--npy" else [])]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"iresnet-fast: {out[option]} must be written whole, got: File too large; make room")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_samples_are_written(tmp_path, trained):
    path = tmp_path / "new" / "a.npy"
    assert main(["sample", str(trained), "--n", "5", "--npy", str(path), "--out", str(tmp_path / "a.png")]) == 0
    assert np.load(path).shape == (5, 2)


def test_training_on_a_full_disk_from_the_command_line(tmp_path):
    """One line on stderr, and in the folder nothing that is not whole."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "from iresnet_fast.cli import main; sys.exit(main())"
    )
    options = ["--data", "moons", "--set", "blocks=[1]", "--max-steps", "3", "--quiet", "--folder", str(tmp_path)]
    ended = subprocess.run([sys.executable, "-c", script, "train", *options], capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert re.fullmatch(
        rf"iresnet-fast: {tmp_path}/\S+ must be written whole, got: File too large; [^\n]*\.\n", ended.stderr
    )
    assert not list(tmp_path.glob("*.writing"))
    assert {path.name for path in tmp_path.iterdir()} <= {"log.csv", "run.yaml", "tensorboard"}
