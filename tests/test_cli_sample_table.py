"""`iresnet-fast sample` and `reconstruct` of tables: columns, units and types of the file, and values of a context."""

import csv
import math

import numpy as np
import pytest
import torch
from gaussian_runs import gaussian_flow, save_run
from matplotlib import image
from torch import nn

from iresnet_fast import data, training
from iresnet_fast.cli import main
from iresnet_fast.cli._contexts import bare_contexts, given_contexts
from iresnet_fast.data import Column, TableSchema
from iresnet_fast.models import FlowConfig, IResNetFlow

pytestmark = pytest.mark.usefixtures("one_thread")

COLUMNS = (
    Column("time", shift=1.7e9),
    Column("size", scale=2.0**-40),
    Column("count", "integer", step=1.0),
    Column("kind", "category", step=1.0, categories=("red", "dark, blue")),
)
CONTEXT = (Column("sex", "category", categories=("f", "m"), one_hot=True), Column("dose", shift=100.0))


def entries(n=500):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator) * torch.tensor([1000.0, 1.0, 3.0, 0.3])
    x[:, 2:] = x[:, 2:].round()
    x[:, 3] = (torch.arange(n) % 3 == 0).float()
    return x


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    flow = gaussian_flow(entries(), dequantize=(0.0, 0.0, 1.0, 1.0))
    return save_run(tmp_path_factory.mktemp("runs"), flow, TableSchema(COLUMNS))


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A run of one column, whose mean is ten times the dose less 100, plus 1 for m."""
    config = FlowConfig((1,), blocks=(0,), fc_blocks=1, fc_hidden=(4,), prior="conditional", context_features=3)
    flow = IResNetFlow(config.replace(actnorm=False)).eval()

    class Mean(nn.Module):
        def forward(self, context, n, name):
            return context @ torch.tensor([[0.0], [1.0], [10.0]]), torch.full((n, 1), -5.0)

    folder = tmp_path_factory.mktemp("runs")
    return save_run(folder, flow, TableSchema((Column("y"),), CONTEXT)), Mean()


def read(path, delimiter=","):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_columns_units_and_types(run, tmp_path, suffix, delimiter):
    out = tmp_path / "new" / f"samples{suffix}"
    assert main(["sample", str(run), "--n", "50", "--out", str(out)]) == 0
    found = read(out, delimiter)
    x = training.load_model(run).sample(50, seed=0).numpy().astype(np.float64)
    assert list(found[0]) == ["time", "size", "count", "kind"]
    # A step of float32 of the largest at most; a time has the digits that its distance from the offset has.
    time = np.array([float(row["time"]) for row in found])
    assert (np.abs(time - 1.7e9 - x[:, 0]) <= 2.0**-24 * np.abs(x[:, 0]).max() + 2.0**-52 * 1.7e9).all()
    size = x[:, 1] * 2.0**-40
    assert (np.abs([float(row["size"]) for row in found] - size) <= 2.0**-24 * np.abs(size).max()).all()
    assert [row["count"] for row in found] == [str(int(value)) for value in x[:, 2]]
    assert [row["kind"] for row in found] == [("red", "dark, blue")[int(min(max(v, 0), 1))] for v in x[:, 3]]
    assert max(len(row["size"]) for row in found) <= len("-1.234567891e-13")  # not those of float64


def test_parquet_and_npy(run, tmp_path):
    pandas = pytest.importorskip("pandas")
    out = tmp_path / "samples.parquet"
    assert main(["sample", str(run), "--n", "7", "--out", str(out)]) == 0
    frame = pandas.read_parquet(out)
    assert [kind.kind for kind in frame.dtypes][:3] == ["f", "f", "i"]
    assert set(frame["kind"]) <= {"red", "dark, blue"}
    numbers = save_run(tmp_path / "numbers", gaussian_flow(entries()[:, :2]), TableSchema(COLUMNS[:2]))
    assert main(["sample", str(numbers), "--n", "7", "--out", str(tmp_path / "s.npy")]) == 0
    array = np.load(tmp_path / "s.npy")
    assert array.shape == (7, 2)
    assert np.abs(array[:, 0] - 1.7e9).max() < 1e4
    # --npy stays what the model draws.
    assert main(["sample", str(numbers), "--n", "7", "--npy", str(tmp_path / "raw")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "raw"), training.load_model(numbers).sample(7, seed=0).numpy())


def test_defaults(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(run)]) == 0
    assert capsys.readouterr().out == "samples.csv\n"
    assert len(read("samples.csv")) == 64
    assert main(["sample", str(run), "--seed", "1", "--out", "other.csv"]) == 0
    assert read("samples.csv") != read("other.csv")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".svg", ".pdf"])
def test_pictures_have_the_format_of_their_suffix(tmp_path, suffix):
    out, flow = tmp_path / f"s{suffix}", gaussian_flow(entries()[:, :2])
    assert main(["sample", str(save_run(tmp_path / "run", flow)), "--out", str(out)]) == 0
    starts = {".png": b"\x89PNG", ".jpg": b"\xff\xd8\xff", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert out.read_bytes().startswith(starts[suffix])
    if suffix == ".png":
        assert image.imread(out)[..., :3].std() > 0.01


def test_values_of_a_context(conditional, tmp_path, monkeypatch):
    folder, mean = conditional
    monkeypatch.setattr(training.checkpoint, "load_model", _with_mean(training.load_model, mean))
    out = tmp_path / "s.csv"
    assert (
        main(["sample", str(folder), "--n", "6", "--given", "sex=m,f", "--given", "dose=103", "--out", str(out)]) == 0
    )
    found = read(out)
    assert list(found[0]) == ["y", "sex", "dose"]
    assert [row["sex"] for row in found] == ["m", "f"] * 3
    assert {row["dose"] for row in found} == {"103.0"}
    flow = training.load_model(folder)
    for row in found:
        # The prior has standard deviations of exp(-5), and the block changes what it maps by less than coeff.
        at = flow.inverse(torch.tensor([[30.0 + (row["sex"] == "m")]]), torch.tensor([[0.0, 0.0, 0.0]]))[0]
        assert abs(float(row["y"]) - at.item()) < 100.0
    by_sex = [[float(row["y"]) for row in found if row["sex"] == sex] for sex in ("m", "f")]
    assert min(by_sex[0]) > max(by_sex[1])


def _with_mean(load, mean):
    def loaded(path, average=True):
        flow = load(path, average)
        flow.prior.network = mean
        return flow

    return loaded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "--given must be the context of this model, sex, dose, got none; pass e.g. --given sex=f --given dose=100.",
        ),
        (
            ["--given", "sex=m"],
            "--given must name all columns of the context, got none for dose; pass e.g. --given",
        ),
        (["--given", "age=3"], "--given must name columns of the context, sex, dose, got 'age'; pass e.g."),
        (["--given", "sex=m", "--given", "sex=f"], "got 'sex' twice; pass e.g."),
        (["--given", "sex"], "--given must be COLUMN=VALUE, got 'sex'; pass e.g."),
        (["--given", "sex=x", "--given", "dose=1"], "--given sex= must be one of 'f', 'm', got 'x'; correct it."),
        (["--given", "sex=m", "--given", "dose=a"], "--given dose= must be a finite number, or several separated by"),
        (["--given", "sex=m", "--given", "dose=nan"], "--given dose= must be a finite number, or several separated by"),
        (["--given", "sex=m,f", "--given", "dose=1,2,3"], "as many as the longest, 3, got 2 for 'sex'; add or remove"),
        (["--context=1,2"], "--context must be left out for categories, as in sex, dose, got 2 numbers; pass e.g."),
        (["--context=1", "--given", "sex=m"], "--given must be left out with --context, got both; pass one of them."),
        (["--given", "sex=m", "--given", "dose=1e300"], "--given must be numbers that fit in float32, got larger ones"),
    ],
)
def test_errors_of_a_context(conditional, tmp_path, capsys, arguments, message):
    assert main(["sample", str(conditional[0]), "--out", str(tmp_path / "s.csv"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s.csv").exists()


def test_samples_that_are_not_finite_are_refused(conditional, tmp_path, monkeypatch, capsys):
    folder, mean = conditional
    monkeypatch.setattr(training.checkpoint, "load_model", _with_mean(training.load_model, mean))
    out = tmp_path / "s.csv"
    given = ["--given", "sex=m", "--given", "dose=2e38"]
    assert main(["sample", str(folder), "--n", "4", *given, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "the samples must be finite numbers, got none of 4 that is; correct the values of --given" in error
    assert not out.exists()


def test_values_between_the_whole_numbers_of_a_context_are_written_as_they_were_given(tmp_path):
    config = FlowConfig((1,), blocks=(0,), fc_blocks=1, fc_hidden=(4,), prior="conditional", context_features=2)
    context = (Column("age", "integer", step=1.0, shift=1.0), Column("dose", "integer", step=5.0))
    run = save_run(tmp_path / "run", IResNetFlow(config).eval(), TableSchema((Column("y"),), context))
    out = tmp_path / "s.csv"
    for age, dose in (("30", "10"), ("30.5", "10"), ("31", "12")):
        given = ["--given", f"age={age}", "--given", f"dose={dose}"]
        assert main(["sample", str(run), "--n", "2", *given, "--out", str(out)]) == 0
        assert {(row["age"], float(row["dose"])) for row in read(out)} == {(age, float(dose))}


def test_truths_of_a_context_are_written_in_any_way():
    schema = TableSchema((Column("x"),), (Column("on", "category", categories=("False", "True")),))
    assert given_contexts(["on=true,FALSE,True"], schema).tolist() == [[1.0], [0.0], [1.0]]


def test_a_category_with_a_comma_is_one_value():
    schema = TableSchema((Column("y"),), (COLUMNS[3],))
    assert given_contexts(["kind=dark, blue"], schema).tolist() == [[1.0]]


def test_numbers_of_a_context_are_in_the_units_of_the_file():
    schema = TableSchema((Column("y"),), (Column("time", shift=1.7e9), Column("dose", scale=2.0)))
    assert bare_contexts((1.7e9 + 5.0, 3.0), schema).tolist() == [[5.0, 1.5]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--given", "sex=m"], "--given must be left out for a model without a context, got 'sex=m'; train one with"),
        (["--out", "s.xyz"], "--out must end in .csv, .tsv, .parquet, .npy, .png, .jpg, .jpeg, .svg, .pdf, .webp for"),
        (["--out", "s"], "got 's'; name it e.g. s.csv."),
        (["--out", "s.npy"], "a .npy file must hold numbers alone, got the texts of column 'kind'"),
    ],
)
def test_errors(run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert main(["sample", str(run), "--out", str(tmp_path / "s.csv")]) == 2
    assert f"{tmp_path / 's.csv'} must be written whole, got: No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_reconstructions_of_a_table(run, tmp_path, monkeypatch, capsys):
    path = tmp_path / "new.csv"
    lines = [["kind", "count", "time", "size"], ["red", 3, 1700000000.25, 1e-12], ["dark, blue", -2, 1699999000.5, 0.0]]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    monkeypatch.chdir(tmp_path)
    assert main(["reconstruct", str(run), "--data", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "reconstructions.csv"
    found = read("reconstructions.csv")
    names = [f"{name}{of}" for name in ("time", "size", "count") for of in ("", " reconstructed", " error")]
    assert list(found[0]) == [*names, "kind", "kind reconstructed"]
    for row, line in zip(found, lines[1:], strict=True):
        assert (row["kind"], row["kind reconstructed"]) == (line[0], line[0])
        assert (row["count"], row["count reconstructed"]) == (str(line[1]), str(line[1]))
        assert float(row["time"]) == line[2]
        apart = float(row["time reconstructed"]) - float(row["time"])
        assert math.isclose(apart, float(row["time error"]), abs_tol=2.0**-21)  # float64 has such steps at 1.7e9
        assert abs(apart) < 1e-2  # a ten-thousandth of float32's digits of the largest, of order 1000
    assert main(["reconstruct", str(run), "--data", str(path), "--out", "r.png"]) == 2
    assert "--out must end in .csv, .tsv, .parquet, .npy for data of shape (4,), got 'r.png'" in capsys.readouterr().err


def test_vectors_without_names_have_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save_run(tmp_path / "run", gaussian_flow(torch.from_numpy(data.load("moons").test.numpy())), name="moons")
    assert main(["reconstruct", str(folder), "--n", "5"]) == 0
    assert list(read("reconstructions.csv")[0]) == [
        "1",
        "1 reconstructed",
        "1 error",
        "2",
        "2 reconstructed",
        "2 error",
    ]
    assert main(["sample", str(folder), "--n", "5", "--out", "s.csv"]) == 0
    assert list(read("s.csv")[0]) == ["1", "2"]
