"""`iresnet-fast score`: a line for each row of a file, in order, with numbers that are known for a normal density."""

import csv
import math

import numpy as np
import pytest
import torch
from gaussian_runs import gaussian_flow, normal_of, save_run
from training_examples import make_data, make_model

from iresnet_fast import data, training
from iresnet_fast.cli import main
from iresnet_fast.data import Column, TableSchema
from iresnet_fast.training.batches import Batch
from iresnet_fast.training.typicality import p_values, training_scores

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEMA = TableSchema((Column("a"), Column("b", shift=1e6, scale=4.0)), (), "drop")


def rows(n=200, seed=0):
    """Two columns in the units of the file: b is large, and depends on a."""
    noise = np.random.default_rng(seed).normal(size=(n, 2))
    return np.stack((noise[:, 0], 1e6 + 8.0 * noise[:, 0] + 6.0 * noise[:, 1]), 1)


@pytest.fixture(scope="module")
def encoded():
    return SCHEMA.encode(data.Table("rows", ("a", "b"), tuple(rows().T))).x


@pytest.fixture(scope="module")
def run(tmp_path_factory, encoded):
    """A run whose density is the normal one of `rows`, with its training scores."""
    flow = gaussian_flow(encoded)
    scores = training_scores(flow, Batch(encoded))
    return save_run(tmp_path_factory.mktemp("runs") / "run", flow, SCHEMA, scores)


def write(path, names, lines):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *lines])
    return str(path)


def read(path, delimiter=","):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def expected(values):
    """Log-densities of rows in the units of the file, of the normal density with the moments of `rows`."""
    mean, covariance = normal_of(torch.from_numpy(rows()))
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(torch.from_numpy(values)).numpy()


def test_every_row_in_order_and_in_the_units_of_the_file(run, encoded, tmp_path, capsys):
    new = rows(30, 1)
    new[7] += [0.0, 100.0]
    # Columns in another order, and one that the model does not know.
    path = write(tmp_path / "new.csv", ["b", "other", "a"], [[b, "x", a] for a, b in new.tolist()])
    assert main(["score", str(run), "--data", path, "--out", str(tmp_path / "deep" / "scores.csv")]) == 0
    found = read(tmp_path / "deep" / "scores.csv")
    assert list(found[0]) == ["log_prob", "log_prob_per_dim", "typicality_p"]
    log_prob = np.array([float(row["log_prob"]) for row in found])
    np.testing.assert_allclose(log_prob, expected(new), rtol=1e-4, atol=1e-4)  # float32, with b shifted to its digits
    np.testing.assert_allclose([2.0 * float(row["log_prob_per_dim"]) for row in found], log_prob, rtol=1e-7)
    flow = training.load_model(run)
    scores = flow.log_prob(SCHEMA.encode(data.Table("new", ("a", "b"), tuple(new.T))).x).double()
    p = p_values(scores, training_scores(flow, Batch(encoded)))
    np.testing.assert_allclose([float(row["typicality_p"]) for row in found], p.numpy(), rtol=1e-7)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"log-likelihood of 30 rows: {log_prob.mean():.3f} nats on average, from ")
    assert out[1].startswith(f"least typical: row 8 (p {float(p[7]):.2g}, {log_prob[7]:.2f} nats), ")
    assert out[-1] == str(tmp_path / "deep" / "scores.csv")


def test_rows_that_cannot_be_scored_keep_their_line(run, tmp_path, capsys):
    lines = [["k1", 0.5, 1e6], ["k2", "", 1e6], ["k3", -0.5, ""], ["k4", 0.0, 1e6 + 3.0]]
    path = write(tmp_path / "holes.csv", ["key", "a", "b"], lines)
    assert main(["score", str(run), "--data", path, "--keep", "key", "--out", str(tmp_path / "s.tsv")]) == 0
    found = read(tmp_path / "s.tsv", "\t")
    assert [row["key"] for row in found] == ["k1", "k2", "k3", "k4"]
    assert [row["log_prob"] == "" for row in found] == [False, True, True, False]
    assert [row["typicality_p"] == "" for row in found] == [False, True, True, False]
    values = expected(np.array([[0.5, 1e6], [0.0, 1e6 + 3.0]]))
    np.testing.assert_allclose([float(found[i]["log_prob"]) for i in (0, 3)], values, rtol=1e-4)
    assert "2 of 4 rows have missing cells and empty scores; fill them, or see impute" in capsys.readouterr().out
    path = write(tmp_path / "none.csv", ["a", "b"], [[0.5, ""], [1.5, ""]])
    assert main(["score", str(run), "--data", path, "--out", str(tmp_path / "none")]) == 2
    assert "--out must end in .csv, .tsv, .parquet, .npy for scores, got" in capsys.readouterr().err
    assert main(["score", str(run), "--data", path, "--out", str(tmp_path / "none.tsv")]) == 2
    assert "must have a row without a missing cell to score, got 2 with; fill them." in capsys.readouterr().err
    assert not (tmp_path / "none.tsv").exists()


