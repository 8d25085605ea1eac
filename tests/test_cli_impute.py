"""`iresnet-fast impute`: what was observed comes out as it was, missing cells are drawn, and how well is said."""

import csv

import numpy as np
import pytest
import torch
from gaussian_runs import gaussian_flow, save_run

from iresnet_fast.cli import main
from iresnet_fast.data import Column, TableSchema
from iresnet_fast.training.impute import impute

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEMA = TableSchema(
    (
        Column("height"),
        Column("time", shift=1.7e9),
        Column("count", "integer", step=1.0),
        Column("kind", "category", step=1.0, categories=("blue", "red")),
    )
)
# Texts that no number has: leading zeros, other digits than a program would write, cells of other columns.
HOLES = """id,kind,height,note,count,time,score
0007,red,1.50,"a, b",3,1700000000.250,
0008,,1.7,,3,,0.10
0009,blue,,NA,,1700000100,1e-3
0010,red,1.80000000000000001,x,2,1700000200.5,
"""


def rows(n=400):
    noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    height = 1.7 + 0.1 * noise[:, 0]
    kind = (noise[:, 3] + noise[:, 0] > 0.0).float()
    return torch.stack((height, 1000.0 * noise[:, 1], (3.0 + noise[:, 0] + noise[:, 2]).round(), kind), 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    flow = gaussian_flow(rows(), dequantize=(0.0, 0.0, 1.0, 1.0))
    return save_run(tmp_path_factory.mktemp("runs"), flow, SCHEMA)


def read(path, delimiter=","):
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


def test_observed_cells_come_out_as_they_are_written(run, tmp_path, capsys):
    (tmp_path / "holes.csv").write_text(HOLES)
    out = tmp_path / "new" / "filled.csv"
    assert main(["impute", str(run), "--data", str(tmp_path / "holes.csv"), "--out", str(out)]) == 0
    before, after = read(tmp_path / "holes.csv"), read(out)
    drawn = {(2, 1), (2, 5), (3, 2), (3, 4)}  # of the columns that the model knows
    assert len(before) == len(after)
    for i, (was, row) in enumerate(zip(before, after, strict=True)):
        for j, (old, new) in enumerate(zip(was, row, strict=True)):
            assert (new == old) == ((i, j) not in drawn), (i, j)
    assert after[2][1] in ("blue", "red")
    assert abs(float(after[2][5]) - 1.7e9) < 1e5
    assert abs(float(after[3][2]) - 1.7) < 1.0
    assert str(int(after[3][4])) == after[3][4]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 missing entries of 2 of 4 rows drawn by Metropolis-Hastings sampling of the flow"
    assert lines[1].startswith("accepted: ")
    assert "split R-hat: " in lines[1]
    assert lines[2] == str(out)


def test_several_draws(run, tmp_path):
    (tmp_path / "holes.csv").write_text(HOLES)
    arguments = ["impute", str(run), "--data", str(tmp_path / "holes.csv"), "--draws", "6", "--steps", "40"]
    assert main([*arguments, "--out", str(tmp_path / "a.csv")]) == 0
    found = read(tmp_path / "a.csv")
    assert found[0] == ["draw", "id", "kind", "height", "note", "count", "time", "score"]
    assert [row[0] for row in found[1:]] == [str(draw) for draw in range(1, 7) for _ in range(4)]
    assert len({row[6] for row in found[2::4]}) == 6
    assert main([*arguments, "--out", str(tmp_path / "b.csv")]) == 0
    assert read(tmp_path / "b.csv") == found
    assert main([*arguments, "--seed", "1", "--out", str(tmp_path / "c.csv")]) == 0
    assert read(tmp_path / "c.csv") != found
    # In the units of the file, what the function returns.
    x = torch.full((4, 4), torch.nan)
    x[[0, 1, 3], 0] = torch.tensor([1.5, 1.7, 1.8])
    x[[0, 2, 3], 1] = torch.tensor([0.25, 100.0, 200.5])
    x[[0, 1, 3], 2] = torch.tensor([3.0, 3.0, 2.0])
    x[[0, 2, 3], 3] = torch.tensor([1.0, 0.0, 1.0])
    flow = gaussian_flow(rows(), dequantize=(0.0, 0.0, 1.0, 1.0))
    expected = impute(flow, x, draws=6, steps=40).x
    assert [float(row[3]) for row in found[3::4]] == pytest.approx(expected[:, 2, 0].tolist(), rel=1e-6)
    assert [int(row[5]) for row in found[3::4]] == expected[:, 2, 2].tolist()


def test_other_marks_and_files(run, tmp_path):
    semicolons = HOLES.replace('"a, b"', "a").replace(",", ";").replace(".", ",")
    (tmp_path / "holes.csv").write_text(semicolons)
    arguments = ["impute", str(run), "--data", str(tmp_path / "holes.csv"), "--steps", "8", "--out"]
    assert main([*arguments, str(tmp_path / "filled.csv")]) == 0
    found = read(tmp_path / "filled.csv", ";")
    assert found[1] == semicolons.splitlines()[1].split(";")
    assert "," in found[3][2]
    assert abs(float(found[3][2].replace(",", ".")) - 1.7) < 1.0
    assert main([*arguments, str(tmp_path / "filled.tsv")]) == 0
    assert read(tmp_path / "filled.tsv", "\t") == found
    pandas = pytest.importorskip("pandas")
    assert main([*arguments, str(tmp_path / "filled.parquet")]) == 0
    frame = pandas.read_parquet(tmp_path / "filled.parquet")
    assert frame["count"].dtype == np.int64
    assert frame["height"].notna().all()
    assert frame["score"].isna().sum() == 2
    assert frame["height"].tolist()[:2] == [1.5, 1.7]
    # A file of another kind goes the same way, but has no texts to keep.
    frame.to_parquet(tmp_path / "whole.parquet")
    again = ["impute", str(run), "--data", str(tmp_path / "whole.parquet"), "--out", str(tmp_path / "again.parquet")]
    assert main(again) == 0
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "again.parquet"), frame)


