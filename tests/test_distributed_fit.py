"""fit under torchrun: one process writes, a run that lost a process is resumed, and ends as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import fit_on_ranks
import pytest
import torch

from iresnet_fast import training
from iresnet_fast.training import distributed, lock
from iresnet_fast.training.batches import Batches

pytestmark = [
    pytest.mark.slow,  # every run of two processes imports torch twice
]
KILLED_IN, ENDED_IN = 5, 3  # checkpoints are written after steps 2 and 4


def torchrun(results, *jobs, timeout=120):
    script = str(Path(fit_on_ranks.__file__))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, str(results), json.dumps(jobs)], env=environment, **pipes) as process:
        try:
            _, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun ends its processes, which kill would leave behind
            raise
    return process.returncode, errors


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run whose process 1 was killed in the middle of step 5: its folder torchrun's exit code and stderr."""
    results = tmp_path_factory.mktemp("fit")
    code, errors = torchrun(results, {"folder": "killed", "resume": False, "signal_at": [KILLED_IN, signal.SIGKILL]})
    shutil.copytree(results / "killed", results / "copy")
    return results, code, errors


@pytest.fixture(scope="module")
def ended(killed):
    """A whole run, the killed one resumed, and one that SIGTERM in process 1 ended: their folder, exit code, stderr."""
    results, *_ = killed
    code, errors = torchrun(
        results,
        {"folder": "whole", "resume": False},
        {"folder": "killed", "resume": True},
        {"folder": "ended", "resume": False, "signal_at": [ENDED_IN, signal.SIGTERM]},
    )
    return results, code, errors


@pytest.fixture(scope="module")
def ranks(ended):
    """What both processes say of the first two of them."""
    results, _, errors = ended
    assert (results / "rank1").exists(), errors
    return [torch.load(results / f"rank{rank}") for rank in range(2)]


def test_a_lost_process_ends_the_run_with_one_sentence(killed):
    results, code, errors = killed
    assert code != 0
    (sentence,) = [line for line in errors.splitlines() if line.startswith("iresnet-fast:")]
    assert "process 0 of 2 no longer hears from another one" in sentence
    assert f"go on from {results}/killed/checkpoint-00000004.safetensors with" in sentence
    assert "--resume" in sentence


def test_the_checkpoint_of_a_lost_run_is_usable(killed):
    results, *_ = killed
    model = training.load_model(results / "copy")
    assert torch.isfinite(model.log_prob(fit_on_ranks.dataset().test)).all()
    run = training.fit(
        fit_on_ranks.model(), fit_on_ranks.dataset(), fit_on_ranks.config(), results / "copy", True, False
    )
    assert run.step == fit_on_ranks.STEPS


def test_sigterm_in_one_process_ends_all_with_a_checkpoint_of_the_step(ended):
    results, code, errors = ended
    assert code != 0
    newest = f"after step {ENDED_IN}; go on from {results}/ended/checkpoint-{ENDED_IN:08d}.safetensors with"
    sentences = sorted(line for line in errors.splitlines() if line.startswith("iresnet-fast:"))
    assert 1 <= len(sentences) <= 2  # torchrun may end the other process while it writes
    assert all(newest in sentence for sentence in sentences)
    training.load_model(results / "ended")


def test_processes_end_with_the_same_weights(ranks):
    first, second = (result["runs"][0]["state"] for result in ranks)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_resumed_run_ends_as_one_that_was_not_killed(ranks):
    whole, resumed = ranks[0]["runs"]
    assert whole["step"] == resumed["step"] == fit_on_ranks.STEPS
    common = whole["losses"].keys() & resumed["losses"].keys()  # more where the clock asked for an evaluation
    assert common >= {2, 3, 4, 6}
    assert {step: whole["losses"][step] for step in common} == {step: resumed["losses"][step] for step in common}
    assert all(torch.equal(value, resumed["state"][name]) for name, value in whole["state"].items())


def test_one_process_would_have_trained_alike(ranks, tmp_path):
    run = training.fit(fit_on_ranks.model(), fit_on_ranks.dataset(), fit_on_ranks.config(), tmp_path, False, False)
    # The first refresh of the norms is another one: sigma agrees to its tolerance, 1e-5. Adam divides that by the size
    # of the gradient, the larger the error the smaller that is.
    theirs = ranks[0]["runs"][0]["losses"]
    for row in run.history:
        assert row["step"] not in theirs or row["loss"] == pytest.approx(theirs[row["step"]], abs=1e-3)


def test_only_the_main_process_writes(ranks):
    main, other = (result["written"] for result in ranks)
    assert any(path.endswith("log.csv") for _, path in main)
    assert any("checkpoint" in path for _, path in main)
    assert other == []


def test_processes_keep_the_same_model_and_stop_together(tmp_path):
    """A rate so high that the model only gets worse; a second run is interrupted and goes on."""
    changes = {"validation": 0.25, "patience": 2, "eval_steps": 1, "eval_minutes": None, "learning_rate": 1.0}
    job = {"folder": "run", "resume": False, "changes": {**changes, "decay_start": 1.0, "ema": None}}
    code, errors = torchrun(tmp_path, job, {**job, "resume": True})
    assert code == 0, errors
    first, second = (torch.load(tmp_path / f"rank{rank}")["runs"] for rank in range(2))
    assert first[0]["step"] < fit_on_ranks.STEPS
    assert (first[0]["step"] - first[0]["best_step"], first[0]["stopped"] is None) == (2, False)
    for ours, theirs in zip(first, second, strict=True):
        assert all(ours[name] == theirs[name] == first[0][name] for name in ("step", "best_step", "stopped"))
        assert all(torch.equal(value, theirs["best"][name]) for name, value in first[0]["best"].items())
        assert all(torch.equal(value, ours["best"][name]) for name, value in first[0]["best"].items())
    kept = training.load_model(tmp_path / "run").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in first[0]["best"].items())


def test_a_batch_that_cannot_be_shared(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"batch_size must be divisible by 3, the number of processes, got 8"):
        Batches(fit_on_ranks.dataset(), fit_on_ranks.config(), torch.device("cpu"))


def test_all_processes_leave_a_folder_in_which_a_run_is_alive(tmp_path):
    """The main one finds the lock, and none waits for another."""
    with lock.locked(tmp_path / "run"):
        code, errors = torchrun(tmp_path, {"folder": "run", "resume": True})
        assert [path.name for path in (tmp_path / "run").iterdir()] == [lock.LOCK_FILE]
    assert code != 0
    assert f"in which process {os.getpid()} is training; wait for its end" in errors
    assert "folder must be one that the main process can have to itself" in errors
