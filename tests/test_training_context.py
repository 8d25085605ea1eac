"""Training on a data set with a context: rows stay together, the flow learns what it depends on, a resume is exact."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from training_examples import make_config, make_data, make_model, measured, same_bits

from iresnet_fast import training
from iresnet_fast.data import DataError, DataSet
from iresnet_fast.models import FlowConfig, HybridConfig, HybridIResNet, IResNetFlow
from iresnet_fast.training import batches, checkpoint, distributed
from iresnet_fast.training.samples import samples_at

pytestmark = pytest.mark.usefixtures("one_thread")

SLOPE, NOISE = torch.tensor([[2.0, 0.0], [0.0, -1.0], [1.0, 1.0]]), 0.5  # x = context @ SLOPE + NOISE * normal


def linear(n=2000, n_test=1000):
    """Normal points whose mean is linear in a normal context."""
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(n + n_test, 3, generator=generator)
    x = context @ SLOPE + NOISE * torch.randn(n + n_test, 2, generator=generator)
    context = 10.0 * context + 3.0
    return DataSet(
        "linear", x[:n], x[n:], train_context=context[:n], test_context=context[n:], context_names=("a", "b", "c")
    )


def flow(**changes):
    """A new flow for them, always with the same weights."""
    values = {"blocks": (2,), "hidden": (16, 16), "context_features": 3, "context_hidden": 16}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return IResNetFlow(FlowConfig((2,), **{**values, "context_preprocess": "standardize", **changes}))


def fit(model, data, folder, resume=False, **changes):
    return training.fit(model, data, make_config(**changes), folder, resume, show_progress=False)


def test_the_context_explains_what_it_can(tmp_path):
    """Held-out nats of both densities against their entropies, which are exact for normal variables."""
    given = math.log(2.0 * math.pi * math.e) + 2.0 * math.log(NOISE)  # of two dimensions: 1.45
    covariance = SLOPE.T @ SLOPE + NOISE**2 * torch.eye(2)
    alone = math.log(2.0 * math.pi * math.e) + 0.5 * float(torch.logdet(covariance))  # 4.06
    options = {"batch_size": 100, "max_steps": 300, "log_steps": 100, "learning_rate": 1e-2}
    data = linear()
    run = fit(flow(conditional_actnorm=True, prior="conditional"), data, tmp_path / "given", **options)
    nats, error = run.evaluation.metrics["nats"], run.evaluation.standard_errors["nats"]
    # No density is better than the entropy but by chance. Training has one step for each of some thousand parameters,
    # and loses a tenth of what the context is worth at most.
    assert given - 4.0 * error < nats < given + 0.1 * (alone - given) + 4.0 * error
    plain = dataclasses.replace(data, train_context=None, test_context=None, context_names=())
    run = fit(flow(context_features=0, context_preprocess="none"), plain, tmp_path / "alone", **options)
    assert run.evaluation.metrics["nats"] > alone - 4.0 * run.evaluation.standard_errors["nats"]
    assert run.evaluation.metrics["nats"] - nats > 0.8 * (alone - given)


def test_rows_keep_their_context():
    x = torch.arange(23.0)[:, None]
    data = DataSet("numbers", x, x, train_context=torch.cat((2.0 * x, -x), 1), test_context=torch.cat((x, x), 1))
    made = batches.Batches(data, make_config(batch_size=4, accumulate=2), torch.device("cpu"))
    for rows in (*map(made, range(8)), made.initial(), made.all()):
        assert torch.equal(rows.context, torch.cat((2.0 * rows.x, -rows.x), 1))
    few = batches.test_subset(data, make_config(eval_samples=5))
    test = batches.test_batch(data).rows(few)
    assert torch.equal(test.context, torch.cat((test.x, test.x), 1))
    assert len(test.x) == 5


def test_processes_share_the_contexts_as_the_rows(monkeypatch):
    x = torch.arange(24.0)[:, None]
    data = DataSet("numbers", x, x, train_context=2.0 * x, test_context=x)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: 3)
        parts.append(batches.Batches(data, make_config(batch_size=12), torch.device("cpu"))(1))
    assert all(torch.equal(part.context, 2.0 * part.x) for part in parts)
    assert len(torch.cat([part.x for part in parts]).unique()) == 12


def test_augmentation_leaves_the_context_alone():
    images = make_data("images")
    context = torch.arange(36.0)[:, None]
    data = dataclasses.replace(images, train_context=context, test_context=torch.zeros(12, 1))
    config = make_config(shift=2, flip=True)
    plain = batches.Batches(images, config, torch.device("cpu"))
    made = batches.Batches(data, config, torch.device("cpu"))
    for number in range(3):
        batches.seed_batch(0, number)
        expected = plain(number)
        batches.seed_batch(0, number)
        found = made(number)
        assert torch.equal(found.x, expected.x)  # no random number is drawn for it
        assert torch.equal(found.labels, found.context[:, 0].long() % 3)  # as the labels of these images are made


@pytest.mark.parametrize("changes", [{}, {"conditional_actnorm": True, "prior": "conditional"}], ids=["add", "all"])
def test_a_resumed_run_has_the_same_bits(tmp_path, changes):
    data = linear(100, 20)
    whole = fit(flow(**changes), data, tmp_path / "whole", checkpoint_steps=100, decay_start=1.0)
    fit(flow(**changes), data, tmp_path / "parts", max_steps=7, decay_start=1.0)
    again = fit(flow(**changes), data, tmp_path / "parts", resume=True, decay_start=1.0)
    assert again.step == whole.step == 12
    assert same_bits(again.model.state_dict(), whole.model.state_dict())
    assert same_bits(again.average.state_dict(), whole.average.state_dict())
    assert again.evaluation == whole.evaluation
    assert [row for row in measured(again.history) if row["step"] != 7][-1] == measured(whole.history)[-1]
    assert training.read_metadata(tmp_path / "parts")["data"]["context"] == ["a", "b", "c"]
    loaded = training.load_model(tmp_path / "whole" / checkpoint.MODEL_FILE)
    expected = whole.best.log_prob(data.test, data.test_context)
    assert torch.equal(loaded.log_prob(data.test, data.test_context), expected)
    other = dataclasses.replace(data, context_names=("a", "b", "d"))
    with pytest.raises(training.CheckpointError, match=r"must be of data with context = \['a', 'b', 'd'\] to go on"):
        fit(flow(**changes), other, tmp_path / "parts", resume=True, decay_start=1.0, max_steps=14)


def test_a_standardising_flow_takes_the_statistics_of_the_training_part(tmp_path):
    data = linear(100, 20)
    model = fit(flow(), data, tmp_path, max_steps=1).model
    scaled = model.context_preprocessing(data.train_context)[0]
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(scaled.var(0, correction=0), torch.ones(3))


def test_a_hybrid_with_a_context(tmp_path):
    images = make_data("images")
    data = dataclasses.replace(
        images, train_context=images.train_labels[:, None].float(), test_context=images.test_labels[:, None].float()
    )
    config = IResNetFlow.preset_config("digits", blocks=(1,), hidden=(6, 6), preactivation=False, context_features=1)
    run = fit(HybridIResNet(HybridConfig(config, n_classes=3, head_hidden=4)), data, tmp_path, max_steps=2)
    assert run.evaluation.n == 12
    assert all(np.isfinite(value) for value in run.evaluation.metrics.values())


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (
            lambda: flow(),
            lambda: make_data(),
            "context_features of the model must be 0, that of curve, got 3; build the",
        ),
        (
            lambda: make_model("plane"),
            lambda: linear(100, 20),
            "context_features of the model must be 3, that of linear, got 0; build the model for the data",
        ),
        (
            lambda: make_model("classifier"),
            lambda: dataclasses.replace(
                make_data("images"), train_context=torch.zeros(36, 1), test_context=torch.zeros(12, 1)
            ),
            "train_context of stripes must be None for a classifier, got one of width 1; leave it out, or train a flow",
        ),
    ],
    ids=["flow", "data", "classifier"],
)
def test_a_mismatch_is_a_sentence_before_anything_is_written(model, data, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(model(), data(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluate():
    data, model = linear(100, 20), flow().eval()
    model.initialize(data.train, data.train_context)
    found = training.evaluate(model, data.test, context=data.test_context, batch_size=7)
    with torch.no_grad():
        expected = -model.log_prob(data.test, data.test_context).double()
    assert found.metrics["nats"] == pytest.approx(float(expected.mean()), rel=1e-6)
    for context, message in (
        (None, r"context must have shape \(20, 3\) for this model, got None; pass a row for each sample"),
        (data.test_context[:5], r"context must have shape \(20, 3\) for this model, got shape \(5, 3\)"),
        (data.test_context / 0.0, "context must be finite, got NaN or infinity in it; remove such samples"),
    ):
        with pytest.raises(ValueError, match=message):
            training.evaluate(model, data.test, context=context)
    with pytest.raises(TypeError, match=r"context must be a floating point tensor, got torch.int64"):
        training.evaluate(model, data.test, context=data.test_context.long())
    with pytest.raises(TypeError, match=r"context must be a torch.Tensor, got list; pass torch.tensor\(context\)"):
        training.evaluate(model, data.test, context=data.test_context.tolist())
    with pytest.raises(ValueError, match=r"context must be None for this model, got shape \(20, 3\)"):
        training.evaluate(make_model("plane"), data.test, context=data.test_context)


def test_samples_go_round_the_contexts():
    data, model = linear(100, 20), flow().eval()
    model.initialize(data.train, data.train_context)
    expected = model.sample(5, data.test_context[[0, 1, 2, 0, 1]], seed=3)
    assert torch.equal(samples_at(model, 5, data.test_context[:3], seed=3), expected)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"test_context": None},
            DataError,
            "test_context of linear must be given if and only if train_context is, got n",
        ),
        (
            {"train_context": None},
            DataError,
            "test_context of linear must be given if and only if train_context is, got o",
        ),
        (
            {"train_context": torch.zeros(9, 3)},
            DataError,
            r"train_context of linear must be float32 of shape \(100, con",
        ),
        (
            {"train_context": torch.zeros(100)},
            DataError,
            r"train_context of linear must be float32 of shape \(100, con",
        ),
        ({"train_context": torch.zeros(100, 0)}, DataError, "train_context of linear must be float32 of shape"),
        (
            {"train_context": torch.zeros(100, 3).double()},
            DataError,
            "a row of numbers for each event, got torch.float64",
        ),
        ({"test_context": torch.zeros(20, 2)}, DataError, r"test_context of linear must be float32 of shape \(20, 3\)"),
        (
            {"test_context": torch.full((20, 3), math.nan)},
            DataError,
            "test_context of linear must be finite, got 60 val",
        ),
        ({"test_context": [1.0]}, TypeError, "test_context of linear must be a torch.Tensor, got list"),
        (
            {"context_names": ("a",)},
            DataError,
            "context_names of linear must be as many as the context has columns, 3,",
        ),
        ({"context_names": "abc"}, TypeError, "context_names must be texts, got 'abc'; pass e.g."),
    ],
)
def test_errors_of_data_sets(changes, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(linear(100, 20), **changes)
