"""run.yaml: what a run was, read back as it was written, and refused in one sentence where it was edited badly."""

import math
import sys
import time

import pytest
import torch
import yaml
from training_examples import make_config, make_data, make_model

from iresnet_fast import models, training
from iresnet_fast.cli import main
from iresnet_fast.data import ImageOptions, Source, TableOptions
from iresnet_fast.training import resume, run_file

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("no", "1e-3", "1:30", "010", "0x1f", "~", "null", "2020-01-01", "=", "- a", "ü, 'x': \"y\"", " ", "a\nb", "#")


def identity(kind="plane", source=None, **changes):
    model, data = make_model(kind), make_data("plane" if kind in ("plane", "lipswish") else "images")
    found = resume.identity(model, model.config, data, make_config(**changes))
    if source is not None:
        found["data"]["source"] = source.to_dict()
    return found


def written(folder, **options):
    run_file.write(folder, identity(**options), 5)
    return folder / "run.yaml"


@pytest.mark.parametrize("kind", ["plane", "flow", "classifier", "hybrid"])
def test_it_is_read_as_it_was_written(kind, tmp_path):
    config = {"betas": (0.9, 0.99), "learning_rate": 1e-5, "class_weights": "balanced", "max_minutes": 1e6}
    found = run_file.read(written(tmp_path, kind=kind, **config))
    assert found.model == type(make_model(kind)).__name__
    assert found.model_config == make_model(kind).config
    assert found.train_config == make_config(**config)
    assert (found.source, found.data, found.initial_seed) == (None, make_data(kind).name, 5)


def test_texts_stay_texts(tmp_path):
    """Names of columns that YAML 1.1, YAML 1.2 or nobody takes for something else; another reader agrees."""
    source = Source(("/a/b c.csv",), "/r", 3, NAMES, TableOptions(columns=NAMES, decimal=","), ImageOptions((3, 4)))
    path = written(tmp_path, source=source)
    assert run_file.read(path).source == source
    with path.open(encoding="utf-8") as file:
        assert yaml.safe_load(file)["data"]["context"] == list(NAMES)


def test_every_run_has_one_and_it_says_how_to_use_it(tmp_path):
    training.fit(make_model(), make_data(), make_config(max_steps=1), tmp_path, show_progress=False, initial_seed=3)
    path = tmp_path / "run.yaml"
    assert path.read_text().startswith("# What this run is. To do it again: iresnet-fast train --config run.yaml")
    assert run_file.read(path).initial_seed == 3
    training.fit(make_model(), make_data(), make_config(max_steps=2), tmp_path, True, show_progress=False)
    assert run_file.read(path).train_config.max_steps == 2


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "0.001", ".001", "1.0e-3", "+1e-3"])
def test_numbers_as_people_write_them(number, tmp_path):
    path = edited(written(tmp_path), "learning_rate: 0.01", f"learning_rate: {number}")
    assert run_file.read(path).train_config.learning_rate == 1e-3


