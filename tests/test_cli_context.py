"""`--context`: columns of a table that the density of the others depends on, from training to samples."""

import warnings

import numpy as np
import pytest
import torch
from matplotlib import image

from iresnet_fast import data, training
from iresnet_fast.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = ["--set", "blocks=[1]", "--set", "hidden=[8,8]", "--batch-size", "20", "--quiet"]


def rows():
    """x, a, y, b: x is 5 + a / 100 but for some noise, a is of order a thousand, y and b are noise."""
    rng = np.random.default_rng(0)
    a = 2000.0 + 100.0 * rng.standard_normal(200)
    return np.stack((a / 100.0 - 15.0 + 0.1 * rng.standard_normal(200), a, *rng.standard_normal((2, 200))), 1)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A file with names."""
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    np.savetxt(path, rows(), delimiter=",", header="x, a ,y,b", comments="", fmt="%.17g")
    return path


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    """The folder of a flow of x and y given b and a."""
    folder = tmp_path_factory.mktemp("runs") / "table"
    arguments = ["train", "--data", str(table), "--context", "b,a", *TINY, "--max-steps", "60", "--folder", str(folder)]
    assert main([*arguments, "--learning-rate", "0.01", "--threads", "1"]) == 0
    return folder


def test_columns_become_the_context(table, tmp_path):
    whole, split = data.load(table), data.load(table, context=("b", "a"))
    assert split.context_names == ("b", "a")
    for part in ("train", "test"):
        everything = getattr(whole, part)
        assert torch.equal(getattr(split, part), everything[:, [0, 2]])
        assert torch.equal(getattr(split, f"{part}_context"), everything[:, [3, 1]])
    np.save(tmp_path / "rows.npy", rows().astype(np.float32))
    by_number = data.load("rows.npy", tmp_path, context=("4", "2"))
    assert torch.equal(by_number.test_context, split.test_context)
    parts = {"train": rows()[:150].astype(np.float32), "test": rows()[150:].astype(np.float32)}
    np.savez(tmp_path / "parts.npz", **parts)
    given = data.load("parts.npz", tmp_path, context=("1",))
    assert torch.equal(given.test_context, torch.from_numpy(parts["test"][:, :1]))


def test_a_constant_column_may_be_a_context(tmp_path):
    table = rows()
    table[:, 1] = 7.0
    np.save(tmp_path / "rows.npy", table)
    assert data.load("rows.npy", tmp_path, context=("2",)).context_features == 1
    with pytest.raises(data.DataError, match="got the same number in all training rows of column 2; remove it"):
        data.load("rows.npy", tmp_path, context=("1",))


def test_train_evaluate_and_info(run, table, capsys):
    model, dataset = training.load_model(run), data.load(table, context=("b", "a"))
    assert (model.config.event_shape, model.config.context_features) == ((2,), 2)
    for name in ("samples.png", "density.png", "curves.png"):
        assert image.imread(run / name)[..., :3].std() > 0.01
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    expected = training.evaluate(model, dataset.test, context=dataset.test_context)
    assert capsys.readouterr().out.splitlines()[0] == str(expected)
    assert main(["evaluate", str(run), "--samples", "10"]) == 0
    assert "(10 samples)" in capsys.readouterr().out
    # x alone has a standard deviation of 1, and one of 0.1 given a: the shuffled contexts are not as good.
    shuffled = training.evaluate(model, dataset.test, context=dataset.test_context.flip(0))
    assert expected.metrics["nats"] < shuffled.metrics["nats"] - 0.5
    assert main(["info", str(run)]) == 0
    assert '  context: ["b", "a"]\n' in capsys.readouterr().out
    assert main(["reconstruct", str(run), "--n", "3", "--out", str(run / "reconstructions.csv")]) == 0
    assert "certified" in capsys.readouterr().out


def test_evaluate_finds_the_columns_of_another_file_by_their_names(run, table, tmp_path, capsys):
    np.savetxt(
        tmp_path / "other.csv", rows()[:, [1, 0, 2, 3]], delimiter=",", header="a,x,y,b", comments="", fmt="%.17g"
    )
    for path in (table, tmp_path / "other.csv"):
        assert main(["evaluate", str(run), "--data", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[3]
    assert "(200 samples)" in lines[0]


def test_samples_are_drawn_at_raw_values(run, tmp_path):
    low, high = tmp_path / "low.npy", tmp_path / "high.npy"
    for path, a in ((low, 1900.0), (high, 2100.0)):
        arguments = ["--npy", str(path), "--n", "200", "--out", str(tmp_path / "s.png")]
        assert main(["sample", str(run), f"--context=-0.5,{a}", *arguments]) == 0
    expected = training.load_model(run).sample(200, torch.tensor([-0.5, 1900.0]), seed=0)
    np.testing.assert_array_equal(np.load(low), expected.numpy())
    # The true means are 4 and 6.
    assert np.load(high)[:, 0].mean() - np.load(low)[:, 0].mean() > 1.0


def test_a_context_far_from_those_of_training_is_told(run, tmp_path):
    """b is of order one and a of some 2000 +- 100, so that b is a hundred and a five standard deviations away."""
    arguments = ["sample", str(run), "--n", "2", "--out", str(tmp_path / "s.csv")]
    with pytest.warns(RuntimeWarning, match=r"iresnet_fast: b \(1\d\d?\) of the context: so many standard deviations"):
        assert main([*arguments, "--context=100,2500"]) == 0
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "iresnet_fast: .* of the context")
        assert main([*arguments, "--context=1,2100"]) == 0


def test_resume(table, tmp_path, capsys):
    arguments = ["train", "--data", str(table), *TINY, "--folder", str(tmp_path / "run")]
    assert main([*arguments, "--context", "a", "--max-steps", "2"]) == 0
    assert main([*arguments, "--context", "a", "--max-steps", "3", "--resume"]) == 0
    capsys.readouterr()
    for others, context in (([], "None"), (["--context", "b"], "['b']")):
        assert main([*arguments, *others, "--max-steps", "4", "--resume"]) == 2
        assert f"must be of data with context = {context} to go on from, got ['a']; pass" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context", "c"], "--context must be columns of {}: x, a, y, b, got 'c', none of them; correct it."),
        (["--context", "2"], "--context must be columns of {}: x, a, y, b, got '2', none of them; correct it."),
        (["--context", "a,a"], "--context must name a column once, got a, a; leave one out."),
        (["--context", "x,a,y,b"], "--context must leave a column of {} to model, got all 4 of them; leave one out."),
        (["--context", "a", "--model", "classifier"], "a classifier needs images with labels, got vectors without la"),
        (
            ["--context", "a", "--model", "idensenet", "--preset", "toy"],
            "context_features must be 0 for dense branches, got 1; use",
        ),
        (["--set", "context_features=2"], "context_features of the model must be 0, that of {}, got 2; build the mod"),
        (["--context", "a", "--data", "moons"], "--context must be none for moons, which has no columns, got a; use a"),
    ],
)
def test_errors_of_train(table, tmp_path, capsys, arguments, message):
    assert main(["train", "--data", str(table), *TINY, "--folder", str(tmp_path / "run"), *arguments]) == 2
    assert message.format(table) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_errors_of_columns(tmp_path):
    np.save(tmp_path / "rows.npy", rows())
    message = r"rows.npy: numbers from 1 to 4, as it has no names, got '5', none of them; correct it"
    with pytest.raises(data.DataError, match=message):
        data.load("rows.npy", tmp_path, context=("5",))
    for context in ("12", (1, 2)):
        with pytest.raises(TypeError, match="context must be a list or tuple of texts, the names or"):
            data.load("rows.npy", tmp_path, context=context)
    (tmp_path / "twice.csv").write_text("x,a,a\n" + "1,2,3\n" * 30)
    with pytest.raises(data.DataError, match="got 'a', that of several; correct it"):
        data.load("twice.csv", tmp_path, context=("a",))
    np.savez(tmp_path / "parts.npz", train=rows(), test=rows()[:, :3])
    with pytest.raises(data.DataError, match=r"test in .*npz must have the columns of train in .*, 4, got 3; correct"):
        data.load("parts.npz", tmp_path, context=("1",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--given must be the context of this model, b, a, got none; pass e.g. --given b="),
        (
            ["--context", "1"],
            "--context must be 2 numbers, of b, a, for this model, got 1; pass e.g. --context=0.5,0.5",
        ),
        (["--context", "1,nan"], "--context must be finite numbers, got 1.0, nan; correct it."),
        (["--context", "1,a"], "argument --context: invalid numbers, separated by commas value: '1,a'"),
    ],
)
def test_errors_of_sample(run, tmp_path, capsys, arguments, message):
    assert main(["sample", str(run), "--out", str(tmp_path / "s.png"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s.png").exists()


def test_a_model_without_a_context_takes_none(table, tmp_path, capsys):
    folder = str(tmp_path / "run")
    assert main(["train", "--data", str(table), *TINY, "--max-steps", "1", "--folder", folder]) == 0
    assert main(["sample", folder, "--npy", str(tmp_path / "s.npy"), "--context", "1"]) == 2
    assert "--context must be left out for this model, got 1; this model has no context." in capsys.readouterr().err
