"""Tables in every format, packed and in parts, read and written."""

import gzip
import warnings
import zipfile

import numpy as np
import pandas
import pytest

from iresnet_fast import data

FRAME = pandas.DataFrame(
    {
        "x": [0.1, -2.5e-7, None, 1e300],
        "n": [1, -2, 3, 1 << 60],
        "text": ["a", 'say "b", c', None, "two\nlines"],
        "truth": [True, False, True, True],
    }
)
ARFF = """% made up
@RELATION 'a relation'
@attribute x REAL
@attribute 'a name, with a comma' integer
@ATTRIBUTE class {one, 'two words', "it's"}
@attribute note string

@DATA
1.5,2,one,'it\\'s, a note'
?,-3,'two words',"b"
% a comment
2.5e-3,4,"it's",?
"""


def same(table, frame=FRAME):
    assert table.names == tuple(frame.columns)
    for name in frame.columns:
        column = table.column(name)
        expected = data.read_table(frame).column(name)
        assert column.dtype == expected.dtype
        if column.dtype == object:
            assert column.tolist() == expected.tolist()
        else:
            assert np.array_equal(column, expected, equal_nan=column.dtype.kind == "f")


WRITERS = {
    "a.csv": lambda path: FRAME.to_csv(path, index=False),
    "a.tsv": lambda path: FRAME.to_csv(path, index=False, sep="\t"),
    "a.txt": lambda path: FRAME.to_csv(path, index=False, sep=";", decimal=","),
    "a.parquet": lambda path: FRAME.to_parquet(path),
    "a.csv.gz": lambda path: path.write_bytes(gzip.compress(FRAME.to_csv(index=False).encode())),
}


@pytest.mark.parametrize("name", WRITERS)
def test_formats(name, tmp_path):
    WRITERS[name](tmp_path / name)
    same(data.read_table(tmp_path / name))
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / name, f"folder/{name}")
        archive.writestr("README", "about it")
        archive.writestr("__MACOSX/._a.csv", "\0")
    if not name.endswith(".gz"):
        same(data.read_table(tmp_path / "b.zip"))


def test_arff(tmp_path):
    (tmp_path / "a.arff").write_text(ARFF)
    table = data.read_table(tmp_path / "a.arff")
    assert table.names == ("x", "a name, with a comma", "class", "note")
    assert table.column("class").tolist() == ["one", "two words", "it's"]
    assert table.column("note").tolist() == ["it's, a note", "b", None]
    assert np.array_equal(table.column("x"), [1.5, np.nan, 0.0025], equal_nan=True)
    assert table.column("a name, with a comma").tolist() == [2, -3, 4]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ARFF.replace("@DATA", "@DAT"), "a line @data, got one without"),
        (ARFF.replace("x REAL", "x"), "attributes with a name and a type, got '@attribute x'"),
        (ARFF.replace("x REAL", "x relational"), "a relational attribute; flatten it"),
        (ARFF.split("1.5")[0] + "{0 1.5, 2 one}\n", "got a sparse file"),
        (ARFF.replace("@attribute note string\n", ""), "3 cells in a row, one for each attribute, got 4"),
    ],
)
def test_bad_arff(text, words, tmp_path):
    (tmp_path / "a.arff").write_text(text)
    with pytest.raises(data.DataError, match=words):
        data.read_table(tmp_path / "a.arff")


@pytest.mark.parametrize("name", ["a.data", "a.DAT", "a.data.gz"])
def test_texts_have_many_suffixes(name, tmp_path):
    frame = pandas.DataFrame({"x": [1.5, 2.5], "y": [3, 4]})
    frame.to_csv(tmp_path / name, index=False, compression="gzip" if name.endswith("gz") else None)
    same(data.read_table(tmp_path / name), frame)


def test_files_of_other_names_are_to_be_renamed(tmp_path):
    (tmp_path / "table").write_text("a\n1\n2\n")
    with pytest.raises(data.DataError, match="rename it if it is such a file"):
        data.load(tmp_path / "table")