def test_infinity_is_a_number(tmp_path):
    with pytest.raises(ValueError, match=r"train_config.learning_rate must be positive and finite, got inf"):
        run_file.read(edited(written(tmp_path), "learning_rate: 0.01", f"learning_rate: .{math.inf}"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("learning_rate: 0.01", "learning_rate: fast", "train_config.learning_rate must be a number, got 'fast'"),
        ("learning_rate: 0.01", "learning_rte: 0.01", "train_config must have keys that there are, got 'learning_rte'"),
        ("learning_rate: 0.01", "learning_rate: -1", "train_config.learning_rate must be positive and finite, got -1"),
        ("flip: false", "flip: no", "train_config.flip must be true or false, got 'no'"),
        ("batch_size: 12", "batch_size: 012", "train_config.batch_size must be an integer, got '012'"),
        ("batch_size: 12", "batch_size: 1:30", "train_config.batch_size must be an integer, got '1:30'"),
        ("batch_size: 12", "batch_size: [12]", "train_config.batch_size must be an integer, got a list of 1"),
        ("hidden: [16, 16]", "hidden: 16", "model_config.hidden must be a list, each an integer, got 16"),
        ("coeff: 0.9", "coeff: 1.5", r"model_config.coeff must be in \(0, 1\), got 1.5"),
        ("{type: FixedPoint,", "{type: os.system,", "model_config.*type must be one of|model_config.solver must be"),
        ("model: IResNetFlow", "model: Net", "model must be one of IResNetFlow, .*, got 'Net'"),
        ("data: curve", "data: [curve]", "data must be an object or a text, got a list of 1"),
        ("data: curve", "data: {names: curve}", "data: source.names must be a list, each a text, got 'curve'"),
        ("data: curve", "data: {name: [curve]}", "data must have keys that there are, got 'name'"),
        ("data: curve", "data: {seed: 3}", "data.names must be given, got none"),
        ("data: curve", "data: {names: [a], table: {sep: x}}", "data.table must have keys that there are, got 'sep'"),
        ("model: IResNetFlow\n", "", "model must be given, got none"),
        ("model: IResNetFlow", "model: IResNetFlow\nfolder: x", "its keys must be of version, data, .*, got 'folder'"),
        ("initial_seed: 5", "initial_seed: five", "initial_seed must be an integer or null, got 'five'"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(old, new, said, tmp_path):
    path = edited(written(tmp_path), old, new)
    with pytest.raises(ValueError, match=f"^{path} must say what a run is, but .*({said})") as caught:
        run_file.read(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "an alias, "),
        ("a: &a [*a]\n", "an alias, "),
        ("data: !!python/object/apply:os.system ['touch hacked']\n", "could not determine a constructor"),
        ("data: !!python/name:os.system\n", "could not determine a constructor"),
        ("data: x\ndata: y\n", "the key 'data' twice"),
        ("[" * 100_000, "too many levels|line 1"),
        ("data: [\n", "line 2"),
        ("data: \x00\n", "special characters are not allowed"),
        ("--- 1\n--- 2\n", "but found another document"),
        ("? [a]\n: b\n", "unhashable|an object"),
    ],
)
def test_what_is_no_yaml_of_ours(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    began = time.monotonic()
    with pytest.raises(
        ValueError, match=rf"run.yaml must (be YAML as fit writes it, got|say what a run is, but) .*({said})"
    ):
        run_file.read(path)
    assert time.monotonic() - began < 20.0
    assert [found.name for found in tmp_path.iterdir()] == ["run.yaml"]


def test_bytes_that_are_no_text_too_many_and_none(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"run\.yaml must be YAML as fit writes it"):
        run_file.read(path)
    path.write_text("# x\n" * 300_000)
    with pytest.raises(ValueError, match=r"run\.yaml must have 1048576 bytes at most, got more"):
        run_file.read(path)
    path.write_text("")
    with pytest.raises(
        ValueError, match=r"run\.yaml must say what a run is, but the whole must be an object, got None"
    ):
        run_file.read(path)
    with pytest.raises(ValueError, match="must be a file that can be read, got a folder"):
        run_file.read(tmp_path)


def test_without_a_reader_of_yaml_nothing_begins(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"training needs PyYAML, got none; pip install 'iresnet_fast\[train\]'"
    ):
        training.fit(make_model(), make_data(), make_config(max_steps=1), tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()


TINY = ["--set", "blocks=[1]", "--set", "hidden=[8]", "--quiet", "--threads", "1"]


def outcome(folder):
    found = training.load_model(folder)
    assert isinstance(found, models.IResNetFlow)
    return found.state_dict()


@pytest.mark.parametrize("extra", [[], ["--seed", "4", "--ema", "none", "--validation", "0.1"]])
def test_a_run_is_done_again(extra, tmp_path, monkeypatch):
    """From another folder, to the same bits: the options are in the file."""
    first, second, third = (tmp_path / name for name in ("a", "b", "c"))
    arguments = ["train", "--data", "moons", *TINY, "--max-steps", "5", "--batch-size", "50", *extra]
    assert main([*arguments, "--folder", str(first)]) == 0
    monkeypatch.chdir(tmp_path)
    again = ["train", "--config", str(first / "run.yaml"), "--quiet", "--threads", "1"]
    assert main([*again, "--folder", str(second)]) == 0
    ours, theirs = outcome(second), outcome(first)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert (first / "run.yaml").read_text() == (second / "run.yaml").read_text()
    assert main([*again, "--folder", str(third), "--max-steps", "3", "--set", "hidden=[4]"]) == 0
    changed = run_file.read(third / "run.yaml")
    assert (changed.train_config.max_steps, changed.model_config.hidden) == (3, (4,))
    assert changed.train_config.batch_size == 50


def test_a_run_of_data_made_in_python_needs_data(tmp_path, capsys):
    training.fit(make_model(), make_data(), make_config(max_steps=1), tmp_path / "a", show_progress=False)
    config = str(tmp_path / "a" / "run.yaml")
    assert main(["train", "--config", config]) == 2
    assert f"--data must be given for {config}, whose data, curve, were made in Python" in capsys.readouterr().err
    arguments = ["--data", "moons", "--folder", str(tmp_path / "b"), "--quiet"]
    assert main(["train", "--config", config, *arguments]) == 0
    assert "initial weights: drawn by the seed of the run" in capsys.readouterr().out
