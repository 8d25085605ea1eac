"""Pictures of tables: pairs of columns, calibration, signals, and the formats all pictures can have."""

import math

import numpy as np
import pytest
import torch
from matplotlib import image
from matplotlib.figure import Figure

from iresnet_fast.data import Column, Table, TableSchema
from iresnet_fast.models import FlowConfig, IResNetFlow
from iresnet_fast.training import pictures

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    found = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **o: (found.append(figure), save(figure, *a, **o))[1])
    return found


def table(seed, n, shift=0.0):
    """A column of each kind."""
    rng = np.random.default_rng(seed)
    cities = np.array(["Rome", "Zürich <b>", "$x$"], object)[rng.integers(0, 3, n)]
    return Table("t", ("length", "children", "city"), (rng.normal(size=n) + shift, rng.integers(0, 4, n), cities))


def normals(seed, n, d, **moved):
    """Columns 1 .. d, some of them moved."""
    x = np.random.default_rng(seed).normal(size=(d, n))
    for name, by in moved.items():
        x[int(name.removeprefix("c")) - 1] += by
    return Table("t", tuple(map(str, range(1, d + 1))), tuple(x))


def test_pairs_draw_data_and_samples_in_shared_bins(tmp_path, figures):
    data, samples = table(0, 200), table(1, 100)
    path = pictures.pairs(data, samples, tmp_path / "pairs.png")
    assert image.imread(path)[..., :3].std() > 0.05
    (figure,) = figures
    grid = np.array(figure.axes).reshape(3, 3)
    assert [axes.get_xlabel() for axes in grid[-1]] == ["length", "children", "city"]
    assert [axes.get_ylabel() for axes in grid[1:, 0]] == ["children", "city"]
    for axes in grid.diagonal():
        blue, orange = axes.patches
        np.testing.assert_array_equal(blue.get_data().edges, orange.get_data().edges)
    heights = [patch.get_data().values for patch in grid[1, 1].patches]
    for cells, found in zip((data.columns[1], samples.columns[1]), heights, strict=True):
        np.testing.assert_allclose(found, np.bincount(cells, minlength=4) / len(cells))
    assert [text.get_text() for text in grid[2, 2].get_xticklabels()] == [r"\$x\$", "Rome", "Zürich <b>"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["data", "samples"]
    points = grid[1, 0].collections[0]
    assert len(points.get_offsets()) == 200  # as many of both as there are of the fewer
    assert not grid[0, 1].axison


def test_samples_outside_are_counted(tmp_path, figures):
    rng = np.random.default_rng(0)
    data = Table("t", ("a",), (rng.uniform(0.0, 1.0, 100),))
    samples = Table("t", ("a",), (np.array([0.5, 7.0, -3.0, math.nan]),))
    pictures.pairs(data, samples, tmp_path / "pairs.png")
    assert figures[0].get_suptitle() == "100 rows of the data, 4 samples, 3 of them outside the axes"


def test_of_many_columns_those_that_differ_most(tmp_path, figures):
    moved = {f"c{number}": 3.0 for number in (3, 5, 6, 8, 11, 12, 19, 20)}
    pictures.pairs(normals(0, 300, 20), normals(1, 300, 20, **moved), tmp_path / "pairs.png")
    axes = np.array(figures[0].axes).reshape(8, 8)
    assert [beside.get_xlabel() for beside in axes[-1]] == ["3", "5", "6", "8", "11", "12", "19", "20"]
    assert "the 8 of 20 columns that differ most" in figures[0].get_suptitle()


@pytest.mark.parametrize("cells", [np.full(5, 3.5), np.full(5, 7), np.array(["one"] * 5, object), np.zeros(5)])
def test_a_column_of_one_value(tmp_path, cells):
    one = Table("t", ("a", "b"), (cells, np.arange(5.0)))
    assert image.imread(pictures.pairs(one, one, tmp_path / "pairs.png"))[..., :3].std() > 0.01


def test_an_empty_table_has_no_pairs(tmp_path):
    one = normals(0, 1, 2)
    with pytest.raises(ValueError, match="must have a row at least, got 1 and 0"):
        pictures.pairs(one, one.rows(np.zeros(0, int)), tmp_path / "pairs.png")
    assert not list(tmp_path.iterdir())


def test_rows_are_in_the_units_of_the_file():
    schema = TableSchema(
        (Column("time", shift=1e9, scale=2.0), Column("kind", "category", 1.0, categories=("a", "b"))),
        (Column("dose"),),
    )
    found = pictures.rows_of("t", torch.tensor([[1.5, 0.2], [2.0, 0.9]]), torch.tensor([[0.5], [1.0]]), schema)
    assert found.names == ("time", "kind", "dose")
    assert found.columns[0].tolist() == [1e9 + 3.0, 1e9 + 4.0]
    assert found.columns[1].tolist() == ["a", "b"]
    plain = pictures.rows_of("t", torch.zeros(2, 2), torch.ones(2, 1), None, ("dose",))
    assert plain.names == ("1", "2", "dose")
    assert pictures.rows_of("t", torch.zeros(2, 2), torch.ones(2, 1)).names == ("1", "2", "context 1")


def gaussian(d, **options):
    """A flow without blocks: its latents are the data, and its prior standard normal."""
    return IResNetFlow(FlowConfig((d,), blocks=(0,), actnorm=False, prior="standard", **options)).eval()


def test_calibration_of_the_right_model_stays_within_the_band(tmp_path, figures):
    x = torch.randn(400, 3)
    found = pictures.calibration(gaussian(3), x, tmp_path / "calibration.png")
    assert (found.dims <= found.dims_band).all()
    assert found.radius <= found.radius_band
    assert "0 of 3 dimensions leave the band of chance" in str(found)
    assert found.radius_band == pytest.approx(math.sqrt(math.log(2 / 0.05) / 800))
    assert found.dims_band == pytest.approx(math.sqrt(math.log(6 / 0.05) / 800))
    left, right = figures[0].axes
    assert len(left.lines) == 1 + 3
    assert len(right.lines) == 1 + 1
    scipy = pytest.importorskip("scipy.stats")
    for number in range(3):
        expected = scipy.kstest(x[:, number].double().numpy(), "norm").statistic
        assert found.dims[number] == pytest.approx(expected, rel=1e-9)
    radius = x.double().square().sum(1).numpy()
    assert found.radius == pytest.approx(scipy.kstest(radius, scipy.chi2(3).cdf).statistic, rel=1e-9)


def test_calibration_finds_the_dimension_that_is_wrong(tmp_path, figures):
    x = torch.randn(400, 3)
    x[:, 1] += 1.0
    found = pictures.calibration(gaussian(3), x, tmp_path / "calibration.png")
    assert (found.dims > found.dims_band).tolist() == [False, True, False]
    assert "1 of 3 dimensions leaves the band of chance" in str(found)
    labels = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert labels == ["what chance allows (95 %)", "latent 2, the farthest"]


def test_calibration_at_the_context_of_each_row(tmp_path):
    torch.manual_seed(0)
    flow = IResNetFlow(FlowConfig((2,), blocks=(1,), hidden=(4, 4), context_features=1, prior="conditional")).eval()
    for parameter in flow.prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    context = torch.linspace(-2.0, 2.0, 300)[:, None]
    x = flow.sample(300, context, seed=1)
    right = pictures.calibration(flow, x, tmp_path / "a.png", context)
    assert (right.dims <= right.dims_band).all()
    wrong = pictures.calibration(flow, x, tmp_path / "b.png", -context)
    assert (wrong.dims > wrong.dims_band).any()


def test_signals_are_lines(tmp_path, figures):
    samples = torch.randn(18, 2, 30)
    assert image.imread(pictures.signals(samples, tmp_path / "signals.png"))[..., :3].std() > 0.01
    assert figures[0].get_suptitle() == "16 signals of 18"
    drawn = figures[0].axes[5].lines
    for line, values in zip(drawn, samples[5], strict=True):
        np.testing.assert_allclose(line.get_ydata(), values.double())
    with pytest.raises(ValueError, match="signals must have shape"):
        pictures.signals(torch.randn(3, 4), tmp_path / "none.png")


BEGINS = {
    ".png": b"\x89PNG", ".jpg": b"\xff\xd8\xff", ".jpeg": b"\xff\xd8\xff", ".JPG": b"\xff\xd8\xff", ".svg": b"<?xml",
    ".pdf": b"%PDF", ".webp": b"RIFF",
}  # fmt: skip


@pytest.mark.parametrize("suffix", BEGINS)
def test_the_suffix_decides_the_format(tmp_path, suffix):
    path = pictures.points(torch.randn(5, 2), tmp_path / f"points{suffix}")
    assert path.read_bytes().startswith(BEGINS[suffix])
    assert {entry.lower() for entry in BEGINS} == set(pictures.FORMATS)


@pytest.mark.parametrize("name", ["points", "points.gif", "points.txt", ".png"])
def test_another_suffix_is_one_sentence(tmp_path, name):
    with pytest.raises(ValueError, match=r"^the name of a picture must end in \.png, .*; name it e\.g\. \S+\.png\.$"):
        pictures.points(torch.randn(5, 2), tmp_path / name)
    assert not list(tmp_path.iterdir())
