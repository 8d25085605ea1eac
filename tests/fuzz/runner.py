"""Runs workers, starts a new one behind a call at which one died, and counts what became of the calls."""

import os
import select
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parents[1]
PATIENCE = 60.0  # seconds for one call, on a machine that does much else
CHUNK = 500


class Found(NamedTuple):
    """Outcomes, and the calls that must not end as they did."""

    outcomes: Counter
    wrong: list[str]


def run(calls, seed=0, jobs=1, extension=None, environment=None):
    """Make the calls numbered from 0 and return what was found."""
    chunks = [(first, min(first + CHUNK, calls)) for first in range(0, calls, CHUNK)]
    total = Found(Counter(), [])
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(lambda chunk: _run_chunk(seed, *chunk, extension, environment or {}), chunks):
            total.outcomes.update(found.outcomes)
            total.wrong.extend(found.wrong)
    return total


def _run_chunk(seed, first, last, extension, environment):
    found = Found(Counter(), [])
    while first < last:
        lines, end, noise = _run_worker(seed, first, last, extension, environment)
        for line in lines:
            index, name, outcome = line.split(" ", 2)
            found.outcomes[name, " ".join(outcome.split()[:2]) if "raised" in outcome else outcome] += 1
            if outcome.startswith("WRONG"):
                found.wrong.append(line)
            first = int(index) + 1
        if first < last:  # it died in the call that comes next
            found.outcomes["crashed", end] += 1
            found.wrong.append(f"call {first} of seed {seed} {end}\n{noise}")
            first += 1
    return found


def _run_worker(seed, first, last, extension, environment):
    """Return the lines of the calls that ended, how the worker did, and the end of what it wrote elsewhere."""
    command = [sys.executable, "-m", "fuzz.worker", str(seed), str(first), str(last)]
    paths = [str(TESTS), str(TESTS.parent)]
    variables = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)}
    # Standard error goes to a file: a pipe that nobody reads would fill.
    with open(os.memfd_create("stderr"), "w+b") as noise:
        process = subprocess.Popen(
            [*command, *([extension] if extension else [])], stdout=subprocess.PIPE, stderr=noise, env=variables
        )
        assert process.stdout is not None
        text, heard = b"", time.monotonic()
        while True:
            if select.select([process.stdout], [], [], 1.0)[0]:
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:
                    break
                text, heard = text + piece, time.monotonic()
            elif time.monotonic() - heard > PATIENCE:
                process.kill()
                process.wait()
                break
        process.stdout.close()
        code = process.wait()
        noise.seek(0)
        said = noise.read().decode(errors="replace")
        said = said[max(0, said.rfind("runtime error") - 200, said.rfind("ERROR: Address") - 200) :][:6000]
    lines = [line for line in text.decode().split("\n")[:-1] if line]
    end = f"died of signal {-code}" if code < 0 else f"ended with status {code}"
    return lines, end, said
