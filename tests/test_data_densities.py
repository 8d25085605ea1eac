"""The two-dimensional densities against their curves and centres, written down again here; and the digits."""

import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from iresnet_fast import data

N = 4000
PI = np.pi
DENSITIES = ("swissroll", "circles", "rings", "moons", "8gaussians", "pinwheel", "2spirals", "checkerboard")


def turn(angle):
    return np.exp(1j * angle)


def points(name, n=N, seed=0):
    """Samples as complex numbers."""
    xy = data.sample_density(name, n, seed).double().numpy()
    return xy[:, 0] + 1j * xy[:, 1]


# Each density that is noise around curves: the curves as functions of t in [0, 1], over which points are spread
# evenly, and the standard deviation of the noise across a curve.
TURNS = 3 * PI  # of a spiral
SPIRAL_NOISE = np.sqrt(0.1**2 + (0.5 / 3) ** 2 / 12)  # normal, and uniform of width 0.5 before dividing by 3


def spiral(t):
    angle = TURNS * np.sqrt(t)  # evenly over the disk
    return (-angle * np.cos(angle) + 0.25 + 1j * (angle * np.sin(angle) + 0.25)) / 3


CURVES = {
    "swissroll": ([lambda t: 1.5 * PI * (1 + 2 * t) * turn(1.5 * PI * (1 + 2 * t)) / 5], 1.0 / 5),
    "circles": ([lambda t: 3.0 * turn(2 * PI * t), lambda t: 1.5 * turn(2 * PI * t)], 3 * 0.08),
    "rings": ([lambda t, r=r: r * turn(2 * PI * t) for r in (0.75, 1.5, 2.25, 3.0)], 0.08),
    "moons": ([lambda t: 2 * turn(PI * t) - 1 - 0.2j, lambda t: 2 * turn(-PI * t) + 1 + 0.8j], 2 * 0.1),
    "2spirals": ([spiral, lambda t: -spiral(t)], SPIRAL_NOISE),
}


def project(name):
    """Of every sample: its curve, t there, the distance, and the offset across the curve as a vector."""
    curves, _ = CURVES[name]
    grid = (np.arange(1000) + 0.5) / 1000
    skeleton = np.concatenate([curve(grid) for curve in curves])
    normal = 1j * np.concatenate([curve(grid + 1e-6) - curve(grid - 1e-6) for curve in curves])
    at, distance = nearest(points(name), skeleton)
    normal = normal[at] / np.abs(normal[at])
    side = ((points(name) - skeleton[at]) * normal.conj()).real
    return at // len(grid), grid[at % len(grid)], distance, side, normal


@pytest.mark.parametrize("name", CURVES)
def test_curves(name):
    """Distance from the nearest curve, to which side of it, share of each curve, and the spread along it."""
    curves, noise = CURVES[name]
    which, t, distance, side, _ = project(name)
    # Relative standard error 1 / sqrt(2 N) = 1.1 %; curves that are near each other or end take some per cent more.
    assert np.sqrt(np.mean(distance**2)) == pytest.approx(noise, rel=0.05)
    share = 1 / len(curves)
    for curve in range(len(curves)):
        count = int((which == curve).sum())
        assert count / N == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / N) + 1e-9)
        # Normal noise across a curve of radius R has the mean noise^2 / 2 R in radius, up to half of this.
        assert abs(side[which == curve].mean()) < 5 * noise / np.sqrt(count)
        gap = np.abs(np.sort(t[which == curve]) - (np.arange(count) + 0.5) / count).max()
        assert gap < 2.0 / np.sqrt(count)  # Kolmogorov and Smirnov: exceeded once in 1500 samples


def test_spirals_are_off_centre():
    """The uniform part of their noise has the mean 1/4 in both coordinates, before one arm is turned onto the other."""
    which, _, _, side, normal = project("2spirals")
    assert abs((side * normal * np.where(which == 0, 1, -1)).mean()) < 5 * SPIRAL_NOISE / np.sqrt(N)


def nearest(samples, skeleton):
    distance = np.abs(samples[:, None].astype(np.complex64) - skeleton[None].astype(np.complex64))
    at = distance.argmin(1)
    return at, distance[np.arange(len(samples)), at]


def test_eight_gaussians():
    centres = 4 / 1.414 * turn(PI / 4 * np.arange(8))
    at, _ = nearest(points("8gaussians"), centres)
    offset = points("8gaussians") - centres[at]
    assert np.bincount(at, minlength=8) == pytest.approx(np.full(8, N / 8), abs=5 * np.sqrt(N / 8))
    for centre in range(8):
        assert abs(offset[at == centre].mean()) < 5 * 0.5 / np.sqrt(N / 8)
    outwards = (offset * centres[at].conj()).real / np.abs(centres[0])
    assert abs(outwards.mean()) < 5 * 0.5 / 1.414 / np.sqrt(N)
    # Half the distance of two centres is three standard deviations: assignment to the nearest cuts next to nothing.
    for part in (offset.real, offset.imag):
        assert part.std() == pytest.approx(0.5 / 1.414, rel=0.04)


