"""The recipe of a run: its fields and its schedule."""

import dataclasses
import json

import pytest
from training_examples import make_config

from iresnet_fast import training
from iresnet_fast.models._config import _decode
from iresnet_fast.training import schedule

EVERYTHING = {
    "batch_size": 32,
    "optimizer": "adamw",
    "learning_rate": 2e-3,
    "weight_decay": 0.1,
    "clip": None,
    "warmup_steps": 10,
    "decay_start": 0.3,
    "ema": None,
    "max_steps": 100,
    "max_epochs": 3,
    "max_minutes": 0.5,
    "shift": 2,
    "flip": True,
    "initial_samples": 100,
    "eval_minutes": 0.1,
    "eval_steps": 50,
    "eval_samples": None,
    "log_steps": 7,
    "checkpoint_minutes": 0.2,
    "checkpoint_steps": 30,
    "keep": 5,
    "density_weight": 0.25,
    "seed": 9,
}


def test_round_trip_through_json():
    for config in (training.TrainConfig(**EVERYTHING), training.TrainConfig(max_steps=1)):
        assert training.TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
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
            "optimizer must be one of 'adam', 'adamw', 'adamax', 'sgd', got 'lion'; use",
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


def test_progress_is_that_of_the_budget_nearest_to_its_end():
    config = make_config(max_steps=100, max_epochs=4, max_minutes=2.0)
    assert schedule.progress(config, 30, 10, 0.5) == 0.75  # 3 of 4 epochs
    assert schedule.progress(config, 30, 100, 0.5) == 0.3
    assert schedule.progress(config, 30, 100, 1.5) == 0.75
    assert schedule.progress(make_config(max_steps=None, max_minutes=2.0), 30, 10, 0.5) == 0.25
