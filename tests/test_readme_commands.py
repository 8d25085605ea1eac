"""The commands for a table that README shows, one after the other in a folder with such tables."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from iresnet_fast.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("iresnet-fast ")
]
SHORT = ["--max-steps", "20", "--threads", "1"]  # what README leaves out: a test has no three minutes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"height": rng.normal(170.0, 9.0, 200), "weight": rng.gamma(20.0, 3.5, 200), "visits": rng.poisson(3.0, 200)}
    )
    rows.to_csv(tmp_path / "measurements.csv", index=False)
    rows[:12][["visits", "weight", "height"]].to_csv(tmp_path / "new.csv", index=False)
    rows[:5].mask(rng.random((5, 3)) < 0.4).to_csv(tmp_path / "holes.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:iresnet_fast")  # of whole numbers, and of short chains
def test_they_work_one_after_the_other(folder, capsys):
    assert [command[1] for command in COMMANDS] == ["train", "score", "report", "sample", "impute", "train"]
    for command in COMMANDS:
        assert main(command[1:] + SHORT * (command[1] == "train")) == 0, capsys.readouterr().err
    scores = pd.read_csv(folder / "scores.csv")
    assert len(scores) == 12
    assert scores.notna().all(axis=None)
    samples = pd.read_csv(folder / "samples.csv")
    assert samples.shape == (1000, 3)
    assert samples["visits"].dtype == np.int64
    holes, filled = pd.read_csv(folder / "holes.csv"), pd.read_csv(folder / "filled.csv")
    assert holes.isna().any(axis=None)
    assert filled.notna().all(axis=None)
    assert (filled.to_numpy() == holes.to_numpy())[holes.notna().to_numpy()].all()
    assert (folder / "runs" / "measurements-flow" / "report.html").stat().st_size > 10_000
