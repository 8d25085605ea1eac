"""Tables on the command line: options of columns, rows of new files, data that were moved, and the names of options."""

import shutil

import numpy as np
import pandas
import pytest

from iresnet_fast import data, training
from iresnet_fast.cli import main
from iresnet_fast.training import checkpoint

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:iresnet_fast")]

TINY = ["--set", "blocks=[1]", "--set", "hidden=[8,8]", "--batch-size", "20", "--quiet", "--max-steps", "2"]
N = 120


def frame():
    rng = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "time, in s": (1.7e9 + rng.uniform(0.0, 3600.0, N)).round(2),
            "count": rng.integers(0, 9, N),
            "small": 1e-30 * rng.normal(size=N),
            "species": rng.choice(["setosa", "virginica"], N),
        }
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with data and a run on them."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "tables").mkdir()
    frame().to_csv(folder / "tables" / "a.csv", sep=";", decimal=",", index=False)
    arguments = ["train", "--data", str(folder / "tables" / "a.csv"), "--context", "species", *TINY]
    assert main([*arguments, "--columns", '"time, in s",small,count', "--folder", str(folder / "runs" / "a")]) == 0
    return folder


def first_line(capsys):
    return capsys.readouterr().out.splitlines()[0]


def test_the_run_keeps_its_columns_and_its_data(project):
    metadata = checkpoint.read_metadata(project / "runs" / "a")["data"]
    schema = data.TableSchema.from_dict(metadata["table"])
    assert schema.entries == ("time, in s", "small", "count")
    assert schema.context_entries == ("species=setosa", "species=virginica")
    source = data.Source.from_dict(metadata["source"])
    assert source.names == (str(project / "tables" / "a.csv"),)
    assert source.table.columns == ("time, in s", "small", "count")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_row_of_a_new_file(project, tmp_path, capsys, suffix):
    """Columns are found by their names, others are left out, nats are in the units of the file."""
    run, whole = project / "runs" / "a", tmp_path / f"b{suffix}"
    new = frame()[["species", "small", "count", "time, in s"]].assign(other="x")
    new = new.iloc[:40].assign(small=1e-30)
    new.to_csv(whole, index=False) if suffix == ".csv" else new.to_parquet(whole)
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(whole)]) == 0
    line = first_line(capsys)
    assert "(40 samples)" in line
    schema = data.TableSchema.from_dict(checkpoint.read_metadata(run)["data"]["table"])
    encoded = schema.encode(data.read_table(whole))
    found = training.evaluate(training.load_model(run), encoded.x, context=encoded.context)
    assert schema.log_scale < -60.0  # 1e-30 became about 1
    assert line.startswith(f"nats {found.metrics['nats'] + schema.log_scale:.3f} +-")
    half = tmp_path / "half.csv"
    new.iloc[:1].to_csv(half, index=False, sep="\t")
    assert main(["evaluate", str(run), "--data", str(half)]) == 0
    assert "(1 sample" in first_line(capsys)
    assert main(["evaluate", str(run), "--data", str(whole), str(whole)]) == 0
    assert "(80 samples)" in first_line(capsys)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda new: new.drop(columns="small"), "must include 'small', got"),
        (lambda new: new.rename(columns={"small": "smal"}), "did you mean 'smal'?"),
        (lambda new: new.assign(small=None), "column 'small' of "),
        (lambda new: new.assign(species="versicolor"), "must hold one of the categories 'setosa', 'virginica'"),
        (lambda new: new.iloc[:0], "--data must have rows, got none in"),
    ],
)
def test_files_that_do_not_fit(project, tmp_path, capsys, change, words):
    change(frame()).to_csv(tmp_path / "b.csv", index=False)
    assert main(["evaluate", str(project / "runs" / "a"), "--data", str(tmp_path / "b.csv")]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error


def test_rows_with_missing_cells_are_left_out_or_filled(tmp_path, capsys):
    rows = frame()[["small", "count"]]
    rows.loc[:9, "small"] = np.nan
    rows.to_csv(tmp_path / "a.csv", index=False)
    for missing, n, said in (("drop", 110, "10 of 120 rows"), ("mean", 120, "10 missing cells")):
        run = str(tmp_path / missing)
        arguments = ["train", "--data", str(tmp_path / "a.csv"), *TINY, "--folder", run]
        assert main([*arguments, "--missing", missing]) == 0
        capsys.readouterr()
        with pytest.warns(RuntimeWarning, match=said):
            assert main(["evaluate", run, "--data", str(tmp_path / "a.csv")]) == 0
        assert f"({n} samples)" in first_line(capsys)


def test_a_project_can_be_moved(project, tmp_path, capsys, monkeypatch):
    assert main(["evaluate", str(project / "runs" / "a")]) == 0
    expected = capsys.readouterr().out
    moved = tmp_path / "moved"
    shutil.copytree(project, moved)
    hidden = project / "tables" / "hidden"
    (project / "tables" / "a.csv").rename(hidden)
    try:
        with pytest.warns(RuntimeWarning, match="are no longer at"):
            assert main(["evaluate", str(moved / "runs" / "a")]) == 0
        assert capsys.readouterr().out == expected
        (moved / "tables" / "a.csv").rename(tmp_path / "a.csv")
        monkeypatch.chdir(tmp_path)
        assert main(["evaluate", str(moved / "runs" / "a")]) == 0
        assert capsys.readouterr().out == expected
        (tmp_path / "a.csv").rename(tmp_path / "b.csv")
        assert main(["evaluate", str(moved / "runs" / "a")]) == 2
        error = capsys.readouterr().err
        assert f"--data must name the data of the run, got none at {project / 'tables' / 'a.csv'}" in error
        frame().iloc[:100].to_csv(tmp_path / "a.csv", index=False)
        assert main(["evaluate", str(moved / "runs" / "a")]) == 2
        assert "must be as it was in training, got another content; pass it as --data" in capsys.readouterr().err
    finally:
        hidden.rename(project / "tables" / "a.csv")


def test_a_header_of_numbers_is_known_from_the_run(tmp_path, capsys):
    """One row of whole numbers would not say by itself what its first line is."""
    rows = np.random.default_rng(0).integers(0, 50, (60, 2))
    pandas.DataFrame(rows, columns=["2019", "2020"]).to_csv(tmp_path / "a.csv", index=False)
    run = str(tmp_path / "run")
    assert main(["train", "--data", str(tmp_path / "a.csv"), "--header", "yes", *TINY, "--folder", run]) == 0
    (tmp_path / "b.csv").write_text("2019,2020\n7,8\n")
    capsys.readouterr()
    assert main(["evaluate", run, "--data", str(tmp_path / "b.csv")]) == 0
    assert "(1 sample" in first_line(capsys)
    np.savetxt(tmp_path / "plain.csv", rows, delimiter=",", fmt="%d")
    run = str(tmp_path / "plain")
    assert main(["train", "--data", str(tmp_path / "plain.csv"), *TINY, "--folder", run]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--data", str(tmp_path / "plain.csv")]) == 0
    assert "(60 samples)" in first_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "digts"], "--data must be one of swissroll, .*; did you mean 'digits'?"),
        (["--data", "mnist"], "--data-root must be the folder with the files of mnist"),
        (["--data", "{}", "--columns", "smal"], "--columns must be columns of {}: .*, got 'smal'"),
        (["--data", "{}", "--one-hot", "x"], "--one-hot must be columns of {}"),
        (["--data", "{}", "--weights", "x"], "--weights must be columns of {}"),
        (["--data", "{}", "--separator", "::"], "--separator must be one character"),
        (["--data", "{}", "--encoding", "no"], "--encoding must be one that Python knows"),
        (["--data", "digits", "--columns", "x"], "--columns must be left out for digits"),
        (["--data", "{}"], "pass .*--categorical species, --one-hot species"),
        (["--data", "{}", "moons"], "--data must be one data set, or several files of tables, got 'moons'"),
    ],
)
def test_errors_name_the_options(project, tmp_path, capsys, arguments, words):
    path = str(project / "tables" / "a.csv")
    arguments = [argument.replace("{}", path) for argument in arguments]
    assert main(["train", *arguments, *TINY, "--folder", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    begin, _, end = words.replace("{}", path).partition(".*")
    assert begin in error
    assert end.replace(".*", "") in error


def test_new_files_may_have_other_marks_than_those_said_in_training(tmp_path, capsys):
    rows = frame()[["small", "count"]]
    rows.to_csv(tmp_path / "a.csv", sep=";", decimal=",", encoding="utf-16", index=False)
    marks = ["--separator", ";", "--decimal", ",", "--encoding", "utf-16", "--continuous", "count"]
    sizes = ["--set", "blocks=[1]", "--set", "hidden=[4]", "--max-steps", "2", "--batch-size", "50", "--quiet"]
    run = str(tmp_path / "run")
    assert main(["train", "--data", str(tmp_path / "a.csv"), *marks, *sizes, "--folder", run]) == 0
    rows.to_csv(tmp_path / "b.csv", index=False)
    said = []
    for name in ("a", "b"):
        capsys.readouterr()
        assert main(["evaluate", run, "--data", str(tmp_path / f"{name}.csv")]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    # What is said for this file holds.
    assert main(["evaluate", run, "--data", str(tmp_path / "b.csv"), "--encoding", "utf-16"]) == 2
    assert "b.csv must be a text file of separated cells, got another" in capsys.readouterr().err


def test_a_header_of_numbers_that_becomes_a_row_is_said(tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(60, 3))
    np.save(tmp_path / "a.npy", rows)
    sizes = ["--set", "blocks=[1]", "--set", "hidden=[4]", "--max-steps", "2", "--batch-size", "20", "--quiet"]
    run = str(tmp_path / "run")
    assert main(["train", "--data", str(tmp_path / "a.npy"), *sizes, "--folder", run]) == 0
    pandas.DataFrame(rows[:5]).to_csv(tmp_path / "b.csv", index=False)
    with pytest.warns(RuntimeWarning, match="the first line of .*b.csv, 0, 1, 2, was taken for a row, as the run"):
        assert main(["evaluate", run, "--data", str(tmp_path / "b.csv")]) == 0
    assert "(6 samples)" in capsys.readouterr().out


def test_python_has_the_columns_of_a_run(project):
    run = project / "runs" / "a"
    model, schema = training.load_model(run), training.load_schema(run)
    rows = schema.encode(data.read_table(project / "tables" / "a.csv"))
    log_prob = model.log_prob(rows.x, rows.context) - schema.log_scale
    assert log_prob.shape == (N,)
    again = schema.decode(rows.x, rows.context)
    assert again.names == ("time, in s", "small", "count", "species")
    assert again.column("species").tolist() == frame()["species"].tolist()
    np.testing.assert_allclose(again.column("time, in s"), frame()["time, in s"], rtol=0.0, atol=1e-3)