def test_nothing_missing(run, tmp_path, capsys):
    (tmp_path / "whole.csv").write_text("".join(HOLES.splitlines(keepends=True)[:2]))
    out = tmp_path / "filled.csv"
    assert main(["impute", str(run), "--data", str(tmp_path / "whole.csv"), "--out", str(out)]) == 0
    assert out.read_text() == (tmp_path / "whole.csv").read_text()
    assert capsys.readouterr().out.startswith("no missing cells: the table is written as it was\n")


def test_a_file_without_names(tmp_path):
    schema = TableSchema((Column("1"), Column("3")))
    folder = save_run(tmp_path / "run", gaussian_flow(rows()[:, :2]), schema)
    (tmp_path / "plain.csv").write_text("1.70,007,5\n1.5,8,\n,9,7.0\n")
    out = tmp_path / "filled.csv"
    arguments = ["--data", str(tmp_path / "plain.csv"), "--header", "no", "--draws", "2", "--out", str(out)]
    assert main(["impute", str(folder), *arguments]) == 0
    found = read(out)
    assert [row[:3] for row in found[:2]] == [["1", "1.70", "007"], ["1", "1.5", "8"]]
    assert found[2][2:] == ["9", "7.0"]
    assert all(float(row[3]) == float(row[3]) for row in found)


def test_chains_that_do_not_agree_are_said(run, tmp_path, capsys):
    # Four kept steps are too few to agree in; the data are a few hundred cells, of which more than one shows it.
    text = "height,time,count,kind\n" + "".join(f"{1.5 + 0.01 * i},,,\n" for i in range(40))
    (tmp_path / "holes.csv").write_text(text)
    arguments = ["--data", str(tmp_path / "holes.csv"), "--out", str(tmp_path / "f.csv"), "--steps", "8"]
    with pytest.warns(RuntimeWarning, match=r"of 120 missing entries do not yet agree \(R-hat up to .* --steps 32\."):
        assert main(["impute", str(run), *arguments]) == 0
    assert len(read(tmp_path / "f.csv")) == 41  # written all the same


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (HOLES, ["--draws", "0"], "--draws must be at least 1, got 0"),
        (HOLES, ["--steps", "0"], "--steps must be at least 8, got 0"),
        (
            HOLES,
            ["--draws", "17", "--steps", "8"],
            "--draws must be at most 16, the steps that the chains keep, got 17",
        ),
        (HOLES, ["--out", "x.png"], "--out must end in .csv, .tsv, .parquet, .npy for a table, got 'x.png'; name it"),
        (HOLES, ["--out", "holes.csv"], "--out must be another file than --data, got holes.csv for both; name another"),
        (HOLES, ["--out", "x.npy"], "a .npy file must hold numbers alone, got the texts of column"),
        (HOLES.replace("count", "draw"), [], "must include 'count', got"),
        (
            HOLES.replace("id,", "draw,"),
            ["--draws", "2"],
            "must have no column 'draw' for --draws 2, which adds it, got",
        ),
        (HOLES.replace("red", "green"), [], "must hold one of the categories 'blue', 'red', got 'green' in row 1"),
    ],
)
def test_errors(run, tmp_path, monkeypatch, capsys, text, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holes.csv").write_text(text)
    assert main(["impute", str(run), "--data", "holes.csv", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["holes.csv"]


def test_errors_of_runs(run, tmp_path, capsys):
    assert main(["impute", str(run)]) == 2
    assert "--data must name the table to complete, got none; pass a file with" in capsys.readouterr().err
    (tmp_path / "holes.csv").write_text(HOLES)
    folder = save_run(tmp_path / "run", gaussian_flow(rows()))
    assert main(["impute", str(folder), "--data", str(tmp_path / "holes.csv")]) == 2
    assert "RUN must be that of a flow on a table, got a IResNetFlow on digits; train one" in capsys.readouterr().err
    given = TableSchema((Column("height"),), (Column("count"),))
    flow = gaussian_flow(rows()[:, :1], rows()[:, 2:3], context_features=1, hidden=(4, 4))
    folder = save_run(tmp_path / "given", flow, given)
    assert main(["impute", str(folder), "--data", str(tmp_path / "holes.csv")]) == 2
    assert "column 'count' of" in (said := capsys.readouterr().err)
    assert "must have a value in every row, got none in row 3" in said
