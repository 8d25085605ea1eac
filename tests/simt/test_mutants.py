"""The table of mutants keeps up with the kernels; trying them is `make simt-mutate`."""

import subprocess
import sys

from .mutants import MUTANTS
from .mutate import table_errors


def test_every_mutant_is_in_the_code_and_every_barrier_in_the_table():
    assert not list(table_errors())


def test_mutants_are_different():
    assert len({(m.file, m.old, m.new) for m in MUTANTS}) == len(MUTANTS) >= 36


def test_a_pattern_that_matches_nothing_is_one_sentence():
    command = [sys.executable, "tests/simt/mutate.py", "--only", "no such kernel"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert done.stderr == "simt-mutate: no mutant matches 'no such kernel'\n"
