"""The picture of a log: which curves there are, what is marked, and what becomes of a log that is damaged."""

import pytest
from matplotlib import image
from matplotlib.figure import Figure

from iresnet_fast.training import pictures
from iresnet_fast.training.pictures import _curves


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    found = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **o: (found.append(figure), save(figure, *a, **o))[1])
    return found


def write(path, text):
    path.write_text(text)
    return path


def lines(axes):
    """The curves of some axes by their label, as lists of points."""
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines if not line.get_label().startswith("_")}


def test_a_metric_measured_once_is_stated_and_has_no_panel(tmp_path, figures):
    log = write(
        tmp_path / "log.csv", "step,minutes,loss,test_nats,test_other\n20,0.5,3.0,,\n40,1.0,2.0,,\n60,2.0,1.5,2.5,\n"
    )
    path = pictures.curves(log, tmp_path / "curves.png")
    assert image.imread(path)[..., :3].std() > 0.01
    (loss,) = figures[0].axes
    assert loss.get_title() == "loss"
    assert loss.lines[0].get_xydata().tolist() == [[0.5, 3.0], [1.0, 2.0], [2.0, 1.5]]
    assert loss.get_xlim() == (0.0, 1.02 * 2.0)
    assert figures[0].get_suptitle() == "test nats 2.5"  # and nothing of the one that was never measured


def test_validation_and_test_share_axes_and_the_best_step_is_marked(tmp_path, figures):
    log = write(
        tmp_path / "log.csv",
        "step,minutes,loss,test_nats,validation_nats\n"
        "20,0.5,3.0,,2.0\n40,1.0,2.0,,1.25\n60,2.0,1.5,,1.5\n80,3.0,1.25,1.75,\n",
    )
    pictures.curves(log, tmp_path / "curves.png")
    loss, nats = figures[0].axes
    assert nats.get_title() == "nats"
    found = lines(nats)
    assert found["validation data"] == [[0.5, 2.0], [1.0, 1.25], [2.0, 1.5]]
    assert found["test data"] == [[3.0, 1.75]]
    for axes in (loss, nats):
        assert [x for x, _ in lines(axes)["best: step 40"]] == [1.0, 1.0]


def test_a_steep_begin_does_not_hide_the_rest(tmp_path, figures):
    rows = [f"{20 * i},{i / 10},{1e6 if i == 1 else 2 + 1 / i}" for i in range(1, 61)]
    log = write(tmp_path / "log.csv", "\n".join(["step,minutes,loss", *rows]) + "\n")
    pictures.curves(log, tmp_path / "curves.png")
    (axes,) = figures[0].axes
    assert axes.get_ylim()[1] < 3.0
    assert axes.get_title() == "loss (it begins at 1e+06)"


def test_a_log_without_rows(tmp_path):
    log = write(tmp_path / "log.csv", "step,minutes,loss\n")
    with pytest.raises(ValueError, match=r"log\.csv must hold a row"):
        pictures.curves(log, tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize("line", ["40,1.0", "40,1.0,word", "40,,1.0", "40,nan,1.0", "40,1.0,2.0,3.0", "\0\0\0"])
def test_damaged_lines_are_counted(tmp_path, line):
    log = write(tmp_path / "log.csv", f"step,minutes,loss\n20,0.5,3.0\n{line}\n60,2.0,1.5\n")
    rows, n_damaged = _curves.read_log(log)
    assert n_damaged == 1
    assert [row["step"] for row in rows] == [20.0, 60.0]
    with pytest.raises(ValueError, match=r"got 1 that are not; remove these lines\.$"):
        pictures.curves(log, tmp_path / "curves.png")
