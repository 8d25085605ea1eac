"""pytest as a step: its own time limit, below the step's, and its XML as records."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from step import ROOT, Run

WORKERS = 8
GRACE = 8.0  # seconds to write the XML after an interrupt


def run_pytest(run: Run, arguments: list[str], xml: Path) -> int:
    """Run pytest, record what its XML says, and return its exit code.

    After most of the time it is interrupted: then the XML holds what had run. Each test is a line of the log besides.
    """
    command = [sys.executable, "-m", "pytest", *arguments, "-v", "--tb=line", "-p", "no:cacheprovider"]
    if not run.dry and importlib.util.find_spec("xdist"):
        command += ["-n", str(WORKERS), "--dist", "worksteal"]
    xml.unlink(missing_ok=True)
    process = subprocess.Popen([*command, f"--junitxml={xml}"], cwd=ROOT)
    try:
        code = process.wait(max(1.0, run.left(GRACE)))
    except subprocess.TimeoutExpired:
        run.say("interrupting pytest: its time is over")
        os.kill(process.pid, signal.SIGINT)
        code = process.wait(max(1.0, run.left(1.0)))
    if xml.exists():
        record_xml(run, xml)
    return code


def record_xml(run: Run, xml: Path) -> None:
    """Record how many tests ended how, and the first line of each failure."""
    counts: Counter[str] = Counter()
    for case in ElementTree.parse(xml).iter("testcase"):
        ending = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        counts["passed" if ending is None else ending.tag] += 1
        if ending is not None and ending.tag != "skipped":
            message = (ending.get("message") or ending.text or "").strip().splitlines() or [""]
            run.record("failures", test=f"{case.get('classname')}::{case.get('name')}", message=message[0][:300])
    run.record("counts", **{ending: counts[ending] for ending in ("passed", "failure", "error", "skipped")})
