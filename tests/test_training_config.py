"""The recipe of a run: its fields and its schedule."""

import dataclasses
import json

import pytest
import torch
from training_examples import make_config

from iresnet_fast import training
from iresnet_fast.models._config import _decode
from iresnet_fast.training import schedule

EVERYTHING = {
    "batch_size": 32,
    "optimizer": "adamw",
    "learning_rate": 2e-3,
    "betas": (0.8, 0.99),
    "weight_decay": 0.1,
    "clip": None,
    "accumulate": 4,
    "warmup_steps": 10,
    "decay": "cosine",
    "decay_start": 0.3,
    "decay_at": (0.5, 0.75),
    "decay_factor": 0.1,
    "restarts": 2,
    "ema": None,
    "max_steps": 100,
    "max_epochs": 3,
    "max_minutes": 0.5,
    "shift": 2,
    "shift_padding": "reflect",
    "flip": True,
    "initial_samples": 100,
    "eval_minutes": 0.1,
    "eval_steps": 50,
    "eval_samples": None,
    "log_steps": 7,
    "checkpoint_minutes": 0.2,
    "checkpoint_steps": 30,
    "keep": 5,
    "validation": 0.2,
    "patience": 4,
    "class_weights": "balanced",
    "density_weight": 0.25,
    "seed": 9,
}


def test_round_trip_through_json():
    for config in (training.TrainConfig(**EVERYTHING), training.TrainConfig(max_steps=1)):
        again = training.TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config
        assert all(type(getattr(again, name)) is type(getattr(config, name)) for name in EVERYTHING)  # tuples too
    # every field was another than its default, so that none can be forgotten
    assert set(EVERYTHING) == {field.name for field in dataclasses.fields(training.TrainConfig)}
    default = training.TrainConfig(max_steps=1)
    assert [name for name, value in EVERYTHING.items() if getattr(default, name) == value] == []
    assert _decode({"type": "TrainConfig", **default.to_dict()}) == default  # it can be part of another configuration


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"max_steps": None}, ValueError, "max_steps, max_epochs or max_minutes must be given, got none of them; pass"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer, got 2.5"),
        (
            {"optimizer": "lion"},
            ValueError,
            "optimizer must be one of 'adam', 'adamw', 'adamax', 'rmsprop', 'sgd', got 'lion'; use",
        ),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be positive and finite, got 0.0; pass e.g. 0.001"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be positive and finite, got nan"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be a number, got 'fast'"),
        ({"clip": -1.0}, ValueError, "clip must be positive and finite, got -1.0; pass e.g. 1.0"),
        ({"max_minutes": float("inf")}, ValueError, "max_minutes must be positive and finite, got inf; pass e.g. 2.0"),
        ({"checkpoint_minutes": 0}, ValueError, "checkpoint_minutes must be positive and finite, got 0"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be finite and not negative, got -0.1; pass e.g. 0.0"),
        ({"density_weight": -1.0}, ValueError, "density_weight must be finite and not negative, got -1.0"),
        ({"decay_start": 1.5}, ValueError, r"decay_start must be in \[0, 1\], got 1.5; pass e.g. 0.6"),
        ({"ema": 1.0}, ValueError, r"ema must be in \[0, 1\) or None, got 1.0; pass e.g. 0.999"),
        (
            {"betas": (0.9, 0.99), "optimizer": "sgd"},
            ValueError,
            r"betas must be None for 'sgd', an optimizer without, got \(0.9, 0.99\); leave them out\.$",
        ),
        ({"betas": (0.9, 0.99), "optimizer": "rmsprop"}, ValueError, "betas must be None for 'rmsprop', an optimizer"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas must be two numbers in \[0, 1\) or None, got \(0.9, 1.0\); pass"),
        ({"betas": [-0.1, 0.9]}, ValueError, r"betas must be two numbers in .*, got \(-0.1, 0.9\)"),
        ({"betas": (0.9,)}, ValueError, r"betas must be two numbers in .*, got \(0.9,\); pass e.g. \(0.9, 0.99\)"),
        ({"betas": 0.9}, ValueError, "betas must be two numbers in .*, got 0.9; pass"),
        ({"betas": ("a", 0.9)}, ValueError, r"betas must be two numbers in .*, got \('a', 0.9\); pass"),
        ({"accumulate": 0}, ValueError, "accumulate must be at least 1, got 0"),
        ({"accumulate": 1.5}, TypeError, "accumulate must be an integer, got 1.5"),
        ({"decay": "exp"}, ValueError, "decay must be one of 'linear', 'steps', 'cosine', got 'exp'; use one of them"),
        (
            {"decay_at": ()},
            ValueError,
            r"decay_at must hold different numbers in \[0, 1\), one at least, got \(\); pass",
        ),
        ({"decay_at": (0.5, 1.0)}, ValueError, r"decay_at must hold different numbers in .*, got \(0.5, 1.0\); pass"),
        ({"decay_at": (0.5, 0.5)}, ValueError, r"decay_at must hold different numbers in .*, got \(0.5, 0.5\); pass"),
        ({"decay_at": 0.5}, ValueError, "decay_at must hold different numbers in .*, got 0.5; pass"),
        ({"decay_factor": 1.0}, ValueError, r"decay_factor must be in \(0, 1\), got 1.0; pass e.g. 0.2"),
        ({"decay_factor": "half"}, TypeError, "decay_factor must be a number, got 'half'"),
        ({"restarts": 0}, ValueError, "restarts must be at least 1, got 0"),
        ({"shift_padding": "edge"}, ValueError, "shift_padding must be one of 'zeros', 'reflect', got 'edge'; use one"),
        ({"flip": 1}, TypeError, "flip must be True or False, got 1"),
        ({"keep": 0}, ValueError, "keep must be at least 1, got 0"),
        ({"eval_steps": 0}, ValueError, "eval_steps must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"speed": 1}, ValueError, "TrainConfig must have keys of batch_size, .*, got 'speed'; remove or rename"),
    ],
)
def test_bad_fields_are_sentences(changes, error, message):
    with pytest.raises(error, match=message):
        training.TrainConfig.from_dict({"max_steps": 1, **changes})


def test_learning_rate_rises_stays_and_falls():
    config = make_config(learning_rate=0.5, warmup_steps=4, decay_start=0.6, max_steps=20)
    rates = [schedule.learning_rate(config, step, schedule.progress(config, step, 5, 0.0)) for step in range(21)]
    expected = [0.125, 0.25, 0.375] + [0.5] * 10 + [0.5 * (20 - step) / 8 for step in range(13, 21)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert max(rates) == 0.5  # never above it
    assert rates[20] == 0.0  # nothing is left of it at the end


@pytest.mark.parametrize("warmup_steps", [0, 1, 5, 1000])
@pytest.mark.parametrize("decay_start", [0.0, 0.5, 1.0])
def test_the_rate_is_never_exceeded(warmup_steps, decay_start):
    config = make_config(learning_rate=0.1, warmup_steps=warmup_steps, decay_start=decay_start, max_steps=50)
    rates = [schedule.learning_rate(config, step, step / 50) for step in range(50)]
    assert all(0.0 < rate <= 0.1 for rate in rates)
    assert schedule.learning_rate(config, 60, 1.2) == (
        min(61 / max(warmup_steps, 1), 1) * 0.1 if decay_start == 1.0 else 0
    )


def test_steps_lower_the_rate_at_fractions_of_the_budget():
    """As i-ResNet's classifiers: a fifth each after 60, 120 and 160 of 200 epochs."""
    config = make_config(learning_rate=0.1, warmup_steps=0, decay="steps", max_steps=None, max_epochs=200)
    epochs = [0, 59, 60, 119, 120, 159, 160, 199]
    for per_epoch in (1, 3, 390):
        firsts = [schedule.learning_rate(config, e * per_epoch, e * per_epoch / (200 * per_epoch)) for e in epochs]
        assert firsts == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008], rel=1e-12)
    other = config.replace(decay_at=(0.75, 0.5), decay_factor=0.5)
    assert [schedule.learning_rate(other, 9, p / 8) for p in range(9)] == [0.1] * 4 + [0.05] * 2 + [0.025] * 3


