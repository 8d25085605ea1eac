"""The command line with folders and arrays of images: options, all of a new folder, classes by their names."""

import json

import numpy as np
import pytest
from PIL import Image

from iresnet_fast.cli import main
from iresnet_fast.training.checkpoint import read_metadata

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:iresnet_fast")]
SMALL = ["--set", "blocks=[1]", "--set", "hidden=[4,4]", "--max-steps", "1", "--threads", "1", "--quiet"]


def photos(folder, classes=("cats", "dogs"), n=6, shape=(9, 12, 3)):
    """Write n images for each class, none of them of the size of another."""
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            height, *rest = shape
            Image.fromarray(rng.integers(0, 256, (height + i, *rest), np.uint8)).save(folder / name / f"{i}.png")
    return folder


def succeeds(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def fails(capsys, *arguments):
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # of argparse
        code = stop.code
    assert code not in (0, None)
    return capsys.readouterr().err


@pytest.fixture
def trained(tmp_path, capsys):
    """A flow of the photos of a folder, resized to 4 x 6."""
    folder = photos(tmp_path / "photos")
    succeeds(capsys, "train", "--data", folder, "--image-size", "4x6", "--folder", tmp_path / "run", *SMALL)
    return tmp_path / "run"


def test_a_run_knows_how_its_images_were_read(trained, capsys):
    data = read_metadata(trained)["data"]
    assert data["event_shape"] == [3, 4, 6]
    assert data["source"]["images"] == {"size": [4, 6], "mode": "auto"}
    assert data["class_names"] == ["cats", "dogs"]
    assert json.dumps(data)
    assert "(1 samples)" in succeeds(capsys, "evaluate", trained)  # the test part of twelve
    assert "error of a sample" in succeeds(capsys, "reconstruct", trained, "--out", trained / "again.png")
    succeeds(capsys, "sample", trained, "--n", "2", "--out", trained / "two.png")
    with Image.open(trained / "two.png") as picture:
        assert picture.format == "PNG"


def test_all_images_of_another_folder_are_looked_at_as_in_training(trained, tmp_path, capsys):
    grey = photos(tmp_path / "grey", (".",), 5, (8, 7))
    assert "(5 samples)" in succeeds(capsys, "evaluate", trained, "--data", grey)
    one = photos(tmp_path / "one", (".",), 1)
    assert "(1 samples)" in succeeds(capsys, "evaluate", trained, "--data", one)
    np.save(tmp_path / "stack.npy", np.random.default_rng(0).integers(0, 256, (7, 8, 12, 3), np.uint8))
    assert "(7 samples)" in succeeds(capsys, "evaluate", trained, "--data", tmp_path / "stack.npy")


def test_another_size_does_not_fit_the_model(trained, tmp_path, capsys):
    message = fails(capsys, "evaluate", trained, "--data", tmp_path / "photos", "--image-size", "8")
    assert "--data must hold images of 3 x 4 x 6 values as in training, got images of 3 x 8 x 8 in" in message


def test_classes_are_compared_by_name(trained, tmp_path, capsys):
    other = photos(tmp_path / "other", ("cats", "hens"))
    message = fails(capsys, "evaluate", trained, "--data", other)
    assert "--data must have the classes of the run, cats, dogs, got cats, hens" in message


def test_grey_can_be_asked_for(tmp_path, capsys):
    folder = photos(tmp_path / "photos")
    options = ["--image-size", "4", "--image-mode", "grey", "--folder", tmp_path / "run", *SMALL]
    succeeds(capsys, "train", "--data", folder, *options)
    assert read_metadata(tmp_path / "run")["data"]["event_shape"] == [1, 4, 4]


@pytest.mark.parametrize("size", ["0", "x", "4x", "4x4x4", "-3", "four", "4.5"])
def test_a_size_is_one_number_or_two(size, tmp_path, capsys):
    message = fails(capsys, "train", "--data", tmp_path, f"--image-size={size}")
    assert f"must be a side such as 32, or height and width such as 32x48, got {size!r}" in message


def test_messages_name_the_options(tmp_path, capsys):
    folder = photos(tmp_path / "photos")
    message = fails(capsys, "train", "--data", folder, "--folder", tmp_path / "run", *SMALL)
    assert "one height and width" in message
    assert "--image-size" in message
    message = fails(capsys, "train", "--data", "digits", "--image-size", "4", "--folder", tmp_path / "run", *SMALL)
    assert "--image-size must be left out for digits" in message
    (tmp_path / "empty").mkdir()
    assert "must hold images" in fails(capsys, "train", "--data", tmp_path / "empty", "--folder", tmp_path / "run")
