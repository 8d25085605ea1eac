"""Text files of tables in the dialects that programs write: every cell is read as it was."""

import csv
import warnings

import numpy as np
import pandas
import pytest

from iresnet_fast import data

WORDS = ["a", "b c", 'say "x"', "x, y", "x; y", "two\nlines", "é", "x\ty", "x|y"]


def draw(rng, n):
    """Columns of n rows: fractions, whole numbers, truths and texts, some with missing cells."""
    columns = {"fraction": rng.normal(size=n) * 10.0 ** rng.integers(-8, 8)}
    columns["whole"] = rng.integers(-5, 10 ** rng.integers(1, 15), n)
    if rng.random() < 0.5:
        columns["with, separators; in\tit"] = rng.choice(WORDS, n).astype(object)
    if rng.random() < 0.5:
        columns["logical"] = rng.random(n) < 0.5
        columns["logical"][:2] = True, False
    gaps = columns["fraction"].copy()
    gaps[rng.random(n) < 0.3] = np.nan
    gaps[0] = 0.25
    columns["gaps"] = gaps
    columns["texts"] = rng.choice(np.array(["x", "y", None], object), n)
    columns["texts"][0] = "x"
    return columns


def same(found, expected):
    if expected.dtype == object:
        return found.dtype == object and all(
            a is None if b is None else a == b.strip() for a, b in zip(found, expected, strict=True)
        )
    return found.dtype == expected.dtype and np.array_equal(found, expected, equal_nan=found.dtype.kind == "f")


@pytest.mark.parametrize("seed", range(40))
def test_what_pandas_writes_is_read_as_it_was(seed, tmp_path):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 60))
    columns = draw(rng, n)
    separator = rng.choice([",", ";", "\t", "|"])
    decimal = "," if separator != "," and rng.random() < 0.5 else "."
    encoding = rng.choice(["utf-8", "utf-8-sig", "utf-16"])
    index = bool(rng.random() < 0.5)
    frame = pandas.DataFrame(columns)
    path = tmp_path / "a.csv"
    frame.to_csv(
        path,
        sep=separator,
        decimal=decimal,
        encoding=encoding,
        index=index,
        na_rep=rng.choice(["", "NA", "NaN", "?", "null"]),
        quoting=int(rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC, csv.QUOTE_ALL])),
        lineterminator=rng.choice(["\n", "\r\n"]),
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        table = data.read_table(path)
    assert table.names == tuple(columns)
    for name, expected in columns.items():
        assert same(table.column(name), expected), (name, table.column(name)[:5], expected[:5])
    assert [("left out" in str(warning.message)) for warning in said] == [True] * index


@pytest.mark.parametrize("seed", range(20))
def test_data_frames_without_names_write_a_header_of_numbers(seed, tmp_path):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(int(rng.integers(3, 50)), int(rng.integers(2, 9)))).round(int(rng.integers(2, 17)))
    pandas.DataFrame(rows).to_csv(tmp_path / "a.csv", index=bool(seed % 2))
    with pytest.warns(RuntimeWarning, match="the names of the columns|left out"):
        table = data.read_table(tmp_path / "a.csv")
    assert table.names == tuple(map(str, range(rows.shape[1])))
    assert np.array_equal(np.stack(table.columns, 1), rows)


def lines(*texts):
    return "\n".join(texts) + "\n"


