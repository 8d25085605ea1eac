"""What the columns of a table become: categories, steps of whole numbers, weights, missing cells, and kept digits."""

import math
import warnings

import numpy as np
import pandas
import pytest
import torch

from iresnet_fast import data

N = 200


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "length": rng.normal(size=N),
            "count": rng.integers(0, 9, N),
            "species": rng.choice(["setosa", "virginica", "versicolor"], N),
            "smoker": rng.random(N) < 0.5,
            "weight": rng.random(N),
        }
    )


@pytest.fixture
def load(tmp_path):
    """Load a data frame from a file, and return what was said."""

    def load(frame, context=(), **options):
        frame.to_csv(tmp_path / "a.csv", index=False)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            loaded = data.load(tmp_path / "a.csv", context=context, table=data.TableOptions(**options))
        return loaded, [str(warning.message) for warning in said]

    return load


def both(loaded, context=False):
    """All rows [N, d], in no order."""
    return torch.cat((loaded.train_context, loaded.test_context) if context else (loaded.train, loaded.test))


def ordered(rows):
    return rows[np.lexsort(rows.T)]


def test_columns_are_chosen_in_order(frame, load):
    loaded, _ = load(frame, columns=("count", "length"))
    expected = frame[["count", "length"]].to_numpy().astype(np.float32)
    assert np.array_equal(ordered(both(loaded).numpy()), ordered(expected))
    assert loaded.table.entries == ("count", "length")
    assert loaded.table.steps == (1.0, 0.0)
    assert loaded.source.table.columns == ("count", "length")


def test_whole_numbers_are_noticed_once(frame, load):
    frame["even"] = 2 * frame["count"] + 1
    chosen = ("length", "count", "even", "smoker")
    loaded, said = load(frame, columns=chosen)
    assert loaded.table.steps == (0.0, 1.0, 2.0, 1.0)
    assert len(said) == 1
    assert "count, even of " in said[0]
    assert "continuous" in said[0]
    assert "length" not in said[0]
    loaded, said = load(frame, columns=chosen, continuous=("count", "even"))
    assert loaded.table.steps == (0.0, 0.0, 0.0, 1.0)
    assert not said


def test_texts_must_be_called_categories(frame, load):
    words = r"column 'species' of .* must hold finite numbers, got '[a-z]+' in row 1; .*--categorical species"
    with pytest.raises(data.DataError, match=words):
        load(frame)
    loaded, _ = load(frame, columns=("length", "species"), categorical=("species",))
    assert loaded.event_shape == (2,)
    assert set(both(loaded)[:, 1].tolist()) == {0.0, 1.0, 2.0}
    loaded, _ = load(frame, columns=("length", "species"), one_hot=["species"])
    assert loaded.table.entries == ("length", "species=setosa", "species=versicolor", "species=virginica")
    assert bool((both(loaded)[:, 1:].sum(1) == 1.0).all())


def test_cells_come_back(frame, load):
    """As they were in the file, in type and value: those of float32 digits."""
    frame["length"] = frame["length"].astype(np.float32).astype(float)
    loaded, _ = load(frame, columns=("length", "count", "species", "smoker"), categorical=("species",))
    again = loaded.table.decode(both(loaded))
    found = pandas.DataFrame(dict(zip(again.names, again.columns, strict=True)))
    expected = frame[list(again.names)]
    key = ["length"]
    found, expected = (part.sort_values(key).reset_index(drop=True) for part in (found, expected))
    for name in again.names:
        assert found[name].tolist() == expected[name].tolist()
    assert again.column("count").dtype == np.int64
    assert again.column("smoker").dtype == bool


@pytest.mark.parametrize("missing", ["drop", "mean"])
def test_whole_numbers_beside_missing_cells_stay_whole(load, missing):
    counts = [str(i % 7) if i % 5 else "" for i in range(40)]
    frame = pandas.DataFrame({"count": counts, "x": np.random.default_rng(0).normal(size=40)})
    loaded, _ = load(frame, missing=missing)
    found = loaded.table.decode(both(loaded)).column("count")
    assert found.dtype == np.int64
    known = [int(text) for text in counts if text]
    filled = [round(loaded.table.columns[0].mean)] * (counts.count("") if missing == "mean" else 0)
    assert sorted(found.tolist()) == sorted(known + filled)


