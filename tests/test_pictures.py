"""Pictures: what is drawn where, and that a file is there whole or not at all."""

import math
import sys

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import image
from matplotlib.figure import Figure

from iresnet_fast.models import FlowConfig, IResNetFlow
from iresnet_fast.training import pictures

pytestmark = pytest.mark.usefixtures("one_thread")


def read(path):
    """The pixels of a PNG, [height, width, 3]."""
    return image.imread(path)[..., :3]


def drawn(monkeypatch):
    """The figures that are saved."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **o: (figures.append(figure), save(figure, *a, **o))[1])
    return figures


def pixels(figure):
    """The array of the image in a figure."""
    return np.asarray(figure.axes[0].images[0].get_array())


def test_grid_of_grey_images(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    images = torch.arange(5 * 6).view(5, 1, 2, 3)
    path = pictures.image_grid(images, tmp_path / "new" / "grid.png", n_levels=31)
    assert path == tmp_path / "new" / "grid.png"
    assert read(path).std() > 0.1
    assert [entry.name for entry in path.parent.iterdir()] == ["grid.png"]  # nothing unfinished is left
    grid = pixels(figures[0])
    assert grid.shape == (2 * 3 - 1, 3 * 4 - 1)  # 5 images in 3 columns, white lines between
    for i in range(5):
        row, column = divmod(i, 3)
        tile = grid[3 * row : 3 * row + 2, 4 * column : 4 * column + 3]
        np.testing.assert_allclose(tile, images[i, 0].double() / 30.0, rtol=1e-12)
    assert (grid[2] == 1.0).all()
    assert (grid[3:, 8:] == 1.0).all()  # there is no sixth


def test_grid_of_colours_clips_and_draws_what_is_not_a_number(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    images = torch.tensor([-1.0, 0.25, 2.0, math.nan, math.inf, 1.0]).view(2, 3, 1, 1)
    assert read(pictures.image_grid(images, tmp_path / "grid.png")).std() > 0.1
    np.testing.assert_array_equal(pixels(figures[0])[0, [0, 2]], [[0.0, 0.25, 1.0], [0.0, 1.0, 1.0]])


@pytest.mark.parametrize("shape", [(0, 1, 2, 2), (3, 2, 2, 2), (3, 4)])
def test_no_images(tmp_path, shape):
    with pytest.raises(ValueError, match="images must have shape"):
        pictures.image_grid(torch.zeros(shape), tmp_path / "grid.png")
    assert not list(tmp_path.iterdir())


def test_reconstructions_lie_side_by_side(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    x = torch.rand(6, 1, 2, 2) - 0.5
    path = pictures.reconstructions(x, 0.5 * x, torch.linspace(0.0, 3e-5, 6), tmp_path / "pairs.png")
    assert read(path).std() > 0.1
    (axes,) = figures[0].axes
    assert axes.get_title() == "6 images, each beside its reconstruction: error at most 3.0e-05"
    grid = pixels(figures[0])
    low, high = float(x.min()), float(x.max())
    for i in range(6):
        row, column = divmod(i, 2)  # two pairs in a row
        top, left = 3 * row, 6 * column
        for image_of, start in ((x[i, 0], left), (0.5 * x[i, 0], left + 3)):
            expected = (image_of.double() - low) / (high - low)
            np.testing.assert_allclose(grid[top : top + 2, start : start + 2], expected, atol=1e-12)


def test_density_is_that_of_the_model(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    torch.set_num_threads(1)
    flow = IResNetFlow(FlowConfig((2,), blocks=(1,), hidden=(4, 4)))
    data = torch.randn(400, 2) * torch.tensor([1.0, 3.0])
    flow.initialize(data)
    flow.train()
    assert read(pictures.density(flow, data, tmp_path / "density.png")).std() > 0.1
    assert flow.training
    left, right = figures[0].axes
    counts = left.collections[0].get_array()
    assert counts.sum() == 400  # every point lies within the picture
    mesh = right.collections[0]
    values = mesh.get_array().reshape(200, 200)
    corners = mesh.get_coordinates()
    centres = (corners[:-1, :-1] + corners[1:, 1:]) / 2.0
    flow.eval()
    for row, column in ((0, 0), (100, 20), (20, 100), (150, 199)):
        with torch.no_grad():
            expected = flow.log_prob(torch.tensor(centres[row, column], dtype=torch.float32)[None]).exp()
        assert values[row, column] == pytest.approx(float(expected), rel=1e-3, abs=1e-12)
    cell = np.prod(centres[1, 1] - centres[0, 0])
    assert 0.5 < values.sum() * cell <= 1.01  # most of the mass is where the data are


def test_points_and_densities_need_two_dimensions(tmp_path):
    assert read(pictures.points(torch.randn(50, 2), tmp_path / "points.png")).std() > 0.01
    with pytest.raises(ValueError, match="points must have shape"):
        pictures.points(torch.randn(50, 3), tmp_path / "none.png")
    flow = IResNetFlow(FlowConfig((3,), blocks=(1,), hidden=(4, 4)))
    with pytest.raises(ValueError, match=r"needs two dimensions, got \(3,\) in the model"):
        pictures.density(flow, torch.randn(50, 3), tmp_path / "none.png")


def test_a_failed_picture_leaves_the_old_one(tmp_path, monkeypatch):
    path = pictures.points(torch.randn(5, 2), tmp_path / "points.png")
    old = path.read_bytes()

    def fail(self, file, **options):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        pictures.points(torch.randn(5, 2), path)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["points.png"]


def test_the_backend_of_the_session_stays(tmp_path, monkeypatch):
    backend = matplotlib.get_backend(auto_select=False)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    pictures.points(torch.randn(5, 2), tmp_path / "points.png")
    assert "matplotlib.pyplot" not in sys.modules  # which would choose one
    assert matplotlib.get_backend(auto_select=False) == backend
