"""The subjects of `make trust` hold over a small share of their cases, and its runner overlooks nothing."""

import importlib
import math
import sys

import pytest
import torch
from trust import logdet, runner, unbiased
from trust.__main__ import main
from trust.tally import Tally

from iresnet_fast.estimators import RussianRoulette

pytestmark = pytest.mark.usefixtures("one_thread")

PLANTED = """
from trust.tally import Tally

def holds(share=1.0):
    tally = Tally("holds")
    tally.add([0.5] * round(100 * share))
    return tally

def violated(share=1.0):
    tally = Tally("violated")
    tally.add([0.5, 1.5])
    return tally

def not_a_number(share=1.0):
    tally = Tally("not a number")
    tally.add([float("nan"), 0.5])
    return tally

def untried(share=1.0):
    return Tally("untried")

def broken(share=1.0):
    raise RuntimeError("planted")

SUBJECTS = (holds, violated, not_a_number, untried, broken)
"""


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Import a package with one module of planted subjects, and one that holds none."""
    (tmp_path / "planted_trust").mkdir()
    for name, text in (("__init__", ""), ("first", PLANTED), ("helpers", "HELP = 1\n")):
        (tmp_path / "planted_trust" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "planted_trust"
    for name in [name for name in sys.modules if name.startswith("planted_trust")]:
        del sys.modules[name]


def test_a_tally_counts_cases_violations_and_the_worst():
    tally = Tally("claim")
    tally.add([])
    assert (tally.cases, tally.violations, tally.worst) == (0, 0, 0.0)
    tally.add([0.25, 1.0])
    tally.add(torch.tensor([[0.5, 2.0], [1.0 + 1e-9, 0.0]], dtype=torch.float64, requires_grad=True))
    assert (tally.cases, tally.violations, tally.worst) == (6, 2, 2.0)
    tally.add(torch.tensor([torch.nan, torch.inf]))
    assert (tally.cases, tally.violations, tally.worst) == (8, 4, math.inf)


def test_a_ratio_of_one_and_a_bit_is_not_rounded_away():
    tally = Tally("claim")
    tally.add([1.0 + 2.0**-40])
    assert tally.violations == 1


@pytest.mark.parametrize(
    ("subject", "holds", "told"),
    [
        ("first.holds", True, ["holds", "50", "0", "0.5"]),
        ("first.violated", False, ["violated", "2", "1", "1.5"]),
        ("first.not_a_number", False, ["not a number", "2", "1", "inf"]),
        ("first.untried", False, ["untried", "0", "0", "0"]),
        ("first.broken", False, ["first.broken ended: RuntimeError: planted", "-", "-", "-"]),
    ],
)
def test_only_a_claim_that_was_tried_and_never_failed_holds(planted, subject, holds, told):
    result = runner.run(planted, subject, 0.5)
    assert result.holds is holds
    assert result.cells()[:4] == told


def test_all_subjects_are_found(planted):
    assert runner.subjects(planted) == [
        f"first.{name}" for name in ("holds", "violated", "not_a_number", "untried", "broken")
    ]


def test_the_table_and_the_exit_status_tell_of_every_failure(planted, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["trust", "--jobs", "1"])
    with pytest.raises(SystemExit) as end:
        main(planted)
    assert end.value.code == "trust: first.violated, first.not_a_number, first.untried, first.broken failed"
    output = capsys.readouterr().out
    rows = [line for line in output.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "holds", "violated", "not a number", "untried", "first.broken ended: RuntimeError: planted"
    ]  # fmt: skip
    assert "1 of 5 claims hold" in output


def test_all_is_well_if_every_chosen_claim_holds(planted, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["trust", "first.holds", "--jobs", "1"])
    with pytest.raises(SystemExit) as end:
        main(planted)
    assert end.value.code == 0


def test_an_unknown_name_is_an_error(planted, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["trust", "second"])
    with pytest.raises(SystemExit):
        main(planted)
    assert "NAME must be a module or one of first.holds" in capsys.readouterr().err


@pytest.mark.parametrize("subject", runner.subjects("trust"))
def test_a_share_of_every_subject_holds(subject):
    result = runner.run("trust", subject, share=0.01)
    assert result.holds, result.cells()


@pytest.mark.parametrize("subject", logdet.SUBJECTS[:3])
def test_a_bound_that_is_too_small_is_seen(subject, monkeypatch):
    op = importlib.import_module("iresnet_fast.ops.residual_logdet")
    factors = op.tail_factors
    monkeypatch.setattr(op, "tail_factors", lambda *settings: tuple(0.8 * factor for factor in factors(*settings)))
    tally = subject(0.0)  # the branches that attain the bounds
    assert tally.violations > 0
    assert tally.worst == pytest.approx(1.25, rel=1e-2)


def test_a_theorem_that_promises_too_much_is_seen(monkeypatch):
    bound = logdet.truncation_bound
    monkeypatch.setattr(logdet, "truncation_bound", lambda block: 0.99 * bound(block))
    assert logdet.theorem_3(0.0).violations > 0


def test_a_biased_roulette_is_seen(monkeypatch):
    survival = RussianRoulette.survival
    monkeypatch.setattr(RussianRoulette, "survival", lambda self, n, *device: survival(self, n + 1, *device)[1:])
    assert unbiased.roulette(0.01).violations > 0


@pytest.mark.parametrize("subject", [unbiased.series_in_training, unbiased.series_in_evaluation])
def test_a_biased_probe_is_seen(subject, monkeypatch):
    from iresnet_fast import estimators

    for name in ("draw_probe", "hashed_probe"):
        draw = getattr(estimators, name)
        monkeypatch.setattr(estimators, name, lambda *arguments, draw=draw: 1.1 * draw(*arguments))
    assert subject(0.03).violations > 0
