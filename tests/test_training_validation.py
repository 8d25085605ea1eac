"""Samples that are held out: which model is kept, when a run ends for want of a better one, that a resume agrees."""

import copy
import dataclasses
import math
import signal

import pytest
import torch
from training_examples import make_config, make_data, make_model, measured, same_bits

from iresnet_fast import training
from iresnet_fast.training import checkpoint, selection, trainer
from iresnet_fast.training.batches import Batch, Batches, divided
from iresnet_fast.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

HELD_OUT = {"validation": 0.2, "eval_steps": 2}


def run(folder, kind="plane", resume=False, **changes):
    data = make_data("plane" if kind == "plane" else "images")
    config = make_config(**{**HELD_OUT, **changes})
    return training.fit(make_model(kind), data, config, folder, resume, show_progress=False)


def scripted(monkeypatch, values):
    """Let evaluations on the 10 samples held out find these means one after the other; all other ones as they are."""
    left, evaluate = list(values), training.evaluate

    def found(model, x, *arguments, **options):
        result = evaluate(model, x, *arguments, **options)
        return dataclasses.replace(result, metrics={"nats": left.pop(0)}) if len(x) == 10 else result

    monkeypatch.setattr(trainer, "evaluate", found)


@pytest.fixture
def interrupt(monkeypatch):
    def install(step):
        advance = Trainer.advance

        def advance_and_signal(self):
            advance(self)
            if self.step == step:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(Trainer, "advance", advance_and_signal)
        return lambda: monkeypatch.setattr(Trainer, "advance", advance)

    return install


def test_the_division_is_a_function_of_seed_and_number():
    config = make_config(validation=0.25)
    rest, held_out = divided(50, config)
    assert (len(rest), len(held_out)) == (38, 12)  # 12.5 is rounded to even
    assert sorted([*rest.tolist(), *held_out.tolist()]) == list(range(50))
    assert torch.equal(held_out, divided(50, config.replace(batch_size=3, max_steps=99))[1])
    assert not torch.equal(held_out, divided(50, config.replace(seed=1))[1])
    assert divided(50, make_config()) == (None, None)


def test_steps_see_the_rest_only():
    data = make_data()
    made = Batches(data, make_config(validation=0.2), torch.device("cpu"))
    _, held_out = divided(50, make_config(validation=0.2))
    assert torch.equal(made.validation.x, data.train[held_out])
    hidden = {tuple(row) for row in made.validation.x.tolist()}
    assert made.per_epoch == 3
    seen = [made.all().x, made.initial().x, *(made(number).x for number in range(6))]
    assert not hidden & {tuple(row) for part in seen for row in part.tolist()}
    assert len(made.all().x) == len(made.initial().x) == 40


@pytest.mark.parametrize("validation", [0.004, 0.996])
def test_a_side_without_a_sample_is_refused_before_a_folder_is_made(validation, tmp_path):
    with pytest.raises(ValueError, match=rf"hold one out, got {validation} of 50 samples; pass a number from 0.02 to"):
        run(tmp_path / "run", validation=validation)
    assert not (tmp_path / "run").exists()


def test_batches_larger_than_the_rest_are_refused_before_a_folder_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"batch_size must be at most 40, the training samples of curve that are not"):
        run(tmp_path / "run", batch_size=41)
    assert not (tmp_path / "run").exists()


def test_the_log_has_what_was_found_and_the_test_set_is_for_the_end(tmp_path):
    done = run(tmp_path, max_steps=5)
    assert [row["step"] for row in done.history if row["validation_nats"] is not None] == [0, 2, 4, 5]
    assert [row["step"] for row in done.history if row["test_nats"] is not None] == [5]
    assert done.history[0]["loss"] is None
    header = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert header[-2:] == ["validation_nats", "test_nats"]