def test_what_is_not_finite_comes_back_as_missing():
    columns = (
        data.Column("n", "integer", 1.0),
        data.Column("x"),
        data.Column("c", "category", 1.0, categories=("a", "b")),
    )
    found = data.TableSchema(columns).decode(torch.tensor([[math.nan] * 3, [1e30, 2.0, 1.0], [3.0, math.inf, 0.0]]))
    assert math.isnan(found.column("n")[0])
    assert found.column("n")[1:].tolist() == [float(np.float32(1e30)), 3.0]
    assert found.column("c").tolist() == [None, "b", "a"]


def test_missing_cells_are_counted_once_for_all_entries_of_a_category(load):
    frame = pandas.DataFrame({"x": range(20), "g": ["u", "v", "w", "u"] * 5})
    schema = load(frame, context=("g",))[0].table
    cells = (np.array([1, 2, 3]), np.array(["u", None, None], object))
    with pytest.raises(data.DataError, match=r"column 'g' of new must .* in row 2, and 2 missing cells in all"):
        schema.encode(data.Table("new", ("x", "g"), cells))


def test_texts_of_the_context_get_an_entry_each(frame, load):
    loaded, said = load(frame, context=("species", "count"), columns=("length",))
    assert loaded.context_names == ("species=setosa", "species=versicolor", "species=virginica", "count")
    assert loaded.event_shape == (1,)
    assert not said  # noise is for what is modelled


def test_weights_are_no_entry(frame, load):
    loaded, _ = load(frame, columns=("length", "count"), weights="weight")
    assert loaded.event_shape == (2,)
    by_length = dict(zip(frame["length"].astype(np.float32), frame["weight"], strict=True))
    expected = np.array([by_length[np.float32(length)] for length in loaded.train[:, 0].tolist()])
    np.testing.assert_allclose(loaded.train_weights.numpy() / expected * expected.max(), 1.0, rtol=1e-6)
    with pytest.raises(data.DataError, match="weights must be a column of finite numbers that are not negative"):
        load(frame, columns=("count",), weights="length")
    with pytest.raises(data.DataError, match="weights must be other columns than those used already, got 'length'"):
        load(frame, columns=("length",), weights="length")


def test_missing_cells(frame, load):
    gone = np.arange(0, N, 10)
    frame.loc[gone, "length"] = np.nan
    frame["count"] = frame["count"].astype("Int64")
    frame.loc[gone[:5], "count"] = pandas.NA
    chosen = {"columns": ("length", "count")}
    with pytest.raises(
        data.DataError, match=r"must have a value in every row, got none in row 1, and 25 missing cells"
    ):
        load(frame, **chosen)
    loaded, said = load(frame, **chosen, missing="drop")
    assert len(both(loaded)) == N - len(gone)
    assert (
        sum("20 of 200 rows" in sentence and "in length, count and were left out" in sentence for sentence in said) == 1
    )
    loaded, said = load(frame, **chosen, missing="mean")
    assert len(both(loaded)) == N
    assert sum("25 missing cells" in sentence for sentence in said) == 1
    mean, count = (column.mean for column in loaded.table.columns)
    kept = loaded.train[loaded.train[:, 0] != np.float32(mean), 0].double()
    # The mean of float32 values differs from that of what they were by half a spacing of the largest at most.
    assert abs(float(kept.mean()) - mean) <= float(kept.abs().max()) * 2.0**-24
    assert count == round(count)
    assert bool((loaded.train[:, 0] == np.float32(mean)).any())


def test_constant_columns(frame, load):
    frame["stuck"] = 7
    with pytest.raises(data.DataError, match="the same number in all training rows of column stuck; remove it"):
        load(frame, columns=("length", "stuck"))
    assert load(frame, columns=("length",), context=("stuck",))[0].context_features == 1


rng = np.random.default_rng(1)
NORMAL = rng.normal(size=2000)
WIDE = {
    "seconds since 1970": (1.7e9 + rng.uniform(0.0, 3600.0, 2000)).round(2),
    "milliseconds since 1970": 1_700_000_000_000 + rng.permutation(3_600_000)[:2000],
    "latitudes": 52.5163 + 1e-5 * NORMAL,
    "large ids": (1 << 60) + rng.permutation(100_000)[:2000],
    "huge": 1e300 * NORMAL,
    "tiny": 1e-40 * NORMAL,
    "tiny around one": 1.0 + 1e-12 * NORMAL,
    "negative": -1e12 + NORMAL,
    "small ids": 20_000_000 + 3 * rng.permutation(5000)[:2000],
}