ROWS = ("0.5,1.25", "-1.5,2.5", "0.25,3.5", "1e-3,.5")
WHOLE = ("7,8,3", "1,5,2", "9,2,2", "3,3,8")
# text, whether its first line has the names, whether that is said
HEADERS = {
    "words": (("a,b", *ROWS), True, False),
    "none": (ROWS, False, False),
    "years": (("2019,2020", *ROWS), True, True),
    "years over counts": (("2019,2020,2021", *WHOLE), True, True),
    "a word and years": (("country,2019,2020", "x,0.5,1.5", "y,0.7,1.25", "z,0.1,1.75"), True, True),
    "from 0": (("0,1", *ROWS), True, True),
    "from 0 over whole numbers": (("0,1,2,3", "7,8,3,1", "1,5,2,1", "3,3,8,9"), True, True),
    "wavelengths": (("400.5,410.5,420.5", "0.1,0.2,0.4", "0.3,0.1,0.6", "0.2,0.2,0.2"), True, True),
    "even fractions": (("0.1,0.2,0.3,0.4", "0.5,0.1,0.7,0.2", "0.1,0.1,0.9,1.2"), True, True),
    "quantiles": (("0.05,0.5,0.95", "0.0123456,0.6543211,0.91234567", "0.3141592,0.7182818,1.4142135"), True, True),
    "fractions in order": (("0.1,0.2,0.3", "0.5,0.1,0.7", "0.1,0.2,0.2"), False, True),
    "quoted numbers": (('"1","2","3"', *WHOLE), True, False),
    "numbers in order": (("0,1,2,3", "4,5,6,7", "8,9,10,11"), False, True),
    "few whole numbers": (("0,1", "1,0", "1,1", "0,0"), False, True),
    "zeros": (("0,0", *ROWS), False, False),
    "a word in each row": (("x,1.5", "y,2.5", "x,2.25"), False, False),
    "a gap": (("1,,2", *WHOLE), False, False),
    "a comment": (("# a,b", *ROWS), True, False),
    "two comments": (("# made by a program", "# a,b", *ROWS), True, False),
    "quoted words": (('"a, in m","b"', *ROWS), True, False),
    "one word": (("a", "1.5", "2.5"), True, False),
    "one row": (("a,b", "1.5,2.5"), True, False),
    "one row of numbers": (("1.5,2.5",), False, False),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers(case, tmp_path):
    texts, is_header, is_said = HEADERS[case]
    path = tmp_path / "a.csv"
    path.write_text(lines(*texts))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        table = data.read_table(path)
    n_comments = sum(text.startswith("#") for text in texts)
    assert table.has_names == is_header
    assert len(table) == len(texts) - n_comments - (is_header and n_comments == 0)
    assert [("was taken for" in str(warning.message)) for warning in said] == [True] * is_said
    if n_comments == 0:
        for header in ("yes", "no"):
            table = data.read_table(path, data.TableOptions(header=header))
            assert (table.has_names, len(table)) == (header == "yes", len(texts) - (header == "yes"))


# what is in the file, the options, the rows
DIALECTS = {
    "decimal commas": ("a;b\n1,5;2\n-2,25;3\n", {}, [[1.5, 2], [-2.25, 3]]),
    "tabs and commas": ("a\tb\n1,5\t2\n-2,25\t3\n", {}, [[1.5, 2], [-2.25, 3]]),
    "semicolons and points": ("a;b\n1.5;2\n-2.25;3\n", {}, [[1.5, 2], [-2.25, 3]]),
    "a spreadsheet's": ("sep=;\na;b\n1,5;2\n-2,25;3\n", {}, [[1.5, 2], [-2.25, 3]]),
    "aligned": ("  x     y\n 1.5   2.0\n-2.25 -3\n", {}, [[1.5, 2], [-2.25, -3]]),
    "savetxt": ("# x y\n1.5e+00 2.0e+00\n-2.25e+00 3.0e+00\n", {}, [[1.5, 2], [-2.25, 3]]),
    "R": ('"a" "b"\n"1" 1.5 2\n"2" -2.25 3\n', {}, [[1.5, 2], [-2.25, 3]]),
    "names of rows": ('"a","b"\n"Mazda",1.5,2\n"Fiat",-2.25,3\n', {}, [[1.5, 2], [-2.25, 3]]),
    "separators at the ends": ("a,b,\n1.5,2,\n-2.25,3,\n", {}, [[1.5, 2], [-2.25, 3]]),
    "separators at the ends of rows": ("a,b\n1.5,2,\n-2.25,3,\n", {}, [[1.5, 2], [-2.25, 3]]),
    "three decimals": ("a;b\n1,500;2\n0,250;3\n", {}, [[1.5, 2], [0.25, 3]]),
    "given decimal": ("a;b\n1,500;2\n", {"decimal": ","}, [[1.5, 2]]),
    "given separator": ("a:b\n1.5:2\n", {"separator": ":"}, [[1.5, 2]]),
    "given tab": ("a b\tc\n1.5\t2\n", {"separator": "tab"}, [[1.5, 2]]),
    "one column": ("x\n1,5\n1,25\n-2,0\n", {}, [[1.5], [1.25], [-2]]),
    "one column without a name": ("1,5\n2,05\n3,25\n", {}, [[1.5], [2.05], [3.25]]),
    "one column, given decimal": ("length, cm\n1,5\n2,25\n4\n", {"decimal": ","}, [[1.5], [2.25], [4]]),
    "whole numbers": ("a,b\n1,5\n1,25\n", {}, [[1, 5], [1, 25]]),
    "decimal commas in quotation marks": ('"a","b"\n"1,5","2"\n"-2,25","3"\n', {}, [[1.5, 2], [-2.25, 3]]),
    "empty lines": ("a\n1.5\n\n2.5\n\n", {}, [[1.5], [2.5]]),
    "index from 1": (",a\n1,1.5\n2,2.5\n", {}, [[1.5], [2.5]]),
    "index of a part": ("Unnamed: 0,a\n3,1.5\n12,2.5\n", {}, [[1.5], [2.5]]),
}


@pytest.mark.parametrize("case", DIALECTS)
@pytest.mark.filterwarnings("ignore:iresnet_fast")
def test_dialects(case, tmp_path):
    text, options, rows = DIALECTS[case]
    (tmp_path / "a.csv").write_text(text)
    table = data.read_table(tmp_path / "a.csv", data.TableOptions(**options))
    assert np.stack(table.columns, 1).tolist() == rows


@pytest.mark.parametrize("case", ["one column", "one column without a name", "decimal commas in quotation marks"])
def test_fractions_that_might_be_something_else_are_said(case, tmp_path):
    (tmp_path / "a.csv").write_text(DIALECTS[case][0])
    with pytest.warns(RuntimeWarning, match="such as '1,5' were read as fractions; pass decimal="):
        data.read_table(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("2020,01\n2020,02\n2020,03\n")
    table = data.read_table(tmp_path / "a.csv", data.TableOptions(separator=","))
    assert [column.tolist() for column in table.columns] == [[2020] * 3, [1, 2, 3]]


@pytest.mark.parametrize("first", ["01.02.2020", "x", "2020-01-01 10:00:00"])
def test_texts_beside_decimal_commas(first, tmp_path):
    """A header without a comma is no reason to cut the rows there."""
    (tmp_path / "a.csv").write_text(f"t;v\n{first};1,5\n{first};2,25\n")
    table = data.read_table(tmp_path / "a.csv")
    assert table.names == ("t", "v")
    assert [column.tolist() for column in table.columns] == [[first] * 2, [1.5, 2.25]]


def test_lines_of_one_column_are_not_lost(tmp_path):
    path = tmp_path / "a.csv"
    pandas.DataFrame({"a": [1.5, np.nan, 2.5]}).to_csv(path, index=False)
    assert np.array_equal(data.read_table(path).column("a"), [1.5, np.nan, 2.5], equal_nan=True)
    path.write_text("a\n1.5\n\n2.5\n\n")
    with pytest.warns(RuntimeWarning, match="1 empty lines between the rows of .*a.csv were left out; write NA"):
        assert data.read_table(path).column("a").tolist() == [1.5, 2.5]


@pytest.mark.parametrize("text", ["None", "#N/A", "-nan", "."])
def test_what_programs_write_for_missing_values(text, tmp_path):
    (tmp_path / "a.csv").write_text(f"a,b\n1.5,2\n{text},3\n")
    assert np.array_equal(data.read_table(tmp_path / "a.csv").column("a"), [1.5, np.nan], equal_nan=True)


def test_encodings(tmp_path):
    path, text = tmp_path / "a.csv", "größe,b\n1.5,2\n"
    path.write_bytes(text.encode("cp1252"))
    with pytest.warns(RuntimeWarning, match="no UTF-8 text and was read as Windows-1252; pass encoding"):
        assert data.read_table(path).names == ("größe", "b")
    path.write_bytes(text.encode("cp437"))
    assert data.read_table(path, data.TableOptions(encoding="cp437")).names == ("größe", "b")


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("a;b\n1,234;2\n", {}, "which the mark is clear, got '1,234'"),
        ("a,b\n1,2\n", {"encoding": "no-such"}, "encoding must be one that Python knows, got 'no-such'"),
        ("a,b\n1,2\n", {"separator": "::"}, "separator must be one character, tab or space, got '::'"),
        ("a,b\n1,2\n", {"separator": ",", "decimal": ","}, "decimal must be another mark than the separator"),
        ("a,b\n1,5\n2,7\n", {"decimal": ","}, "decimal must be another mark than the separator"),
        ('a,b\n1,"2\n', {}, "unexpected end of data"),
        ("a,b\n5,2,3\n7,2,2\n", {"header": "yes"}, "2 cells in its second line as in its first, got 3"),
    ],
)
def test_what_is_not_guessed(text, options, words, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(data.DataError, match=words.replace("(", "[(]")) as caught:
        data.read_table(tmp_path / "a.csv", data.TableOptions(**options))
    assert "\n" not in str(caught.value)


def test_large_whole_numbers_keep_their_digits(tmp_path):
    (tmp_path / "a.csv").write_text("id,b\n9007199254740993,1.5\n9007199254740995,2.5\n")
    assert data.read_table(tmp_path / "a.csv").column("id").tolist() == [9007199254740993, 9007199254740995]
    (tmp_path / "a.csv").write_text("id,b\n18446744073709551615,1.5\n18446744073709551614,2.5\n")
    assert data.read_table(tmp_path / "a.csv").column("id").tolist() == ["18446744073709551615", "18446744073709551614"]


def test_data_frames_are_tables():
    frame = pandas.DataFrame({"a": [1.5, None], "b": [1, 2], "c": ["x", None], "d": [True, False]})
    table = data.read_table(frame)
    assert [column.dtype for column in table.columns] == [np.float64, np.int64, object, bool]
    polars = pytest.importorskip("polars")
    again = data.read_table(polars.from_pandas(frame))
    for name in frame.columns:
        assert same(again.column(name), table.column(name))
    with pytest.raises(TypeError, match="source must be a path, a list of paths or a data frame, got 7"):
        data.read_table(7)


def test_without_pandas_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"reading tables needs pandas, got none; pip install 'iresnet_fast"):
        data.read_table(tmp_path / "a.csv")
    np.save(tmp_path / "a.npy", np.eye(3))
    assert len(data.read_table(tmp_path / "a.npy")) == 3