def test_without_a_part_nothing_is_new(tmp_path):
    done = run(tmp_path, validation=0.0, max_steps=4)
    assert "validation_nats" not in done.history[0]
    assert [row["test_nats"] is None for row in done.history] == [False, False]
    assert not (tmp_path / "best.safetensors").exists()
    assert (done.kept, done.best_step, done.stopped) == (None, 4, None)
    assert done.best is done.average


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_best_is_kept(ema, tmp_path, monkeypatch):
    """Its weights are those of the shorter run that ended there; so are the evaluation and the files."""
    scripted(monkeypatch, [5.0, 4.0, 3.0, 3.0, 4.5, 6.0, 7.0])
    done = run(tmp_path / "a", ema=ema, decay_start=1.0)
    scripted(monkeypatch, [5.0, 4.0, 3.0])
    short = run(tmp_path / "b", ema=ema, decay_start=1.0, max_steps=4)
    assert (done.step, done.best_step, short.best_step) == (12, 4, 4)
    assert same_bits(dict(done.best.named_parameters()), dict(short.best.named_parameters()))
    assert not same_bits(dict(done.best.named_parameters()), dict((done.average or done.model).named_parameters()))
    assert done.evaluation == training.evaluate(done.best, make_data().test)
    for path in (tmp_path / "a", tmp_path / "a" / "best.safetensors", tmp_path / "a" / "model.safetensors"):
        assert same_bits(training.load_model(path).state_dict(), done.best.state_dict())
        assert training.read_metadata(path)["step"] == 4
    newest = training.load_model(checkpoint.paths(tmp_path / "a")[0])
    assert same_bits(dict(newest.named_parameters()), dict((done.average or done.model).named_parameters()))
    if ema is not None:  # the averaged weights alone are in the file of the best
        last = training.load_model(tmp_path / "a", average=False)
        assert same_bits(dict(last.named_parameters()), dict(done.model.named_parameters()))


def test_a_run_that_only_gets_worse_ends_with_its_start(tmp_path, monkeypatch):
    scripted(monkeypatch, range(100))
    done = run(tmp_path, patience=3)
    assert (done.step, done.best_step) == (6, 0)
    assert done.stopped == (
        "no better validation nats for 3 evaluations: training ends after step 6; the model of step 0 is kept"
    )
    assert done.history[-1]["test_nats"] == done.evaluation.metrics["nats"]
    assert checkpoint.paths(tmp_path) == [checkpoint.path_of(tmp_path, 6)]


def test_patience_counts_from_the_last_better_one(tmp_path, monkeypatch):
    scripted(monkeypatch, [5.0, 6.0, 4.0, 4.0, 4.0])
    done = run(tmp_path, patience=2)
    assert (done.step, done.best_step) == (8, 4)


