"""Checkpoints: read back whole, or refused in one sentence; never half written."""

import json
import os
import shutil
import stat
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_examples import make_config, make_data, make_model, same_bits

from iresnet_fast import models, training
from iresnet_fast.training import checkpoint, files

pytestmark = pytest.mark.usefixtures("one_thread")


def run(folder, kind="plane", resume=False, **changes):
    data = make_data("plane" if kind == "plane" else "images")
    changes = {"max_steps": 3, "checkpoint_steps": 1, **changes}
    return training.fit(make_model(kind), data, make_config(**changes), folder, resume, show_progress=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a run with checkpoints after 1, 2 and 3 steps, and the same run after 5 steps."""
    torch.set_num_threads(1)
    short, long = tmp_path_factory.mktemp("short"), tmp_path_factory.mktemp("long")
    run(short, decay_start=1.0)
    return short, run(long, max_steps=5, decay_start=1.0)


@pytest.fixture
def folder(runs, tmp_path):
    """A copy of the short one."""
    return Path(shutil.copytree(runs[0], tmp_path / "run"))


def newest(folder):
    return max(folder.glob("checkpoint-*.safetensors"))


@pytest.mark.parametrize("kind", ["plane", "flow", "classifier", "hybrid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_load_model_gives_what_was_trained(kind, dtype, tmp_path):
    data = make_data("plane" if kind == "plane" else "images")
    config = make_config(max_steps=3)
    done = training.fit(make_model(kind).to(dtype), data, config, tmp_path, show_progress=False)
    state = torch.random.get_rng_state()
    for path in (tmp_path, str(newest(tmp_path)), tmp_path / "model.safetensors"):
        model = training.load_model(path)
        assert type(model) is type(done.model)
        assert not model.training
        assert same_bits(model.state_dict(), done.average.state_dict())
        assert training.evaluate(model, data.test, data.test_labels) == done.evaluation
    raw = training.load_model(tmp_path, average=False)
    assert same_bits(raw.state_dict(), done.model.state_dict())
    assert not same_bits(raw.state_dict(), done.average.state_dict())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_file_has_averaged_weights_only(folder):
    with pytest.raises(training.CheckpointError, match="must hold the weights of the optimizer for average=False, got"):
        training.load_model(folder / "model.safetensors", average=False)


def test_without_an_average_the_model_file_has_the_weights(tmp_path):
    done = run(tmp_path, ema=None)
    assert done.average is None
    assert done.best is done.model
    for average in (True, False):
        model = training.load_model(tmp_path / "model.safetensors", average)
        assert same_bits(model.state_dict(), done.model.state_dict())


def test_a_file_is_tensors_and_json(folder):
    """Any reader of safetensors opens it: no pickle, nothing of Python."""
    tensors = load_file(newest(folder))
    states = training.load_model(folder, average=False).state_dict()
    assert same_bits({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, states)
    header = newest(folder).read_bytes()
    size = int.from_bytes(header[:8], "little")
    metadata = json.loads(json.loads(header[8 : 8 + size])["__metadata__"]["iresnet_fast"])
    assert metadata["checksum"] > 0
    found = training.read_metadata(folder)
    assert found == metadata
    assert {name: found[name] for name in ("format", "model", "step", "seed")} == {
        "format": 1,
        "model": "IResNetFlow",
        "step": 3,
        "seed": 0,
    }
    assert models.FlowConfig.from_dict(found["model_config"]) == make_model().config
    assert training.TrainConfig.from_dict(found["train_config"]) == make_config(
        max_steps=3, checkpoint_steps=1, decay_start=1.0
    )
    assert found["data"] == {
        "name": "curve",
        "event_shape": [2],
        "n_levels": None,
        "n_classes": None,
        "n_train": 50,
        "context": None,
        "fingerprint": zlib.crc32(make_data().train.numpy().tobytes()),
        "class_names": None,
        "source": None,
        "table": None,
    }
    assert found["minutes"] > 0.0


def test_the_last_ones_are_kept(tmp_path):
    run(tmp_path, max_steps=7, checkpoint_steps=2, keep=2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-00000006.safetensors",
        "checkpoint-00000007.safetensors",
    ]


def test_files_can_be_read_by_whom_the_umask_allows(folder):
    (folder / "other").touch()
    expected = stat.S_IMODE((folder / "other").stat().st_mode)
    assert stat.S_IMODE(newest(folder).stat().st_mode) == expected


# --- damage ---


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def flip(path, share):
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in the header": lambda path: cut(path, 0.01),
    "cut in the middle": lambda path: cut(path, 0.5),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "text": lambda path: path.write_text("not a checkpoint " * 100),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a bit of a weight": lambda path: flip(path, 0.7),
    "a bit of the optimizer": lambda path: flip(path, 0.97),
    "the step": lambda path: path.write_bytes(path.read_bytes().replace(b'\\"step\\": 3', b'\\"step\\": 7')),
    "no JSON": lambda path: path.write_bytes(path.read_bytes().replace(b'{\\"format', b'!\\"format')),
    "foreign": lambda path: save_file({"weight": torch.ones(3)}, path),
    "foreign metadata": lambda path: save_file({"weight": torch.ones(3)}, path, {"iresnet_fast": "[1]"}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_resume_falls_back_to_the_one_before(damage, folder, runs):
    before = newest(folder).read_bytes()
    DAMAGE[damage](newest(folder))
    assert newest(folder).read_bytes() != before
    with pytest.warns(RuntimeWarning, match=r"checkpoint-00000003.safetensors must .*\. Going back to the one before"):
        again = run(folder, resume=True, max_steps=5, decay_start=1.0)
    whole = runs[1]
    assert same_bits(again.best.state_dict(), whole.best.state_dict())
    assert [row["step"] for row in again.history] == [row["step"] for row in whole.history]
    # The damaged file is set aside, so that it does not count as the newest.
    assert (folder / "checkpoint-00000003.safetensors.damaged").exists()
    assert training.read_metadata(folder)["step"] == 5


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "the step"])
def test_a_damaged_file_is_not_loaded(damage, folder):
    path = newest(folder)
    DAMAGE[damage](path)
    with pytest.raises(training.CheckpointError, match=rf"^{path} must .*, got .*\.$") as caught:
        training.load_model(path)
    assert "\n" not in str(caught.value)


def test_with_all_of_them_damaged_resume_ends_in_a_sentence(folder):
    for path in folder.glob("checkpoint-*"):
        cut(path, 0.5)
    with (
        pytest.warns(RuntimeWarning, match="Going back"),
        pytest.raises(
            training.CheckpointError, match="must hold a checkpoint that can be read, got 3 damaged ones; start"
        ),
    ):
        run(folder, resume=True, decay_start=1.0)
    assert len(list(folder.glob("checkpoint-*.safetensors"))) == 3  # nothing is written over


def rewrite(path, **changes):
    found = checkpoint.read(path)
    checkpoint.write(path, found.tensors, {**found.metadata, **changes})


def test_a_checkpoint_from_before_a_field_goes_on(folder, runs):
    """The run had what is the default now; with another value it is another run."""
    newer = ("betas", "accumulate", "decay", "decay_at", "decay_factor", "restarts", "shift_padding")
    for path in folder.glob("*.safetensors"):
        config = checkpoint.read(path).metadata["train_config"]
        rewrite(path, train_config={name: value for name, value in config.items() if name not in newer})
    config = training.TrainConfig.from_dict(training.read_metadata(folder)["train_config"])
    assert config == make_config(max_steps=3, checkpoint_steps=1, decay_start=1.0)
    training.load_model(folder)
    with pytest.raises(
        training.CheckpointError, match="a TrainConfig with decay = 'steps' to go on from, got 'linear'"
    ):
        run(folder, resume=True, max_steps=5, decay_start=1.0, decay="steps")
    again = run(folder, resume=True, max_steps=5, decay_start=1.0)
    assert same_bits(again.best.state_dict(), runs[1].best.state_dict())


def test_a_later_format_is_said(folder):
    rewrite(newest(folder), format=2)
    with pytest.raises(training.CheckpointError, match=r"must have format 1, got 2 of version .*; use that version"):
        training.load_model(folder)
    with pytest.raises(training.CheckpointError, match="must have format 1, got 2"):
        run(folder, resume=True, decay_start=1.0)


def test_a_model_of_ones_own_is_said(folder):
    rewrite(newest(folder), model="MyFlow")
    with pytest.raises(training.CheckpointError, match=r"must hold one of IResNetFlow, .*, got 'MyFlow'; build the"):
        training.load_model(folder)


def test_weights_of_another_model_are_said(folder):
    config = training.read_metadata(folder)["model_config"]
    for changes in ({"blocks": [3]}, {"hidden": [8, 8]}):
        rewrite(newest(folder), model_config={**config, **changes})
        with pytest.raises(training.CheckpointError, match="must hold the weights of this IResNetFlow, but ") as caught:
            training.load_model(folder)
        assert "\n" not in str(caught.value)


def test_paths_that_are_nothing(tmp_path):
    with pytest.raises(
        training.CheckpointError, match=r"must hold a checkpoint or model.safetensors, got neither; pass"
    ):
        training.load_model(tmp_path)
    with pytest.raises(training.CheckpointError, match="must be a checkpoint, got no such file; check the path"):
        training.read_metadata(tmp_path / "none.safetensors")


# --- writing ---


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(call, folder, monkeypatch):
    """At whatever moment: the file has its old content under its name, nothing else is there, and the path is said."""
    path = newest(folder)
    before, found = path.read_bytes(), checkpoint.read(path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match=f"^{path} must be written whole, got: No space left on device; make room"):
            checkpoint.write(path, found.tensors, {**found.metadata, "step": 4})
    assert path.read_bytes() == before
    assert not list(folder.glob("*.writing"))


def test_the_next_start_clears_what_a_killed_run_was_writing(folder, runs):
    left = folder / f"checkpoint-00000004.safetensors.12345{files.TEMPORARY}"
    left.write_bytes(b"half a checkpoint")
    again = run(folder, resume=True, max_steps=5, decay_start=1.0)
    assert not left.exists()
    assert same_bits(again.best.state_dict(), runs[1].best.state_dict())


def test_the_content_is_on_the_disk_before_the_name(folder, monkeypatch):
    """Otherwise a power failure could leave a new name on old blocks."""
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("replace"), replace(*paths))[1])
    found = checkpoint.read(newest(folder))
    checkpoint.write(folder / "x.safetensors", found.tensors, found.metadata)
    assert events == ["sync", "replace", "sync"]


def test_all_kinds_of_tensors_come_back(tmp_path):
    tensors = {
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "flag": torch.tensor(True),
        "empty": torch.empty(0),
        "half": torch.randn(3).bfloat16(),
        "transposed": torch.randn(3, 5).T,
        "counts": torch.arange(4),
    }
    checkpoint.write(tmp_path / "a.safetensors", tensors, {})
    found = checkpoint.read(tmp_path / "a.safetensors")
    assert same_bits(found.tensors, tensors)
    assert {name: value.dtype for name, value in found.tensors.items()} == {k: v.dtype for k, v in tensors.items()}
