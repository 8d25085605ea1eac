"""docs/features.md claims nothing without a test: every row is whole, and every test it names exists."""

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "features.md").read_text()
FEATURES, DEFECTS = TEXT.split("## Known defects")
PROOF = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows(text):
    """The cells of every row of the tables in a text, but their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in table if row[0] not in ("feature", "#") and set(row[0]) != {"-"}]


@lru_cache
def functions_of(path):
    """The names of the test functions of a file; a class or a nested function is none."""
    return {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_proof_exists():
    named = set(PROOF.findall(TEXT))
    files = {path for path, _ in named if (ROOT / path).is_file()}
    missing = [f"{path}::{name}" for path, name in named if path not in files or name not in functions_of(path)]
    assert not missing
    assert all(name.startswith("test_") for _, name in named)


def test_the_tables_are_found():
    assert len(rows(FEATURES)) > 45
    assert len([line for line in TEXT.splitlines() if line.startswith("## ")]) == 4


@pytest.mark.parametrize("row", rows(FEATURES), ids=lambda row: row[0])
def test_a_feature_is_there_with_a_proof_or_says_what_is_missing(row):
    assert len(row) == 6, "a row has six cells"
    assert all(row), "no cell is empty"
    ours, proof = row[4], row[5]
    assert re.match(r"(yes|partly|no)\b", ours)
    if not ours.startswith("yes"):
        assert re.match(r"(partly|no): (\S+ ){4,}", ours), "there is a sentence"
    if ours.startswith("partly"):
        assert re.search(r"\b(no|not|none|nor|without)\b", ours), "which says what is missing"
    assert bool(PROOF.search(proof)) != ours.startswith("no")
    assert re.sub(PROOF, "", proof).strip(" ,") == ("none" if ours.startswith("no") else "")


def test_every_defect_has_a_test_that_is_named_after_it():
    table = rows(DEFECTS)
    assert [int(row[0]) for row in table] == list(range(1, 35))
    for row in table:
        assert len(row) == 4
        assert all(row)
        proofs = PROOF.findall(row[3])
        assert proofs
        numbers = [re.match(r"test_defect_(\d+)_", name) for _, name in proofs]
        assert int(row[0]) in [int(number[1]) for number in numbers if number]
        assert all(number is None or number[1] == row[0] for number in numbers)


def test_every_test_of_a_defect_belongs_to_the_table():
    """A number that is not there would be a defect nobody can look up."""
    for path in (ROOT / "tests").glob("test_*.py"):
        for name in functions_of(path.relative_to(ROOT)):
            number = re.match(r"test_defect_(\d+)_", name)
            assert number is None or 1 <= int(number[1]) <= 34, f"{path.name}: {name}"