def test_the_end_is_said_where_progress_is_shown(tmp_path, monkeypatch, capsys):
    scripted(monkeypatch, range(100))
    training.fit(make_model(), make_data(), make_config(**HELD_OUT, patience=1), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == (
        "no better validation nats for 1 evaluation: training ends after step 2; the model of step 0 is kept"
    )
    assert "(validation)" in lines[-2]


def test_an_evaluation_out_of_turn_does_not_use_up_patience(tmp_path, monkeypatch):
    scripted(monkeypatch, [5.0, 6.0, 7.0])
    done = run(tmp_path, max_steps=3, patience=2)
    assert (done.step, done.stopped) == (3, None)


@pytest.mark.parametrize("kind", ["plane", "flow", "classifier", "hybrid"])
def test_a_resumed_run_keeps_the_same_model(kind, tmp_path, interrupt):
    changes = {"eval_steps": 3, "learning_rate": 3e-2}
    whole = run(tmp_path / "whole", kind, **changes)
    for n, step in enumerate((1, 5, 9)):
        undo = interrupt(step)
        with pytest.raises(training.TrainingInterrupted, match=f"after step {step};"):
            run(tmp_path / "broken", kind, n > 0, **changes)
        undo()
    (tmp_path / "broken" / "best.safetensors").unlink()  # the checkpoint has it
    again = run(tmp_path / "broken", kind, True, **changes)
    assert again.best_step == whole.best_step
    assert same_bits(again.best.state_dict(), whole.best.state_dict())
    assert same_bits(again.model.state_dict(), whole.model.state_dict())
    assert again.evaluation == whole.evaluation
    extra = {1, 5, 9} - {row["step"] for row in whole.history}
    assert [row for row in measured(again.history) if row["step"] not in extra] == measured(whole.history)


def test_so_does_its_patience(tmp_path, monkeypatch, interrupt):
    scripted(monkeypatch, [5.0, 4.0, 6.0])
    undo = interrupt(5)
    with pytest.raises(training.TrainingInterrupted):
        run(tmp_path, patience=2)
    undo()
    scripted(monkeypatch, [7.0])
    done = run(tmp_path, resume=True, patience=2)
    assert (done.step, done.best_step) == (6, 2)
    again = run(tmp_path, resume=True, patience=2)  # it is over
    assert (again.step, again.best_step, again.stopped) == (6, 2, done.stopped)
    assert again.evaluation == done.evaluation
    scripted(monkeypatch, [7.0, 8.0])
    assert run(tmp_path, resume=True, patience=4).step == 10


@pytest.mark.parametrize("bad", [torch.zeros(3, dtype=torch.float64), torch.zeros(4), None])
def test_a_checkpoint_without_the_best_is_refused(bad, tmp_path):
    run(tmp_path, max_steps=2)
    found = checkpoint.read_newest(tmp_path)
    tensors = {name: value for name, value in found.tensors.items() if name != "log.best"}
    checkpoint.write(found.path, tensors | ({} if bad is None else {"log.best": bad}), found.metadata)
    with pytest.raises(training.CheckpointError, match=r"must hold four numbers of float64 as log\.best, got"):
        run(tmp_path, resume=True)


def test_a_division_of_another_kind_is_another_run(tmp_path):
    run(tmp_path, max_steps=2)
    with pytest.raises(training.CheckpointError, match=r"validation = 0.3 to go on from, got 0.2"):
        run(tmp_path, resume=True, validation=0.3)


def test_a_folder_with_nothing_but_the_best_is_not_written_over(tmp_path):
    run(tmp_path, max_steps=2)
    checkpoint.paths(tmp_path)[0].unlink()
    with pytest.raises(ValueError, match=r"folder must hold no best.safetensors, got some in .*; pass resume=True"):
        run(tmp_path, max_steps=2)


def test_turns_without_intervals_are_a_function_of_steps():
    """A few per cent of the time: 20 times as many samples are trained on as evaluated, and 50 steps at least."""
    few, many = Batch(torch.zeros(5, 2)), Batch(torch.zeros(6000, 2))
    config = make_config(validation=0.1, batch_size=32)
    assert [step for step in range(1, 201) if selection.Selection(config, few, 4).is_due(step, False)] == [
        50,
        100,
        150,
        200,
    ]
    due = [step for step in range(1, 8000) if selection.Selection(config, many, 1687).is_due(step, False)]
    assert due == [3750, 7500]
    assert selection.Selection(config.replace(eval_steps=7), few, 4).is_due(3, True)


def test_labels_have_an_error_that_decides(tmp_path):
    done = run(tmp_path / "c", "classifier")
    assert {row["validation_error_percent"] is None for row in done.history} == {False}
    best = min(done.history, key=lambda row: row["validation_error_percent"])
    assert done.best_step == best["step"]  # the first of equal ones
    hybrid = make_model("hybrid")
    assert training.task_of(hybrid).decisive == "bits_per_dim"
    assert training.task_of(hybrid, 0.0).decisive == "error_percent"


def test_training_does_not_notice(tmp_path):
    """Apart from the samples it has: evaluations take nothing from any generator, and change no weight."""
    often = run(tmp_path / "often", eval_steps=1)
    seldom = run(tmp_path / "seldom", eval_steps=12)
    assert same_bits(often.model.state_dict(), seldom.model.state_dict())


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_fractions_out_of_range(value):
    with pytest.raises(ValueError, match=r"validation must be in \[0, 1\), got"):
        make_config(validation=value)


def test_patience_needs_a_part():
    with pytest.raises(ValueError, match=r"patience must be None without a validation part, got 3; pass e.g"):
        make_config(patience=3)
    with pytest.raises(ValueError, match=r"patience must be at least 1, got 0"):
        make_config(validation=0.1, patience=0)


def test_a_model_is_not_changed_by_keeping_it(tmp_path):
    """What is kept is a copy, in eval mode."""
    chosen = selection.Selection(make_config(validation=0.2), Batch(torch.zeros(3, 2)), 4)
    model = make_model().eval()
    state = copy.deepcopy(model.state_dict())
    assert chosen.add(model, 2.0, 0, 0.0)
    assert not chosen.add(make_model(), 2.0, 1, 0.1)
    assert not chosen.add(make_model(), math.nan, 2, 0.2)
    assert (chosen.n_worse, chosen.step) == (2, 0)
    assert same_bits(chosen.model.state_dict(), state)
