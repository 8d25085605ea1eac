"""What stands in the place of a file of a run, or is a damaged one: one sentence each, without a wait."""

import json
import os
import re
import struct
from pathlib import Path

import mutations
import pytest
from no_files import NO_FILES
from short_runs import newest, run, sentence_of

from iresnet_fast import training
from iresnet_fast.cli import main
from iresnet_fast.training import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path):
    run(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("what", [name for name in NO_FILES if name != "hole"])
def test_what_is_no_file_is_not_waited_for(what, folder, capsys):
    path = newest(folder)
    path.unlink()
    NO_FILES[what](path)

    def both():
        for call in (training.load_model, training.read_metadata):
            sentence_of(call, path)
        sentence_of(training.load_model, folder)

    assert mutations.outcome(both, (), seconds=20) == "loaded"
    if what == "pipe":
        assert "must be a checkpoint, got a named pipe; check the path" in sentence_of(training.load_model, path)
        assert main(["info", str(path)]) == 2
        assert re.fullmatch(r"iresnet-fast: .* got a named pipe; .*\.\n", capsys.readouterr().err)


def test_a_log_that_is_a_pipe(folder):
    (folder / "log.csv").unlink()
    os.mkfifo(folder / "log.csv")
    with pytest.raises(ValueError, match=r"log.csv must be a file that can be read, got a named pipe; move it away"):
        run(folder, resume=True, max_steps=3)


def with_a_hole(path, gigabytes):
    """A file that says it is a checkpoint, as long as it says, with nothing in it."""
    size = gigabytes << 30
    tensor = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    metadata = {"iresnet_fast": json.dumps({"format": 1, "version": "0.1.0", "checksum": 1})}
    header = json.dumps({"model.x": tensor, "__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + size)


@pytest.mark.parametrize(("gigabytes", "limit"), [(1000, 1e6), (6, 4.0)])
def test_more_than_there_is_memory_for(gigabytes, limit, folder):
    path = checkpoint.path_of(folder, 9)
    with_a_hole(path, gigabytes)

    def load_and_go_on():
        for call in (lambda: training.load_model(folder), lambda: run(folder, resume=True, max_steps=3)):
            assert f"{path} must fit in half of the memory, got one of {path.stat().st_size} bytes" in sentence_of(call)

    assert mutations.outcome(load_and_go_on, (), limit) == "loaded"


def test_a_log_without_an_end(folder):
    os.truncate(folder / "log.csv", 1 << 36)
    with pytest.raises(ValueError, match=r"log.csv must be the log of this run, got 'more than 268435456 bytes'"):
        run(folder, resume=True, max_steps=3)


def test_folders_where_a_run_has_files(folder):
    """Those that a run would remove are left alone; what stands in the way is said."""
    (folder / "x.1.writing").mkdir()
    checkpoint.path_of(folder, 0).mkdir()
    run(folder, resume=True, max_steps=5, keep=1)
    assert (folder / "x.1.writing").is_dir()
    assert checkpoint.paths(folder) == [checkpoint.path_of(folder, 5), checkpoint.path_of(folder, 0)]
    checkpoint.path_of(folder, 9).touch()
    damaged = Path(f"{checkpoint.path_of(folder, 9)}.damaged")
    damaged.mkdir()
    with (
        pytest.warns(RuntimeWarning, match="Going back"),
        pytest.raises(OSError, match=f"{damaged} must be written whole, got: Is a directory; "),
    ):
        run(folder, resume=True, max_steps=6)


@pytest.mark.parametrize("path", [3, None, b"run", ["run"]])
@pytest.mark.parametrize("call", [training.load_model, training.read_metadata])
def test_what_is_no_path(call, path):
    with pytest.raises(TypeError, match=r"path must be a path, got .*; pass the folder of a run\.$"):
        call(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("\r\n1,", "\r\none,", 1), "got 'one,"),
        (lambda text: text.replace("\r\n1,", "\r\n,", 1), "in line 2"),
        (lambda text: text.replace("\r\n2,", "\r\n2,0.5,", 1), "in line 3"),
        (lambda text: text.replace("step,", "steps,"), "in line 1"),
        (lambda text: text.replace("step,", "step,luck,"), "got 'step,luck,epoch"),
        (lambda text: "\0" * 200 + "\n", "in line 1"),
        (lambda text: "\n", "got '' in line 1"),
    ],
)
def test_a_damaged_log_is_said(change, words, tmp_path):
    run(tmp_path, log_steps=1)
    path = tmp_path / "log.csv"
    text = path.read_bytes().decode()
    path.write_bytes(change(text).encode())
    with pytest.raises(ValueError, match=r"log.csv must be the log of this run, got .*; put the file back") as caught:
        run(tmp_path, resume=True, max_steps=3, log_steps=1)
    assert words in str(caught.value)


def test_half_a_row_at_the_end_of_a_log_is_left_out(tmp_path):
    """As a power failure leaves it."""
    run(tmp_path, log_steps=1)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("1")
    assert [row["step"] for row in run(tmp_path, resume=True, max_steps=3, log_steps=1).history] == [1, 2, 3]