def test_several_files_are_one_table(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    FRAME[["text", "n", "truth", "x"]].to_parquet(tmp_path / "b.parquet")
    table = data.read_table([tmp_path / "a.csv", tmp_path / "b.parquet"])
    same(table, pandas.concat([FRAME, FRAME], ignore_index=True))
    FRAME.rename(columns={"n": "m"}).to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(data.DataError, match=r"c.csv must have the columns of .*a.csv, x, n, .*difference in m, n"):
        data.read_table([tmp_path / "a.csv", tmp_path / "c.csv"])
    numbers = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", numbers[10 * i : 10 * i + 10])
    names = [str(tmp_path / f"{i}.npy") for i in range(3)]
    loaded = data.load(names)
    rows = np.concatenate((loaded.train.numpy(), loaded.test.numpy()))
    assert sorted(rows.tolist()) == sorted(numbers.tolist())
    assert loaded.source.names == tuple(names)
    again = data.load(list(loaded.source.names), seed=loaded.source.seed)
    assert np.array_equal(again.train.numpy(), loaded.train.numpy())


def test_archives_of_several_tables(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", "a,b\n1,2\n")
        archive.writestr("b.csv", "a,b\n1,2\n")
    with pytest.raises(data.DataError, match=r"must hold one table, got a.csv, b.csv; unpack it"):
        data.read_table(tmp_path / "a.zip")


@pytest.mark.parametrize("damage", [lambda b: b[:-8], lambda b: b"", lambda b: b[:40] + bytes(60) + b[100:]])
def test_damaged_parquet(damage, tmp_path):
    FRAME.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(damage((tmp_path / "a.parquet").read_bytes()))
    with pytest.raises(data.DataError, match=r"must be a whole .parquet file, got one that is not") as caught:
        data.read_table(tmp_path / "a.parquet")
    assert "\n" not in str(caught.value)


def test_dates_are_to_be_converted(tmp_path):
    frame = pandas.DataFrame({"t": pandas.date_range("2024-01-01", periods=20), "x": np.arange(20.0) ** 1.5})
    frame.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(data.DataError, match=r"column 't' .*convert dates to numbers"):
        data.load(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_what_is_written_is_read_as_it_was(suffix, tmp_path):
    table = data.read_table(FRAME)
    path = tmp_path / f"new/a{suffix}"
    data.write_table(table, path)
    same(data.read_table(path))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_digits_of_float32_are_not_more_than_needed(tmp_path):
    rows = np.array([[0.1, 1.0], [2.5e-7, 3.0]], np.float32).astype(float)
    table = data.Table("a", ("x", "y"), tuple(rows.T.copy()))
    data.write_table(table, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "x,y\n0.1,1.0\n2.5e-07,3.0\n"
    data.write_table(table, tmp_path / "a.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), rows)
    with pytest.raises(data.DataError, match="must hold numbers alone, got the texts of column 'text'"):
        data.write_table(data.read_table(FRAME), tmp_path / "b.npy")
    with pytest.raises(data.DataError, match=r"path must end in .csv, .tsv, .parquet, .npy, got"):
        data.write_table(table, tmp_path / "b.xls")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", "a.npy"]


def test_cells_of_shifted_columns_have_few_digits(tmp_path):
    times = 1.7e9 + np.random.default_rng(0).uniform(0.0, 3600.0, 500).round(2)
    np.save(tmp_path / "a.npy", np.stack((times, times % 7.0), 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = data.load(tmp_path / "a.npy")
    data.write_table(loaded.table.decode(loaded.train), tmp_path / "a.csv")
    first = [line.split(",")[0] for line in (tmp_path / "a.csv").read_text().splitlines()[1:]]
    assert max(map(len, first)) <= len("1700000000.12345")


def test_cells_of_scaled_columns_have_few_digits(tmp_path):
    np.save(tmp_path / "a.npy", 1e-30 * np.random.default_rng(0).normal(size=(500, 2)))
    with pytest.warns(RuntimeWarning, match="1 .divided by .*, 2 .divided by .* scaled, since float32 would not keep"):
        loaded = data.load(tmp_path / "a.npy")
    data.write_table(loaded.table.decode(loaded.train), tmp_path / "a.csv")
    cells = (tmp_path / "a.csv").read_text().replace(",", "\n").splitlines()[2:]
    assert max(map(len, cells)) <= len("-1.123456789e-30")