def test_a_hole_does_not_keep_other_rows_from_being_scored(tmp_path, encoded, capsys):
    schema = TableSchema(SCHEMA.columns)  # which refuses missing cells in training
    folder = save_run(tmp_path / "run", gaussian_flow(encoded), schema, torch.arange(5.0))
    path = write(tmp_path / "holes.csv", ["a", "b"], [[0.5, 1e6], ["", 1e6]])
    assert main(["score", str(folder), "--data", path, "--out", str(tmp_path / "s.csv")]) == 0
    whole, hole = read(tmp_path / "s.csv")
    np.testing.assert_allclose(float(whole["log_prob"]), expected(np.array([[0.5, 1e6]])), rtol=1e-4)
    assert set(hole.values()) == {""}
    assert "1 of 2 rows have missing cells and empty scores" in capsys.readouterr().out
    path = write(tmp_path / "none.csv", ["a", "b"], [])
    assert main(["score", str(folder), "--data", path]) == 2
    assert "none.csv must have rows to score, got none; add some." in capsys.readouterr().err


def test_filled_cells_are_said(tmp_path, encoded):
    columns = (Column("a", mean=0.0), Column("b", shift=1e6, scale=4.0, mean=1e6))
    folder = save_run(tmp_path / "run", gaussian_flow(encoded), TableSchema(columns, (), "mean"))
    path = write(tmp_path / "holes.csv", ["a", "b"], [["", 1e6], [0.0, 1e6]])
    with pytest.warns(RuntimeWarning) as said:
        assert main(["score", str(folder), "--data", path, "--out", str(tmp_path / "s.csv")]) == 0
    assert any("1 missing cells of" in str(warning.message) for warning in said)
    # There are neither training scores nor the data to compute them from.
    assert any("the column typicality_p is left out: the run holds no training" in str(w.message) for w in said)
    first, second = read(tmp_path / "s.csv")
    assert first == second
    assert "typicality_p" not in first


def test_to_the_screen(run, tmp_path, capsys):
    path = write(tmp_path / "new.csv", ["a", "b"], [[0.5, 1e6], ["", 1e6]])
    assert main(["score", str(run), "--data", path, "--out", "-"]) == 0
    captured = capsys.readouterr()
    header, first, second = captured.out.splitlines()
    assert header == "log_prob,log_prob_per_dim,typicality_p"
    assert math.isfinite(float(first.split(",")[0]))
    assert second == ",,"
    assert "log-likelihood of 1 row: " in captured.err


def test_a_run_without_scores_takes_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = str(tmp_path / "moons")
    arguments = ["--data", "moons", "--set", "blocks=[1]", "--set", "hidden=[8]", "--batch-size", "50", "--quiet"]
    assert main(["train", *arguments, "--max-steps", "2", "--folder", folder]) == 0
    assert main(["score", folder]) == 0
    dataset, model = data.load("moons"), training.load_model(folder)
    found = read("scores.csv")
    assert len(found) == len(dataset.test)
    mean = np.mean([float(row["log_prob"]) for row in found])
    assert mean == pytest.approx(-training.evaluate(model, dataset.test).metrics["nats"], abs=1e-6)
    reference = training_scores(model, Batch(dataset.train))
    p = p_values(model.log_prob(dataset.test[:1]).double(), reference)
    assert float(found[0]["typicality_p"]) == pytest.approx(float(p), rel=1e-6)


