"""docs/guarantees.md claims nothing without a test, and names every module of `make trust`."""

import re
from pathlib import Path

import pytest
from test_features import PROOF, functions_of, rows
from trust import runner

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "guarantees.md").read_text()
CLAIMS = [row for row in rows(TEXT) if row[0] != "claim"]


def test_every_test_it_names_exists():
    for path, name in PROOF.findall(TEXT):
        assert name in functions_of(path), f"{path}::{name}"
    for path in re.findall(r"`(tests/[\w/]+\.py)`", TEXT):
        assert (ROOT / path).is_file()


def test_every_module_of_trust_is_named():
    named = set(re.findall(r"trust: (\w+)", TEXT))
    assert {subject.split(".")[0] for subject in runner.subjects("trust")} <= named


@pytest.mark.parametrize("row", CLAIMS, ids=lambda row: row[0][:40])
def test_a_claim_says_of_what_kind_it_is_and_by_what_it_is_shown(row):
    claim, kind, _, proof = row
    assert claim
    assert re.match(r"(bound|kept|in the mean)\b", kind)
    assert "trust: " in proof or "`tests/" in proof
