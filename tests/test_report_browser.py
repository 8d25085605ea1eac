"""The page about a run in a browser: all of it is shown, on any screen, and nothing is asked of a network."""

import shutil
import subprocess

import browser
import pytest
import torch
from matplotlib import image
from report_runs import KINDS, train

from iresnet_fast.training import report


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of a run of each kind."""
    try:
        browser.chromium()
    except SystemExit as error:
        pytest.skip(str(error))
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    return {kind: report.write_report(folder / kind, None, train(kind, folder / kind)) for kind in KINDS}


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_shown_within_the_screen(pages, kind, width):
    shown = browser.show(pages[kind], width)
    assert shown.images
    assert all(wide > 100 and high > 100 and text for wide, high, text in shown.images)
    assert shown.width == width
    assert shown.scroll == width, shown.wide
    assert shown.wide == []
    assert shown.requests == []
    assert shown.scripts == 1  # that of the test
    assert "How good it is" in shown.text


@pytest.mark.parametrize("kind", KINDS)
def test_the_browser_has_nothing_to_complain_of(pages, kind):
    assert browser.messages(pages[kind]) == []


def test_the_policy_of_the_page_refuses_scripts_and_the_network(pages, tmp_path):
    """And complaints would be seen."""
    text = pages["plane"].read_text("utf-8")
    bad = tmp_path / "bad.html"
    bad.write_text(text.replace("<main>", '<main><img src="https://example.com/x.png"><script>1</script>'), "utf-8")
    said = "\n".join(browser.messages(bad))
    assert "Loading the image 'https://example.com/x.png' violates" in said
    assert "script violates the following Content Security Policy" in said


def test_dark_and_light(pages, tmp_path):
    light, dark = (browser.show(pages["table"], 800, dark) for dark in (False, True))
    assert light.background == "rgb(255, 255, 255)"
    assert dark.background == "rgb(21, 23, 26)"
    for name, is_dark in (("light", False), ("dark", True)):
        browser.screenshot(pages["table"], tmp_path / f"{name}.png", 800, 1200, is_dark)
    pixels = {name: image.imread(tmp_path / f"{name}.png")[..., :3] for name in ("light", "dark")}
    assert pixels["light"].mean() > 0.8
    assert pixels["dark"].mean() < 0.7
    assert all(picture.std() > 0.05 for picture in pixels.values())  # nothing is blank


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without Chromium."""
    which = shutil.which
    hidden = browser.NAMES
    monkeypatch.setattr(browser, "BUILD", tmp_path / "build")
    monkeypatch.setattr(browser.shutil, "which", lambda name, **o: None if name in hidden else which(name, **o))


def test_without_debian_one_sentence(nowhere, monkeypatch):
    monkeypatch.setattr(browser.shutil, "which", lambda *_, **__: None)
    with pytest.raises(SystemExit, match=r"is missing and there is no apt-get to fetch them with\. Install Chromium"):
        browser.chromium()


def test_packages_that_cannot_be_had_leave_nothing_behind(nowhere, monkeypatch):
    monkeypatch.setattr(browser.shutil, "which", lambda name, **_: name if name in ("apt-get", "dpkg") else None)
    failed = subprocess.CompletedProcess([], 100, "", "W: slow\nE: Unable to fetch some archives\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    for _ in range(2):  # the second try is not taken for done
        with pytest.raises(SystemExit, match="`apt-get` could not fetch them: E: Unable to fetch some archives"):
            browser.chromium()
    assert not (browser.BUILD / "debian").exists()


def test_what_was_unpacked_is_found(nowhere):
    program = browser.BUILD / "debian" / "usr" / "lib" / "chromium" / "chromium"
    program.parent.mkdir(parents=True)
    with pytest.raises(SystemExit, match="Debian's packages have none: remove"):
        browser.chromium()
    program.write_text("")
    found, environment = browser.chromium()
    assert found == str(program)
    assert str(program.parents[1]) in environment["LD_LIBRARY_PATH"].split(":")
    assert (browser.BUILD / "fonts.conf").exists()
