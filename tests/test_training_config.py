"""The recipe of a run: its fields, its schedule, the batches it makes, and what it asks of model and data."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_examples import make_config, make_data, make_model

from iresnet_fast import training
from iresnet_fast.data import DataSet
from iresnet_fast.models import FlowConfig, IResNetFlow
from iresnet_fast.models._config import _decode
from iresnet_fast.training import batches, schedule
from iresnet_fast.training.tasks import set_data_levels

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


def numbered(n, shape=(2,)):
    """A data set whose samples hold their number."""
    x = torch.arange(n, dtype=torch.float32).view(n, *(1 for _ in shape)).expand(n, *shape).clone()
    return DataSet("numbers", x, x[:1])


def test_an_epoch_shows_every_sample_once_but_the_last_incomplete_batch():
    made = batches.Batches(numbered(23), make_config(batch_size=5), torch.device("cpu"))
    assert made.per_epoch == 4
    epochs = [torch.stack([made(step)[0][:, 0] for step in range(4 * e, 4 * e + 4)]).flatten() for e in range(3)]
    assert all(len(set(epoch.tolist())) == 20 for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    left_out = [set(range(23)) - set(map(int, epoch.tolist())) for epoch in epochs]
    assert left_out[0] != left_out[1] or left_out[1] != left_out[2]  # others every time
    again = batches.Batches(numbered(23), make_config(batch_size=5), torch.device("cpu"))
    assert torch.equal(again(9)[0], made(9)[0])  # asked for out of order
    other = batches.Batches(numbered(23), make_config(batch_size=5, seed=1), torch.device("cpu"))
    assert not torch.equal(other(0)[0], made(0)[0])


def test_labels_go_with_their_samples():
    data = make_data("images")
    x, labels = batches.Batches(data, make_config(), torch.device("cpu"))(1)
    assert x.dtype == torch.uint8
    assert torch.equal(x.float().mean((1, 2, 3)).sub(2.0).div(4.0).round().long(), labels)  # brightness tells the class


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_a_batch(world, monkeypatch):
    whole = batches.Batches(numbered(23), make_config(batch_size=6), torch.device("cpu"))(2)[0]
    parts = []
    monkeypatch.setattr(batches.distributed, "world_size", lambda: world)
    for rank in range(world):
        monkeypatch.setattr(batches.distributed, "rank", lambda rank=rank: rank)
        parts.append(batches.Batches(numbered(23), make_config(batch_size=6), torch.device("cpu"))(2)[0])
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)
    with pytest.raises(
        ValueError, match=f"batch_size must be divisible by {world}, the number of processes, got 7; cha"
    ):
        batches.Batches(numbered(23), make_config(batch_size=7), torch.device("cpu"))


def test_random_numbers_differ_between_steps_seeds_and_ranks(monkeypatch):
    drawn = []
    for seed in (0, 1):
        for step in (0, 1):
            for rank in (0, 1):
                monkeypatch.setattr(batches.distributed, "rank", lambda rank=rank: rank)
                batches.seed_step(seed, step)
                drawn.append(torch.rand(()).item())
                batches.seed_step(seed, step)
                assert torch.rand(()).item() == drawn[-1]
    assert len(set(drawn)) == len(drawn)


def test_seeding_is_that_of_torch():
    batches._manual_seed(2**64 - 1)
    ours = torch.rand(3)
    torch.manual_seed(2**64 - 1)
    assert torch.equal(torch.rand(3), ours)


def moved(image, down, right):
    """The image moved by so many pixels and filled up with 0, by numpy."""
    height, width = image.shape[1:]
    big = np.pad(image, ((0, 0), (height, height), (width, width)))
    return big[:, height - down : 2 * height - down, width - right : 2 * width - right]


def test_shifts_move_images_and_fill_up_with_zero():
    x = torch.randint(1, 200, (64, 3, 5, 4), dtype=torch.uint8)
    made = batches._shifted(x, 2)
    assert made.dtype == torch.uint8
    seen = set()
    for before, after in zip(x.numpy(), made.numpy(), strict=True):
        fits = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if np.array_equal(moved(before, i, j), after)]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 15  # of 25


def test_flips_mirror_about_half_of_the_images():
    data = make_data("images")
    data = dataclasses.replace(data, train=torch.randint_like(data.train, 17))
    config = make_config(batch_size=36)
    torch.manual_seed(0)
    plain = batches.Batches(data, config, torch.device("cpu"))(0)[0]
    flipped = batches.Batches(data, config.replace(flip=True), torch.device("cpu"))(0)[0]
    kinds = [
        (torch.equal(a, b), torch.equal(a.flip(2), b)) for a, b in zip(plain, flipped, strict=True)
    ]  # left as it is, or mirrored left to right
    assert set(kinds) == {(True, False), (False, True)}
    assert 8 < sum(mirrored for _, mirrored in kinds) < 28


def test_augmentation_is_for_images():
    with pytest.raises(
        ValueError, match="shift and flip must be off for vectors like those of curve, got shift = 1 and"
    ):
        batches.Batches(make_data(), make_config(shift=1), torch.device("cpu"))


def test_a_batch_larger_than_the_data_is_a_sentence():
    with pytest.raises(
        ValueError, match="batch_size must be at most 50, the training samples of curve, got 51; lower it"
    ):
        batches.Batches(make_data(), make_config(batch_size=51), torch.device("cpu"))


def test_evaluations_look_at_the_same_test_samples_in_all_runs():
    rows = batches.test_subset(numbered_test(20), make_config(eval_samples=7))
    assert len(set(rows.tolist())) == 7
    assert sorted(rows.tolist()) != list(range(7))  # the first ones of a test set are not like the others
    assert torch.equal(rows, batches.test_subset(numbered_test(20), make_config(eval_samples=7, seed=5)))
    assert len(batches.test_subset(numbered_test(20), make_config(eval_samples=None))) == 20
    assert len(batches.test_subset(numbered_test(20), make_config(eval_samples=70))) == 20


def numbered_test(n):
    data = numbered(n)
    return dataclasses.replace(data, test=data.train)


# --- tasks ---


@pytest.mark.filterwarnings("ignore:iresnet_fast. evaluation of an ActNorm")
def test_losses_are_those_of_their_definition():
    plane, images = make_data(), make_data("images")
    x, labels = images.train[:8], images.train_labels[:8]

    flow = make_model().eval()
    task = training.task_of(flow)
    assert task.metrics == ("nats",)
    torch.testing.assert_close(task.loss(task.inputs(plane.train), None), -flow.log_prob(plane.train).mean())

    flow = make_model("flow").eval()
    task = training.task_of(flow)
    assert task.metrics == ("bits_per_dim",)
    expected = -flow.log_prob(x).mean() / 64 / np.log(2.0)
    torch.testing.assert_close(task.loss(task.inputs(x), None), expected)

    classifier = make_model("classifier").eval()
    set_data_levels(classifier, images.n_levels)
    task = training.task_of(classifier)
    assert task.metrics == ("error_percent",)
    expected = F.cross_entropy(classifier(x.float() / 16.0 - 0.5), labels)
    torch.testing.assert_close(task.loss(task.inputs(x), labels), expected)

    hybrid = make_model("hybrid").eval()
    task = training.task_of(hybrid, 0.25)
    assert task.metrics == ("bits_per_dim", "error_percent")
    logits, log_prob = hybrid(x)
    expected = (F.cross_entropy(logits, labels) - 0.25 * log_prob.mean()) / np.log(2.0)
    torch.testing.assert_close(task.loss(task.inputs(x), labels), expected)


def test_a_classifier_must_know_the_levels_of_whole_numbers():
    classifier = make_model("classifier")
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(training.task_of(classifier).inputs(x), x)
    with pytest.raises(
        ValueError, match="x must be of floating point for a classifier that comes neither from fit nor"
    ):
        training.task_of(classifier).inputs(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


def test_models_without_a_task():
    with pytest.raises(
        TypeError, match="model must be an IResNetFlow, IResNetClassifier or HybridIResNet, got Linear; p"
    ):
        training.task_of(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="context_features must be 0, got 3; a data set has no context: write"):
        training.task_of(IResNetFlow(FlowConfig((2,), blocks=(1,), context_features=3)))


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (
            "plane",
            "images",
            r"event_shape of the model must be \(1, 8, 8\), that of stripes, got \(2,\); build the model",
        ),
        ("classifier", "plane", r"image_shape of the model must be \(2,\), that of curve, got \(1, 8, 8\); build"),
        ("levels", "images", "n_levels of the model must be 17, that of stripes, got 256; build"),
        ("classes", "images", "n_classes of the model must be 3, that of stripes, got 10; build"),
        ("hybrid", "unlabelled", "n_classes of the model must be None, that of stripes, got 3; build"),
    ],
)
def test_a_model_for_other_data_is_a_sentence(kind, data, message):
    data = make_data("plane" if data == "plane" else "images") if data != "unlabelled" else unlabelled()
    if kind == "levels":
        model = IResNetFlow.preset("digits", blocks=(1,), n_levels=256)
    elif kind == "classes":
        model = type(make_model("classifier")).preset("digits", blocks=(1, 1))
    else:
        model = make_model(kind)
    with pytest.raises(ValueError, match=message):
        training.task_of(model).check(data)


def unlabelled():
    return dataclasses.replace(make_data("images"), train_labels=None, test_labels=None, n_classes=None)