@pytest.mark.parametrize("restarts", [1, 3])
def test_cosine_falls_from_the_start_of_every_period(restarts):
    """The rates are those of torch's schedulers."""
    config = make_config(learning_rate=0.5, warmup_steps=0, decay="cosine", decay_start=0.25, restarts=restarts)
    period = 48 // restarts
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, period)
    expected = [0.5] * 16
    for _ in range(48):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    rates = [schedule.learning_rate(config, step, step / 64) for step in range(64)]
    assert rates == pytest.approx(expected, abs=1e-12)
    assert schedule.learning_rate(config, 64, 1.0) == schedule.learning_rate(config, 70, 1.1) == 0.0
    constant = config.replace(decay_start=1.0)
    assert {schedule.learning_rate(constant, step, step / 64) for step in range(65)} == {0.5}


def test_progress_is_that_of_the_budget_nearest_to_its_end():
    config = make_config(max_steps=100, max_epochs=4, max_minutes=2.0)
    assert schedule.progress(config, 30, 10, 0.5) == 0.75  # 3 of 4 epochs
    assert schedule.progress(config, 30, 100, 0.5) == 0.3
    assert schedule.progress(config, 30, 100, 1.5) == 0.75
    assert schedule.progress(make_config(max_steps=None, max_minutes=2.0), 30, 10, 0.5) == 0.25