def test_pinwheel():
    """Five arms of radius 1 +- 0.3 and width 0.1, sheared clockwise by exp(radius) / 4, twice as large."""
    p = points("pinwheel") / 2
    untwisted = p * turn(0.25 * np.exp(np.abs(p)))
    arm = np.round(np.angle(untwisted) / (2 * PI / 5)) % 5
    straight = untwisted * turn(-arm * 2 * PI / 5)
    assert np.unique(arm, return_counts=True)[1] == pytest.approx(np.full(5, N / 5), abs=5 * np.sqrt(N / 5))
    assert straight.real.mean() == pytest.approx(1.0, abs=5 * 0.3 / np.sqrt(N))
    assert straight.imag.mean() == pytest.approx(0.0, abs=5 * 0.1 / np.sqrt(N))
    assert straight.real.std() == pytest.approx(0.3, rel=0.05)
    assert straight.imag.std() == pytest.approx(0.1, rel=0.05)


def test_checkerboard():
    """Eight squares of side 2 on [-4, 4]^2, that at the origin's upper right among them; uniform in each."""
    p = data.sample_density("checkerboard", N).double().numpy()
    assert np.abs(p).max() <= 4
    cell = np.floor(p / 2)
    assert (cell.sum(1) % 2 == 0).all()
    cells = Counter(map(tuple, cell.tolist()))
    assert set(cells) == {(i, j) for i in range(-2, 2) for j in range(-2, 2) if (i + j) % 2 == 0}
    assert list(cells.values()) == pytest.approx([N / 8] * 8, abs=5 * np.sqrt(N / 8))
    inside = np.sort(p / 2 - cell, axis=0)
    assert np.abs(inside - ((np.arange(N) + 0.5) / N)[:, None]).max() < 2.0 / np.sqrt(N)


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("n", [1, 7])
def test_any_number_of_points(name, n):
    x = data.sample_density(name, n)
    assert x.shape == (n, 2)
    assert x.dtype == torch.float32
    assert x.isfinite().all()


@pytest.mark.parametrize("name", DENSITIES)
def test_load(name):
    loaded = data.load(name)
    assert (loaded.train.shape, loaded.test.shape) == ((50_000, 2), (10_000, 2))
    assert (loaded.event_shape, loaded.is_image) == ((2,), False)
    assert (loaded.n_levels, loaded.n_classes, loaded.train_labels, loaded.test_labels) == (None,) * 4
    own = data.sample_density(name, 10_000, 0)
    for other in (loaded.train, own):  # the test holds points of its own, and sample_density draws further ones
        assert not (set(map(tuple, loaded.test.tolist())) & set(map(tuple, other.tolist())))
        pairs = np.corrcoef(np.hstack((loaded.test.numpy(), other[:10_000].numpy())), rowvar=False)
        assert np.abs(pairs[:2, 2:]).max() < 5 / np.sqrt(10_000)


@pytest.mark.parametrize("name", [*DENSITIES, "digits"])
def test_the_seed_and_nothing_else_decides(name):
    """Global generators neither matter nor move."""
    first = data.load(name)
    np.random.seed(3)  # noqa: NPY002  # the global one is what must not matter
    torch.manual_seed(3)
    states = np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate()  # noqa: NPY002
    again, other = data.load(name), data.load(name, seed=1)
    assert (np.random.get_state()[1] == states[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])
    assert random.getstate() == states[2]
    for part in ("train", "test"):
        assert torch.equal(getattr(again, part), getattr(first, part))
        assert not torch.equal(getattr(other, part), getattr(first, part))


@pytest.mark.parametrize("seed", [0, 1])
def test_digits(seed):
    """All 1797 digits with their labels, each once, as whole numbers of 17 levels."""
    from sklearn.datasets import load_digits

    loaded = data.load("digits", seed=seed)
    assert (len(loaded.train), len(loaded.test)) == (1437, 360)
    assert (loaded.event_shape, loaded.n_levels, loaded.n_classes) == ((1, 8, 8), 17, 10)
    assert loaded.train.dtype == torch.uint8
    images = torch.cat((loaded.train, loaded.test)).flatten(1).tolist()
    labels = torch.cat((loaded.train_labels, loaded.test_labels)).tolist()
    bunch = load_digits()
    assert Counter(zip(map(tuple, images), labels, strict=True)) == Counter(
        zip(map(tuple, bunch.data.astype(int).tolist()), bunch.target.tolist(), strict=True)
    )
    assert int(loaded.train.max()) == 16


def test_names():
    images = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "imagenet32", "imagenet64", "celeba")
    assert data.NAMES == (*DENSITIES, "digits", *images)


def test_importing_is_light():
    code = "import sys, iresnet_fast.data as d; print(*({'sklearn', 'scipy', 'PIL'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "\n"
