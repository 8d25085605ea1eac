"""pytest as a step: its own time limit, below the step's, and its XML as records."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from gpu_report import LOG
from step import ROOT, Run

WORKERS = 8
THREADS = 2  # of each worker: all of them on all cores would wait for each other
GRACE = 18.0  # seconds to write the XML after an interrupt: each worker ends its test first
# Lines of -v, with workers and without.
_ENDING = re.compile(rb"^(?:\[gw\d+\] \[ *\d+%\] |\S+::.* )(PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)
_WORDS = {"passed": b"PASSED", "failure": b"FAILED", "error": b"ERROR", "skipped": b"SKIPPED"}  # in the XML, in lines


def run_pytest(run: Run, arguments: list[str], xml: Path) -> int:
    """Run pytest, record what its XML says, and return its exit code.

    After most of the time it is interrupted: then the XML holds what had run. Each test is a line of the log besides.
    """
    settings = dict(os.environ)
    command = [sys.executable, "-m", "pytest", *arguments, "-v", "--tb=line", "-p", "no:cacheprovider"]
    if not run.dry and importlib.util.find_spec("xdist"):
        command += ["-n", str(WORKERS), "--dist", "worksteal"]
        settings["OMP_NUM_THREADS"] = str(THREADS)
    xml.unlink(missing_ok=True)
    log = run.out / LOG
    start = log.stat().st_size
    process = subprocess.Popen([*command, f"--junitxml={xml}"], cwd=ROOT, env=settings)
    try:
        code = process.wait(max(1.0, run.left(GRACE)))
    except subprocess.TimeoutExpired:
        run.say("interrupting pytest: its time is over")
        os.kill(process.pid, signal.SIGINT)
        try:
            code = process.wait(max(1.0, run.left()))
        except subprocess.TimeoutExpired:
            run.say("killing pytest: it does not end")
            process.kill()
            code = process.wait()
    try:
        record_xml(run, xml)
    except (FileNotFoundError, ElementTree.ParseError):  # nothing was written, or half of it
        record_lines(run, log.read_bytes()[start:])
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
    run.record("counts", **{ending: counts[ending] for ending in _WORDS})


def record_lines(run: Run, text: bytes) -> None:
    """Record how many tests ended how by the lines of -v."""
    counts = Counter(_ENDING.findall(text))
    run.record("counts", **{ending: counts[word] for ending, word in _WORDS.items()}, counted="in the log")
