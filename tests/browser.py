"""Chromium without a screen: the one on PATH, else Debian's, unpacked below build/chromium.

Nothing is installed and root is not needed. A page is shown as a file, with every name of a host unknown, so that
nothing can come from elsewhere.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debian_packages import MissingError, unpacked

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "chromium"
NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("chromium", "fonts-dejavu-core")

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
_SECONDS = 120.0

# What a copy of a page says of itself once it is loaded. The policy of the page forbids scripts, and is taken out.
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
_SCRIPT = """<script>
addEventListener("load", () => {
  const images = [...document.images].map(image => [image.naturalWidth, image.naturalHeight, image.alt]);
  const isWide = node => node.getBoundingClientRect().right > innerWidth + 1 && !node.closest(".scroll, pre");
  const wide = [...document.querySelectorAll("body *")].filter(isWide).map(node => node.outerHTML.slice(0, 200));
  const found = {
    images, wide, width: innerWidth, scroll: document.documentElement.scrollWidth,
    requests: performance.getEntriesByType("resource").map(entry => entry.name.slice(0, 100)),
    text: document.body.innerText, background: getComputedStyle(document.body).backgroundColor,
    scripts: document.scripts.length,
  };
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""
# Windows have a least width of 500 pixels, frames have not.
_FRAME = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<body style="margin: 0"><iframe src="{source}" style="border: 0; width: {width}px; height: {height}px"></iframe>
<script>addEventListener("message", message => {{
  const node = document.createElement("pre");
  node.id = "found";
  node.textContent = message.data;
  document.body.append(node);
}});</script>"""


@dataclass(frozen=True)
class Shown:
    """What a browser made of a page.

    Attributes:
        images: natural width and height of each, and its text.
        wide: elements that reach beyond the right edge, outside of those that scroll by themselves.
        width: of the window, in CSS pixels.
        scroll: width of the page.
        requests: whatever the page asked for.
        text: that can be read.
        background: its colour.
        scripts: number of them, that of the test included.
    """

    images: list[tuple[int, int, str]]
    wide: list[str]
    width: int
    scroll: int
    requests: list[str]
    text: str
    background: str
    scripts: int


def show(page: Path, width: int, dark: bool = False) -> Shown:
    """Load a copy of a page, in a frame of the given width, and return what it says of itself."""
    with tempfile.TemporaryDirectory() as folder:
        text = page.read_text("utf-8")
        copy = Path(folder, "page.html")
        copy.write_text(_POLICY.sub("", text, count=1).replace("</body>", f"{_SCRIPT}</body>"), "utf-8")
        dumped = _run(_framed(copy, folder, width, 900), width, 900, ["--dump-dom", *_dark(dark)])
    found = re.search(r'<pre id="found">(.*?)</pre>', dumped, re.DOTALL)
    assert found is not None, dumped[-2000:]
    values: dict[str, Any] = json.loads(html.unescape(found[1]))
    return Shown(**{**values, "images": [tuple(image) for image in values["images"]]})


def screenshot(page: Path, picture: Path, width: int, height: int, dark: bool = False) -> None:
    """Draw a page as it is, with its own policy, in a frame of the given width."""
    with tempfile.TemporaryDirectory() as folder:
        _run(_framed(page, folder, width, height), width, height, [f"--screenshot={picture}", *_dark(dark)])


def messages(page: Path) -> list[str]:
    """Return what the console of the browser says of a page as it is: what its policy refused, and what it missed."""
    said = _run(page, 1000, 800, ["--dump-dom", "--enable-logging=stderr", "--v=0"], errors=True)
    return [line for line in said.splitlines() if "CONSOLE" in line]


def _framed(page: Path, folder: str, width: int, height: int) -> Path:
    frame = Path(folder, "frame.html")
    frame.write_text(_FRAME.format(source=html.escape(page.resolve().as_uri()), width=width, height=height), "utf-8")
    return frame


def _dark(dark: bool) -> list[str]:
    # Blink's own setting: what a page is told of the colours its reader prefers.
    return [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]


def _run(page: Path, width: int, height: int, flags: list[str], errors: bool = False) -> str:
    program, environment = chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", *flags]
        done = subprocess.run(
            [*command, page.resolve().as_uri()],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env={**environment, "HOME": profile},
            check=False,
        )
    if done.returncode != 0:
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stderr if errors else done.stdout


def chromium() -> tuple[str, dict[str, str]]:
    """Return the path of the program, and the environment it needs; raises SystemExit if there is none."""
    for name in NAMES:
        if found := shutil.which(name):
            return found, dict(os.environ)
    try:
        root = unpacked(BUILD, PACKAGES, f"browser: fetching {' and '.join(PACKAGES)} into {BUILD} (150 MB)")
    except MissingError as error:
        raise SystemExit(_missing(str(error))) from error
    program = root / "usr" / "lib" / "chromium" / "chromium"
    if not program.exists():
        raise SystemExit(_missing(f"Debian's packages have none: remove {BUILD} to fetch them again"))
    libraries = root / "usr" / "lib"
    folders = [*sorted(str(folder) for folder in libraries.glob("*-linux-gnu*")), str(libraries)]
    before = os.environ.get("LD_LIBRARY_PATH", "")
    path = ":".join(filter(None, [*folders, *(f"{folder}/nss" for folder in folders), before]))
    return str(program), {**os.environ, "LD_LIBRARY_PATH": path, "FONTCONFIG_FILE": str(_fonts(root))}


def _fonts(root: Path) -> Path:
    """Write a configuration of fontconfig that finds the fonts which were unpacked."""
    path = BUILD / "fonts.conf"
    path.write_text(f"<fontconfig><dir>{root}/usr/share/fonts</dir><cachedir>{BUILD}/fonts</cachedir></fontconfig>\n")
    return path


def _missing(reason: str) -> str:
    return f"browser: {' or '.join(NAMES)} is missing and {reason}. Install Chromium (Debian: apt install chromium)."