@pytest.mark.parametrize("kind", ["flow", "hybrid", "classifier"])
def test_images(tmp_path, monkeypatch, kind):
    dataset, model = make_data("images"), make_model(kind)
    task = training.task_of(model)
    task.adopt(dataset)
    with torch.no_grad():
        task.initialize(task.inputs(dataset.train))
    described = {"name": "digits", "event_shape": [1, 8, 8], "n_levels": 17, "n_classes": 3}
    folder = save_run(tmp_path, model.eval(), shape=(1, 8, 8), **described)
    monkeypatch.setattr(data, "load", lambda *_, **__: dataset)
    assert main(["score", str(folder), "--out", str(tmp_path / "scores.csv")]) == 0
    found = read(tmp_path / "scores.csv")
    assert len(found) == len(dataset.test)
    names = ["log_prob", "bits_per_dim", "typicality_p"] * (kind != "classifier")
    names += ["class", "probability"] * (kind != "flow")
    assert list(found[0]) == names
    metrics = training.evaluate(model, dataset.test, None if kind == "flow" else dataset.test_labels).metrics
    if kind != "classifier":
        bits = np.mean([float(row["bits_per_dim"]) for row in found])
        assert bits == pytest.approx(metrics["bits_per_dim"], rel=1e-6)
    if kind != "flow":
        wrong = np.mean([int(row["class"]) != label for row, label in zip(found, dataset.test_labels, strict=True)])
        assert 100.0 * wrong == pytest.approx(metrics["error_percent"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "key"], "--keep must be left out without a table in --data, got key; pass such a file."),
        (["--out", "scores.png"], "--out must end in .csv, .tsv, .parquet, .npy for scores, got 'scores.png'; name it"),
        (["--probes", "many"], "argument --probes: invalid number of probes, or auto value: 'many'"),
        (
            ["--standard-error", "0.1"],
            "--standard-error must be left out for a given number of probes, 1, got 0.1; pass",
        ),
        (["--probes", "0"], "--probes must be at least 1, got 0"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
    ],
)
def test_errors(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    folder = save_run(tmp_path / "run", gaussian_flow(torch.from_numpy(rows()).float() - torch.tensor([0.0, 1e6])))
    monkeypatch.setattr(data, "load", lambda *_, **__: make_data())
    assert main(["score", str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("scores.*"))


def test_a_column_that_is_not_there(run, tmp_path, capsys):
    path = write(tmp_path / "new.csv", ["a", "c"], [[0.5, 1e6]])
    assert main(["score", str(run), "--data", path, "--out", str(tmp_path / "s.csv")]) == 2
    assert "must include 'b', got a, c: none of them" in capsys.readouterr().err
    path = write(tmp_path / "good.csv", ["a", "b"], [[0.5, 1e6]])
    assert main(["score", str(run), "--data", path, "--keep", "id", "--out", str(tmp_path / "s.csv")]) == 2
    assert "must include 'id', got a, b: none of them" in capsys.readouterr().err


def test_a_folder_of_images_is_scored_whole_and_classes_have_names(tmp_path, monkeypatch):
    pillow = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for kind, least in (("cats", 0), ("dogs", 128)):
        for part, n in (("photos", 20), ("new", 3)):
            folder = tmp_path / part / kind
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = generator.integers(least, least + 128, (8, 8), dtype=np.uint8)
                pillow.fromarray(pixels).save(folder / f"{i}.png")
    sizes = ["--set", "blocks=[1,1]", "--set", "hidden=[4,4]", "--batch-size", "16", "--max-steps", "30", "--quiet"]
    assert main(["train", "--data", "photos", "--model", "hybrid", *sizes, "--folder", "run"]) == 0
    assert main(["score", "run", "--data", "new"]) == 0
    found = read("scores.csv")
    assert list(found[0]) == ["file", "log_prob", "bits_per_dim", "typicality_p", "class", "probability"]
    assert [row["file"] for row in found] == [f"{kind}/{i}.png" for kind in ("cats", "dogs") for i in range(3)]
    assert main(["score", "run", "--data", "new/dogs", "--out", "dogs.csv"]) == 0
    alone = read("dogs.csv")
    assert [row["file"] for row in alone] == ["0.png", "1.png", "2.png"]
    dogs = [float(row["log_prob"]) for row in found[3:]]
    np.testing.assert_allclose([float(row["log_prob"]) for row in alone], dogs, rtol=1e-5)  # sums in another order
    assert {row["class"] for row in found} <= {"cats", "dogs"}
    assert training.reference_scores("run").numel() == 36  # nine tenths of them


def test_rows_where_the_model_overflows_are_said(run, tmp_path, capsys):
    # Squares of such numbers are beyond float32: the log-density is no number there, or minus infinity.
    path = write(tmp_path / "far.csv", ["a", "b"], [[0.5, 1e6], [1e30, 1e6]])
    assert main(["score", str(run), "--data", path, "--out", str(tmp_path / "s.csv")]) == 0
    near, far = read(tmp_path / "s.csv")
    out = capsys.readouterr().out
    assert math.isfinite(float(near["log_prob"]))
    assert far["log_prob"] in ("", "-inf")
    assert ("1 rows have no log-likelihood" in out) == (far["log_prob"] == "")
    assert "log-likelihood of 2 rows: " in out