@pytest.mark.parametrize("case", WIDE)
def test_digits_are_kept(case, tmp_path):
    """Values that differ in the file differ for the model, and come back; what was done is said."""
    values = WIDE[case]
    pandas.DataFrame({"x": values, "y": NORMAL}).to_parquet(tmp_path / "a.parquet")
    with pytest.warns(RuntimeWarning, match=r"x \((less|divided)"):
        loaded = data.load(tmp_path / "a.parquet")
    x = both(loaded)[:, 0].double().numpy()
    n = len(np.unique(values))
    # Of n numbers spread over 2^17 spacings at least, about n^2 / 2 / 2^17 / 3.4 pairs become equal.
    assert len(np.unique(x)) >= n - max(3, n * n / 2**18)
    assert 1e-15 < x.std() < 1e15
    assert abs(x).max() < 64 * x.std()
    column = loaded.table.columns[0]
    again = np.sort(loaded.table.decode(both(loaded)).columns[0])
    spacing = float(np.spacing(np.float32(abs(x).max()))) * column.scale
    error = np.abs((again - np.sort(values)).astype(float))
    assert error.max() <= spacing + np.spacing(np.abs(values).max().astype(float))
    if column.step:
        assert error.max() == 0.0
    assert loaded.table.log_scale == pytest.approx(np.log(column.scale), abs=1e-12)


@pytest.mark.parametrize(
    "values",
    [NORMAL, 300.0 + 10.0 * NORMAL, (1000.0 + NORMAL).round(1), rng.integers(1990, 2024, 2000), 1e6 * NORMAL],
    ids=["normal", "kelvin", "rounded", "years", "large"],
)
def test_values_that_float32_keeps_stay_as_they_are(values, tmp_path):
    np.save(tmp_path / "a.npy", np.stack((values, NORMAL), 1))
    loaded = data.load(tmp_path / "a.npy")
    assert np.array_equal(np.sort(both(loaded)[:, 0].numpy()), np.sort(values.astype(np.float32)))


def test_values_far_from_all_others_are_refused(tmp_path):
    times = 1.7e9 + rng.uniform(0.0, 3600.0, 2000)
    times[:20] = 0.0
    np.save(tmp_path / "a.npy", np.stack((times, NORMAL), 1))
    with pytest.raises(data.DataError, match=r"float32 can tell apart, got 19\d\d different ones from 0.0 to 17000"):
        data.load(tmp_path / "a.npy")


def test_numbers_of_rows_are_pointed_out(frame, load):
    frame["id"] = np.arange(N)
    _, said = load(frame, columns=("length", "id"))
    assert sum("id of" in sentence and "numbers the rows" in sentence for sentence in said) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": ("lenght",)}, "columns must be columns of .*got 'lenght', none of them"),
        ({"columns": ("length", "length")}, "columns must name a column once, got length, length"),
        ({"categorical": ("nothing",)}, "categorical must be columns of .* got 'nothing', none of them"),
        ({"columns": ("length",), "one_hot": ("species",)}, "one_hot must be columns that are used, got 'species'"),
        ({"columns": ("species",), "one_hot": ("species",), "categorical": ("species",)}, "name it once"),
        ({"columns": ("length",), "context": ("length",)}, "context must be other columns than those used already"),
    ],
)
def test_mistaken_names(frame, load, options, words):
    with pytest.raises(data.DataError, match=words) as caught:
        load(frame, **options)
    assert str(caught.value).startswith(caught.value.argument)
    assert caught.value.argument


def test_a_value_that_many_rows_share_is_told(frame, load):
    """A mark of missing cells, or an atom; values that are rounded alike have neighbours as frequent as they are."""
    marked = frame.assign(length=frame["length"].where(np.arange(N) >= 6, -999.0))
    _, said = load(marked[["length", "weight"]])
    (line,) = said
    assert "length (6 rows with -999) of" in line
    assert "a value that many rows share beside continuous ones" in line
    _, said = load(frame[["length", "weight"]].round(1))
    assert said == []
    _, said = load(marked[["length", "weight"]].assign(weight=frame["weight"].where(np.arange(N) >= 4, 0.0)))
    assert "weight" not in said[0]  # four may be chance
